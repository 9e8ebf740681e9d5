"""The frozen parts that a branch is trained with: the backbone and the native text encoder."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import load_bridge, load_pipeline
from bridge_diffusion.generation.sources import locate_bridge, locate_model, locate_text_encoder
from bridge_diffusion.models.config import FAMILY_NAMES
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.backbone import Pipeline, backbone_of


def load_backbone(name: str | None) -> Pipeline:
    """The stock pipeline in float32, its safety checker left out: nothing is drawn for others.

    BridgeError for what is no whole text-to-image model.
    """
    source = locate_model(name) or str(name)
    pipe = load_pipeline(source, dtype=torch.float32, safety_checker=False)
    if not isinstance(pipe, Pipeline):
        raise BridgeError(
            f"--model {name} is a {type(pipe).__name__}; a branch is trained beside a "
            f"text-to-image model of {' or '.join(FAMILY_NAMES.values())} (for SDXL its base)"
        )
    for encoder in backbone_of(pipe).text_encoders:
        if getattr(pipe, encoder) is None:
            raise BridgeError(f"--model {name} has no {encoder}; give a whole model")
    return pipe


def load_text_encoder(names: str | Sequence[str], pipe: Pipeline) -> NativeTextEncoder:
    """A native text encoder for a backbone, in float32; of several names, side by side.

    It gives a pooled vector where the backbone's branch reads one.
    """
    located = [locate_text_encoder(n) for n in ([names] if isinstance(names, str) else names)]
    # A single folder may hold several models, or say how it encodes: it is no list of one.
    folders = located if len(located) > 1 else located[0]
    text = NativeTextEncoder.from_pretrained(folders, dtype=torch.float32)
    pooled = backbone_of(pipe).reads_pooled
    return NativeTextEncoder(text.model, text.tokenizer, replace(text.encoding, pooled=pooled))


def load_named_bridge(name: str) -> Bridge:
    """A bridge by its folder, hub name or language of the emoji world, in float32."""
    source = locate_bridge(name)
    if source is None:
        raise BridgeError(f"--bridge {name} is no bridge to start from; give one")
    return load_bridge(source, None, torch.float32)


def picture_size(size: int | None, pipe: Pipeline) -> int:
    """Side of the training pictures in pixels; the backbone's own if none is asked for.

    BridgeError if the nets cannot halve it often enough.
    """
    step = size_step(pipe)
    wanted = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    if wanted % step:
        raise BridgeError(f"--size is {wanted}, it must be a multiple of {step} for this backbone")
    return int(wanted)


def size_step(pipe: Pipeline) -> int:
    """What the sides of pictures must be a multiple of, pixels."""
    return int(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))
