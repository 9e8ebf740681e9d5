"""The frozen parts that a branch is trained with: the backbone and the native text encoder."""

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import load_bridge, load_pipeline
from bridge_diffusion.generation.sources import locate_bridge, locate_model, locate_text_encoder
from bridge_diffusion.models.config import family_of
from bridge_diffusion.text import NativeTextEncoder


def load_backbone(name: str | None) -> StableDiffusionPipeline:
    """The stock pipeline in float32, its safety checker left out: nothing is drawn for others."""
    source = locate_model(name) or str(name)
    pipe = load_pipeline(source, dtype=torch.float32, safety_checker=False)
    if not isinstance(pipe, StableDiffusionPipeline) or family_of(pipe.unet) != "sd15":
        raise BridgeError(
            f"--model {name} is a {type(pipe).__name__}; training knows the family of Stable "
            "Diffusion 1.5"
        )
    return pipe


def load_text_encoder(name: str | None, bridge: str | None) -> NativeTextEncoder:
    """A native text encoder by its own name, or that of a bridge, in float32."""
    if bridge is None:
        assert name is not None
        return NativeTextEncoder.from_pretrained(locate_text_encoder(name), dtype=torch.float32)
    return load_named_bridge(bridge).text_encoder


def load_named_bridge(name: str) -> Bridge:
    """A bridge by its folder, hub name or language of the emoji world, in float32."""
    source = locate_bridge(name)
    if source is None:
        raise BridgeError(f"--bridge {name} is no bridge to start from; give one")
    return load_bridge(source, None, torch.float32)


def picture_size(size: int | None, pipe: StableDiffusionPipeline) -> int:
    """Side of the training pictures in pixels; the backbone's own if none is asked for.

    BridgeError if the nets cannot halve it often enough.
    """
    step = size_step(pipe)
    wanted = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    if wanted % step:
        raise BridgeError(f"--size is {wanted}, it must be a multiple of {step} for this backbone")
    return int(wanted)


def size_step(pipe: StableDiffusionPipeline) -> int:
    """What the sides of pictures must be a multiple of, pixels."""
    return int(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))
