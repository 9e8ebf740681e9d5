"""From a request to the task of a text encoder that speaks to a bridge's branch."""

import dataclasses
import math
from typing import Any

import torch
from transformers import PreTrainedModel

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import locate_text_encoder
from bridge_diffusion.text import TextEncoding, families
from bridge_diffusion.text.from_scratch import new_bert, train_tokenizer
from bridge_diffusion.text.native import stored_encoding
from bridge_diffusion.training.branch_reading import BranchReading, asked_while_drawing
from bridge_diffusion.training.branch_text import BranchTextTask, TaughtStates
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.examples import cache_texts
from bridge_diffusion.training.parts import load_backbone, load_named_bridge
from bridge_diffusion.training.seeds import seeded
from bridge_diffusion.training.text_examples import parallel_hash, read_parallel_text
from bridge_diffusion.training.text_request import TextTrainRequest

_DRAWN = 16  # captions whose drawing says what the branch asks of texts
_MEASURED = 256  # captions that say how much a layer's readings differ


def branch_text_task(
    request: TextTrainRequest, device: str, *, show: bool
) -> tuple[BranchTextTask, dict[str, Any]]:
    """The task, and what must be the same when the run is continued.

    BridgeError for parts or data that do not fit, before anything is written.
    """
    assert request.parallel is not None
    assert request.bridge is not None
    pairs = read_parallel_text(request.parallel)[: request.limit]
    bridge = load_named_bridge(request.bridge).to(device)
    pipe = load_backbone(request.model).to(device)
    originals = list(dict.fromkeys(original for original, _ in pairs))
    with counting("encoding captions", len(originals) + 1, show=show) as count:
        store = cache_texts(request.cache_folder, originals, bridge.text_encoder, progress=count)
    examples = TaughtStates(
        store,
        pairs,
        batch_size=request.batch_size,
        seed=request.seed,
        hold_out=request.hold_out,
    )
    encoder, tokenizer, encoding = _starting_encoder(request, examples, bridge)
    # Drawn on the CPU's generators, so every process asks the same.
    queries = asked_while_drawing(pipe, bridge, _spread(originals, _DRAWN), seed=request.seed)
    reading = BranchReading(bridge.branch.requires_grad_(False), queries)
    states = examples.states(_spread(originals, _MEASURED))
    reading.measure(states.hidden.to(device), states.mask.to(device))
    task = BranchTextTask(
        encoder,
        tokenizer,
        _config(request, bridge, encoding, len(pairs)),
        bridge,
        reading,
        examples,
        export_dtype=torch.float16 if request.export_precision == "fp16" else torch.float32,
    )
    details = {
        "data": f"{parallel_hash(pairs)} read by {module_hash(bridge.text_encoder.model)}",
        "branch": module_hash(bridge.branch),
        "backbone": module_hash(pipe.unet),
        "hold_out": request.hold_out,
        "limit": request.limit,
        "starting_encoder": module_hash(encoder),
        "text_encoding": encoding.to_json(),
    }
    return task, details


def _spread(texts: list[str], count: int) -> list[str]:
    """So many of the texts, or all, from the first to the last."""
    return texts[:: math.ceil(len(texts) / count)]


def _starting_encoder(
    request: TextTrainRequest, examples: TaughtStates, bridge: Bridge
) -> tuple[PreTrainedModel, Any, TextEncoding]:
    """The text encoder to train, its tokenizer, and how it will be used."""
    width = bridge.branch.native_width
    if request.start is not None:
        folder = families.model_folder(locate_text_encoder(request.start))
        encoding = stored_encoding(folder) or TextEncoding(family=families.family_of(folder))
        if request.window is not None:
            encoding = dataclasses.replace(encoding, window=request.window)
        encoder = families.FAMILIES[encoding.family](folder, torch.float32)
        if encoder.config.hidden_size != width:
            raise BridgeError(
                f"--start {request.start} gives states of width {encoder.config.hidden_size}, the "
                f"branch of --bridge {request.bridge} reads {width}; give another or none"
            )
        return encoder, families.load_tokenizer(folder, encoding.family), encoding
    window = bridge.config.text_encoding.window if request.window is None else request.window
    windows = bridge.config.text_encoding.max_windows
    encoding = TextEncoding(family="bert", window=window, max_windows=windows)
    tokenizer = train_tokenizer(examples.captions(), vocabulary=request.vocabulary)
    with seeded(request.seed):
        # Without dropout: the states themselves are learned, and each has to be right.
        encoder = new_bert(
            tokenizer, width=width, layers=request.layers, positions=window, dropout=0.0
        )
    return encoder, tokenizer, encoding


def _config(
    request: TextTrainRequest, bridge: Bridge, encoding: TextEncoding, pairs: int
) -> BridgeConfig:
    old = bridge.config
    return dataclasses.replace(
        old,
        text_encoding=encoding,
        languages=tuple(tag.strip() for tag in request.language.split(",") if tag.strip()),
        training_data=f"{old.training_data}; then {pairs} translated captions",
    )
