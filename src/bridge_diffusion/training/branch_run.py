"""From a request to a trained bridge: load the parts, encode the data, train."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.buckets import Shape, bucket_shapes
from bridge_diffusion.data.pairs import PairDataset, UnusablePair, fingerprint
from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.data.views import MixedPairs
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import choose_device
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.backbone import Pipeline, backbone_of
from bridge_diffusion.training.branch import BranchOptions, BranchTask
from bridge_diffusion.training.config import LoopConfig, seconds_in
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.examples import (
    CachedExamples,
    LiveExamples,
    cache_english,
    cache_pictures,
    cache_texts,
    captions_of,
    english_of,
)
from bridge_diffusion.training.grouped_order import GroupedOrder, weighted_groups
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.opening import open_data
from bridge_diffusion.training.order import Order
from bridge_diffusion.training.parts import load_backbone, picture_size, size_step
from bridge_diffusion.training.prepared import PreparedExamples, prepared_folder
from bridge_diffusion.training.probe import WorldProbe
from bridge_diffusion.training.processes import Processes, joined, own_device
from bridge_diffusion.training.recipes import BranchRecipe
from bridge_diffusion.training.report import finish_run
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.run_folder import check_run
from bridge_diffusion.training.starting import starting_bridge

_log = logging.getLogger(__name__)

_LOOKED_AT = 2000  # captions
_MANY_UNKNOWN = 0.05  # of them: some have a rare sign in every large set


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BranchRun:
    """How a call of `train_branch` ended."""

    result: TrainResult
    """The loop's own account."""
    pairs: int
    """Captioned pictures that were trained on."""
    skipped: dict[str, str]
    """Pictures that could not be read: why, by name."""


def train_branch(request: TrainRequest) -> BranchRun:
    """Train a branch as asked, or go on with a run that was stopped.

    BridgeError for parts, data or settings that do not fit, before anything is written.
    """
    device = own_device(choose_device(request.device))
    with joined(device, request.stall_minutes) as processes:
        return _train_together(request, device, processes)


def _train_together(request: TrainRequest, device: str, processes: Processes) -> BranchRun:
    recipe = request.resolved().on(device)
    config = loop_config(request, recipe, device, processes.count)
    probe = None
    if recipe.probe_pictures:
        probe = WorldProbe.of_data(
            [DataSpec.parse(text).place for text in request.data_specs],
            recipe.probe_pictures,
            steps=recipe.sample_steps,
            guidance=recipe.sample_guidance,
        )
    pipe = load_backbone(request.model)
    size = picture_size(recipe.size, pipe)
    data = _open(request, recipe, size)
    bridge = starting_bridge(request, pipe, len(data))
    if isinstance(data, PreparedExamples):
        data.check(pipe, bridge.text_encoder, size=request.size, buckets=request.buckets)
    prompts = request.sample_prompt or _sample_prompts(data, recipe.sample_pictures)
    details = _details(recipe, request, pipe, bridge, data) | {"sample_prompts": list(prompts)}
    check_run(config, details)
    options = _options(recipe, request.seed, prompts)
    try:
        pipe.to(device)
        bridge.text_encoder.to(device)
        examples: PreparedExamples | CachedExamples | LiveExamples
        if isinstance(data, PreparedExamples):
            examples = data
        elif recipe.cached:
            shapes = _shapes(request, size, pipe)
            with processes.first_alone():
                show = processes.is_first
                examples = _encode_once(
                    request.cache_folder, data, pipe, bridge, size, shapes, show
                )
        else:
            examples = LiveExamples(data, pipe, bridge.text_encoder, size=size)
        order = _order(data, examples, options)
        task = BranchTask(pipe, bridge, examples, options, order=order, device=device, probe=probe)
        result = train(task, config, details, processes)
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            f"a batch of {recipe.batch_size} pictures does not fit in the memory of {device}: give "
            "a smaller --batch-size, and --accumulate to keep the step as large"
        ) from error
    skipped = processes.merged(examples.skipped)
    if processes.is_first:
        finish_run(request.out, skipped)
    return BranchRun(result=result, pairs=len(examples), skipped=skipped)


def loop_config(
    request: TrainRequest, recipe: BranchRecipe, device: str, processes: int = 1
) -> LoopConfig:
    """The loop's part of a recipe, for so many processes."""
    shared = {field.name for field in dataclasses.fields(LoopConfig)}
    values = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name in shared
    }
    return LoopConfig(
        run_dir=request.out,
        seed=request.seed,
        time_limit=seconds_in(request.minutes),
        device=device,
        processes=processes,
        optimizer=request.optimizer,
        shard=request.shard,
        on_nan=request.on_nan,
        nan_limit=request.nan_limit,
        **values,
    )


def _options(recipe: BranchRecipe, seed: int, prompts: tuple[str, ...]) -> BranchOptions:
    assert recipe.frozen_precision != "auto"
    return BranchOptions(
        batch_size=recipe.batch_size,
        seed=seed,
        caption_dropout=recipe.caption_dropout,
        english_dropout=recipe.english_dropout,
        noise_offset=recipe.noise_offset,
        lora_rank=recipe.lora_rank,
        freeze=recipe.freeze,
        frozen_precision=recipe.frozen_precision,
        min_snr_gamma=recipe.min_snr_gamma,
        timestep_logit_mean=recipe.timestep_logit_mean,
        gradient_checkpointing=recipe.gradient_checkpointing,
        export_precision=recipe.export_precision,
        sample_prompts=prompts,
        sample_steps=recipe.sample_steps,
        sample_guidance=recipe.sample_guidance,
    )


def _shapes(request: TrainRequest, size: int, pipe: Pipeline) -> tuple[Shape, ...]:
    """The shapes of what is encoded once; none for squares of which nothing more is kept."""
    if request.buckets:
        return bucket_shapes(size, size_step(pipe))
    return ((size, size),) if backbone_of(pipe).reads_sizes else ()


def _open(request: TrainRequest, recipe: BranchRecipe, size: int) -> PairDataset | PreparedExamples:
    folder = prepared_folder(request.data_specs)
    if folder is not None:
        return PreparedExamples(folder, recipe.limit)
    return open_data(request.data_specs, size, request.seed, recipe.limit)


def _encode_once(
    cache: Path,
    dataset: PairDataset,
    pipe: Pipeline,
    bridge: Bridge,
    size: int,
    shapes: Sequence[Shape],
    show: bool,
) -> CachedExamples:
    with counting("encoding pictures", len(dataset), show=show) as count:
        pictures = cache_pictures(
            cache, dataset, pipe.vae, size=size, shapes=shapes, progress=count
        )
    captions = captions_of(pictures)
    with counting("encoding captions", len({"", *captions}), show=show) as count:
        texts = cache_texts(cache, captions, bridge.text_encoder, progress=count)
    _tell_not_known(bridge.text_encoder, captions)
    english = cache_english(cache, said, pipe) if (said := english_of(pictures)) else None
    return CachedExamples(pictures, texts, english)


def _tell_not_known(text: NativeTextEncoder, captions: Sequence[str]) -> None:
    """Warn of many captions that the text encoder cannot read; looks at some from all over."""
    different = list(dict.fromkeys(captions))
    some = different[:: math.ceil(len(different) / _LOOKED_AT) or 1]
    unknown = _not_known(text, some) if some else []
    if unknown and len(unknown) >= _MANY_UNKNOWN * len(some):
        _log.warning(
            "%d of %d captions have letters or words that the text encoder does not know, which "
            "all mean the same to it, such as %r: train it on texts that have them, or take "
            "another one",
            len(unknown),
            len(some),
            unknown[0],
        )


def _not_known(text: NativeTextEncoder, captions: Sequence[str]) -> list[str]:
    """The captions with a part that the tokenizer has no entry for: any such part is one to it."""
    unknown = text.tokenizer.unk_token_id
    ids = text.tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids
    return [caption for caption, own in zip(captions, ids, strict=True) if unknown in own]


def _sample_prompts(data: PairDataset | PreparedExamples, count: int) -> tuple[str, ...]:
    """Different captions from all over the data."""
    prompts: dict[str, None] = {}
    for index in range(0, len(data), max(1, len(data) // (4 * count or 1))):
        if len(prompts) == count:
            break
        if isinstance(data, PreparedExamples):
            prompts[data.captions(index)[0]] = None
            continue
        try:
            prompts[data[index].captions[0]] = None
        except UnusablePair:
            continue
    return tuple(prompts)


def _order(
    data: PairDataset | PreparedExamples,
    examples: PreparedExamples | CachedExamples | LiveExamples,
    options: BranchOptions,
) -> Order | None:
    """The order of pairs with weights, or of pictures of several shapes; None for the usual one."""
    mixed = data if isinstance(data, MixedPairs | PreparedExamples) else None
    weights = mixed.weights if mixed is not None else None
    sources = np.zeros(len(examples), dtype=np.int64)
    if isinstance(data, PreparedExamples):
        sources = data.sources
    elif isinstance(data, MixedPairs):
        sources = np.array([data.source_of(position) for position in examples.positions])
    found = () if isinstance(examples, LiveExamples) else examples.shapes
    numbers = {shape: number for number, shape in enumerate(sorted(set(found)))}
    if weights is None and len(numbers) < 2:
        return None
    shapes = np.array([numbers[shape] for shape in found], dtype=np.int64)
    return GroupedOrder(
        weighted_groups(
            sources if weights else np.zeros_like(sources),
            weights,
            shapes if len(shapes) else np.zeros_like(sources),
        ),
        batch_size=options.batch_size,
        caption_dropout=options.caption_dropout,
        english_dropout=options.english_dropout,
        seed=options.seed,
    )


def _data_identity(request: TrainRequest, data: PairDataset | PreparedExamples) -> Any:
    if request.world_data is not None:
        return request.world_data
    own = data.fingerprint if isinstance(data, PreparedExamples) else fingerprint(data)
    weights = data.weights if isinstance(data, MixedPairs) else None
    return own if weights is None else {"data": own, "weights": weights}


def _details(
    recipe: BranchRecipe,
    request: TrainRequest,
    pipe: Pipeline,
    bridge: Bridge,
    data: PairDataset | PreparedExamples,
) -> dict[str, Any]:
    """What must be the same when the run is continued. Hashes, so that folders may be moved."""
    # What is off is left out, so that runs of earlier versions can go on.
    names = ("english_dropout", "noise_offset", "lora_rank", "freeze")
    chosen = {name: value for name in names if (value := getattr(recipe, name))}
    if recipe.frozen_precision != "fp32":
        chosen["frozen_precision"] = recipe.frozen_precision
    return (
        chosen
        | {
            "caption_dropout": recipe.caption_dropout,
            "min_snr_gamma": recipe.min_snr_gamma,
            "timestep_logit_mean": recipe.timestep_logit_mean,
            "data": _data_identity(request, data),
            "size": recipe.size,
            "limit": recipe.limit,
            "backbone": module_hash(pipe.unet),
            "autoencoder": module_hash(pipe.vae),
            "text_encoder": module_hash(bridge.text_encoder.model),
            "text_encoding": bridge.text_encoder.encoding.to_json(),
            "starting_branch": module_hash(bridge.branch),
        }
        | ({"buckets": True} if request.buckets else {})
        | backbone_of(pipe).run_identity()
    )
