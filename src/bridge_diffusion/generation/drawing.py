"""Draw pictures: one generator a picture, so that each can be drawn again on its own."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
)
from PIL import Image

from bridge_diffusion.data.pairs import UnreadablePicture
from bridge_diffusion.data.pixels import read_picture
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.loading import OpenedModel
from bridge_diffusion.generation.record import describe
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.schedulers import make_scheduler
from bridge_diffusion.images.metadata import ImageMetadata

# Stock pipelines take sides that are multiples of 8, whatever the autoencoder's factor.
_STOCK_MULTIPLE = 8
_RANDOM_SEED_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A finished picture."""

    image: Image.Image
    """The picture, RGB."""
    seed: int
    """Its own seed."""
    metadata: ImageMetadata
    """What is written into its file: draws it again, bit for bit on the same machine."""
    blacked_out: bool
    """Whether the model's safety checker replaced it with black."""


def draw(opened: OpenedModel, request: GenerationRequest) -> Iterator[Drawing]:
    """Draw a request's pictures one after another, with the seeds counting up.

    Pictures are not batched: batched arithmetic differs in the last bits, and then a picture could
    not be drawn again on its own.

    Raises:
        BridgeError: The size does not fit, a picture cannot be read, or the result has NaN.
    """
    pipe, inputs = _pipeline_for(opened, request)
    seed = request.seed if request.seed is not None else secrets.randbits(_RANDOM_SEED_BITS)
    for index in range(request.n):
        single = replace(request, seed=seed + index, n=1)
        # A fresh scheduler a picture: some keep the history of their last run.
        pipe.scheduler = _scheduler(opened, request)
        # Prompted anew for each picture: a bridge's step window serves one run.
        image, blacked_out = _draw_one(pipe, single, inputs | _prompts(opened, request))
        yield Drawing(
            image=image,
            seed=seed + index,
            metadata=describe(opened, single, image.size),
            blacked_out=blacked_out,
        )


def _draw_one(
    pipe: Any,
    request: GenerationRequest,
    inputs: Mapping[str, Any],
) -> tuple[Image.Image, bool]:
    assert request.seed is not None
    generator = torch.Generator("cpu").manual_seed(request.seed)
    try:
        output = pipe(
            **inputs,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=generator,
            output_type="np",
        )
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            "the GPU's memory is not enough; try --offload, --dtype fp16 or a smaller --size"
        ) from error
    pixels = output.images[0]  # float 0..1
    if not np.isfinite(pixels).all():
        raise BridgeError(
            f"the picture of seed {request.seed} is not a number (NaN), so it was not saved; "
            "try --dtype fp32 (or bf16 on a GPU), and check the model with bdm doctor"
        )
    image = Image.fromarray((pixels * 255).round().astype("uint8"))  # uint8 0..255
    flagged = getattr(output, "nsfw_content_detected", None)
    return image, bool(flagged and flagged[0])


def _scheduler(opened: OpenedModel, request: GenerationRequest) -> Any:
    """The sampler over the model's noise schedule, with what the bridge expects of it."""
    expected = {} if opened.bridge is None else opened.bridge.config.scheduler
    scheduler = make_scheduler(request.scheduler, {**opened.pipe.scheduler.config, **expected})
    try:
        scheduler.set_timesteps(request.steps)
    except ValueError as error:
        raise BridgeError(
            f"--scheduler {request.scheduler} cannot draw in {request.steps} steps; give fewer"
        ) from error
    return scheduler


def _prompts(opened: OpenedModel, request: GenerationRequest) -> dict[str, Any]:
    """The pipeline's prompt arguments."""
    request = request.without_tags()
    if opened.bridge is None:
        return {"prompt": request.prompt, "negative_prompt": request.negative or None}
    return opened.bridge.prompt(
        request.prompt,
        negative=request.negative,
        english=request.english,
        negative_english=request.negative_english,
        scale=request.scale,
        start=request.start,
        end=request.end,
    )


def _pipeline_for(opened: OpenedModel, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    """The stock pipeline for a request's inputs, and these inputs."""
    pipe = opened.pipe
    size = _size(pipe, request)
    inputs: dict[str, Any] = {"width": size[0], "height": size[1]}
    inpainting_only = pipe.unet.config.in_channels != pipe.vae.config.latent_channels
    if inpainting_only and request.mask is None:
        raise BridgeError(
            f"the model {opened.model_name} only redraws inside a mask; "
            "give --init-image and --mask, or another --model"
        )
    if request.init_image is None:
        drawing = AutoPipelineForText2Image.from_pipe(pipe)
    else:
        inputs |= {"image": _open(request.init_image).resize(size), "strength": request.strength}
        if request.mask is None:
            drawing = AutoPipelineForImage2Image.from_pipe(pipe)
            del inputs["width"], inputs["height"]  # the initial picture tells them
        else:
            inputs["mask_image"] = _open(request.mask).convert("L").resize(size)
            drawing = AutoPipelineForInpainting.from_pipe(pipe)
    if request.control is not None:
        # Where there is an initial picture, stock pipelines call the other one so.
        name = "image" if request.init_image is None else "control_image"
        inputs[name] = _open(request.control).resize(size)
        inputs["controlnet_conditioning_scale"] = request.control_scale
    if request.ip_image is not None:
        inputs["ip_adapter_image"] = _open(request.ip_image)
    drawing.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return drawing, inputs


def _size(pipe: Any, request: GenerationRequest) -> tuple[int, int]:
    """Width and height of the picture, in pixels."""
    multiple = int(np.lcm(_STOCK_MULTIPLE, pipe.vae_scale_factor))
    if request.size is not None:
        size, asked = request.size, "--size"
    elif request.init_image is not None:
        size, asked = _open(request.init_image).size, "the initial picture"
    else:
        size, asked = _own_size(pipe), "the model's own size"
    if any(side % multiple for side in size):
        near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
        raise BridgeError(
            f"{asked} is {size[0]}x{size[1]}; both sides must be multiples of {multiple}: "
            f"try --size {near}"
        )
    return size


def _own_size(pipe: Any) -> tuple[int, int]:
    """Width and height that the model was trained at, in pixels."""
    sample = pipe.unet.config.sample_size
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


def _open(path: Path) -> Image.Image:
    """A picture as RGB, turned as its EXIF says, transparency laid on white."""
    if not path.exists():
        raise BridgeError(f"no picture at {path}; check the path")
    try:
        return read_picture(path, str(path))
    except UnreadablePicture as error:
        raise BridgeError(
            f"{path} cannot be read as a picture ({error.reason}); give a PNG, JPEG or WebP"
        ) from error
