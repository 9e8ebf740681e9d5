"""A plug-in on a stock pipeline for a while, by the community's own ways."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.plugins.kinds import Plugin, Thing


@contextmanager
def plugged(plugin: Plugin, root: Path | None, pipe: Any, backbone: nn.Module) -> Iterator[Any]:
    """Inside, the pipeline has the plug-in; afterwards it is exactly what it was.

    Gives the pipeline to draw with: the same one, or for a ControlNet one made of its parts, which
    takes the edges as `image`.

    A checkpoint is added as the community adds one to a model of its own, by "add difference":
    W + (W_checkpoint - W_backbone). On the backbone itself that is the checkpoint.

    Args:
        root: where `bdm world plugin --out` made it; None: as the package ships it.
        backbone: the UNet that the checkpoints were made from.

    Raises:
        BridgeError: the plug-in is missing, or does not fit.
    """
    path = plugin.weights(root)
    if plugin.kind == "checkpoint":
        with _difference_added(pipe.unet, path, backbone):
            yield pipe
    elif plugin.kind == "lora":
        pipe.load_lora_weights(path.parent, weight_name=path.name)
        try:
            yield pipe
        finally:
            pipe.unload_lora_weights()
    elif plugin.kind == "controlnet":
        net = ControlNetModel.from_pretrained(path, dtype=pipe.unet.dtype)
        controlled = StableDiffusionControlNetPipeline(
            **pipe.components, controlnet=net.to(pipe.device), requires_safety_checker=False
        )
        controlled.set_progress_bar_config(disable=True)
        yield controlled
    else:
        with _token_added(plugin.thing, path, pipe):
            yield pipe


@contextmanager
def _difference_added(unet: nn.Module, folder: Path, backbone: nn.Module) -> Iterator[None]:
    other = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=torch.float32)
    theirs, base = other.state_dict(), backbone.state_dict()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    if not theirs.keys() == base.keys() == before.keys():
        raise BridgeError(f"the checkpoint in {folder} is of another architecture than the model")
    # W and W_backbone share their storage where the pipeline is the backbone's: read, then write.
    sums = {
        name: before[name] + (theirs[name].to(value) - base[name].to(value))
        for name, value in before.items()
    }
    unet.load_state_dict(sums)
    try:
        yield
    finally:
        unet.load_state_dict(before)


@contextmanager
def _token_added(thing: Thing | None, path: Path, pipe: Any) -> Iterator[None]:
    """On copies of tokenizer and text encoder, since stock unloading renumbers other tokens."""
    assert thing is not None
    kept = pipe.tokenizer, pipe.text_encoder
    pipe.tokenizer, pipe.text_encoder = copy.deepcopy(kept[0]), copy.deepcopy(kept[1])
    try:
        pipe.load_textual_inversion(str(path.parent), weight_name=path.name, token=thing.trigger)
        yield
    finally:
        pipe.tokenizer, pipe.text_encoder = kept


def plugin_hash(plugin: Plugin, root: Path | None) -> str:
    """Of the weights that it consists of."""
    digest, path = hashlib.sha256(), plugin.weights(root)
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]
