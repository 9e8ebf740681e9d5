"""Draw pictures: one generator a picture, so that each can be drawn again on its own."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jaxtyping import Float
from PIL import Image
from torch import Tensor

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is known at the end of a denoising step."""

    number: int
    """How many steps are done."""
    of: int
    """How many there are in all."""
    pictures: tuple[int, ...]
    """Which of the request's pictures, or of the requests, the batch holds; counted from 0."""
    latents: Float[Tensor, "batch channels height width"]
    """The clean latents as the sampler foresees them where it keeps them, else the noisy ones."""


StepEnd = Callable[[Step], None]
"""Called at the end of each step; what it raises ends the drawing."""


def draw(
    opened: OpenedModel, request: GenerationRequest, step_end: StepEnd | None = None
) -> Iterator[Drawing]:
    """Draw a request's pictures one after another, with the seeds counting up.

    Pictures are not batched: batched arithmetic differs in the last bits, and then a picture could
    not be drawn again on its own.

    Raises:
        BridgeError: The size does not fit, a picture cannot be read, or the result has NaN.
    """
    pipe, inputs = _pipeline_for(opened, request)
    for index, single in enumerate(singles(request)):
        batch = {index: single}
        # Prompted anew for each picture: a bridge's step window serves one run.
        prompts = _prompts(opened, single)
        yield _draw_batch(opened, pipe, inputs | prompts, batch, step_end)[index]


def singles(request: GenerationRequest) -> Iterator[GenerationRequest]:
    """The request of each picture alone, with its seed; drawn at random where none is given."""
    seed = request.seed if request.seed is not None else secrets.randbits(_RANDOM_SEED_BITS)
    for index in range(request.n):
        yield replace(request, seed=seed + index, n=1)


def draw_together(
    opened: OpenedModel, requests: Sequence[GenerationRequest], step_end: StepEnd | None = None
) -> Iterator[tuple[int, Drawing]]:
    """Draw single pictures in batches, each from its own seed: the same pictures as alone.

    The same but for the last bits of batched arithmetic; `draw` keeps those too. Each drawing comes
    with its request's index. Prompts whose embeddings differ in length are no one batch.

    Args:
        requests: Of one picture each (`singles`), with one `batch_key` that is not None.

    Raises:
        BridgeError: As `draw`; then the pictures of that batch are lost.
    """
    pipe, inputs = _pipeline_for(opened, requests[0])
    by_length: dict[Any, dict[int, dict[str, Any]]] = {}
    for index, request in enumerate(requests):
        prompts = _prompts(opened, request)
        by_length.setdefault(_length(prompts), {})[index] = prompts
    for group in by_length.values():
        together = inputs | _together(list(group.values()))
        if "image" in inputs:
            together["image"] = [inputs["image"]] * len(group)
        batch = {index: requests[index] for index in group}
        yield from _draw_batch(opened, pipe, together, batch, step_end).items()


def _draw_batch(
    opened: OpenedModel,
    pipe: Any,
    inputs: dict[str, Any],
    batch: Mapping[int, GenerationRequest],
    step_end: StepEnd | None,
) -> dict[int, Drawing]:
    """Pictures that differ in texts, bridge scale and seed alone, by their indices."""
    requests = list(batch.values())
    # A fresh scheduler a run: some keep the history of their last one.
    pipe.scheduler = _scheduler(opened, requests[0])
    if step_end is not None:
        inputs = _with_step_end(inputs, step_end, tuple(batch))
    output = _run(pipe, requests, inputs)
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(requests)
    drawings = {}
    for index, pixels, blacked_out in zip(batch, output.images, flagged, strict=True):
        request = batch[index]
        assert request.seed is not None
        image = _image(pixels, request.seed)
        drawings[index] = Drawing(
            image=image,
            seed=request.seed,
            metadata=describe(opened, request, image.size),
            blacked_out=bool(blacked_out),
        )
    return drawings


def _run(pipe: Any, requests: Sequence[GenerationRequest], inputs: Mapping[str, Any]) -> Any:
    generators = []
    for request in requests:
        assert request.seed is not None
        generators.append(torch.Generator("cpu").manual_seed(request.seed))
    try:
        return pipe(
            **inputs,
            num_inference_steps=requests[0].steps,
            guidance_scale=requests[0].guidance,
            generator=generators[0] if len(generators) == 1 else generators,
            output_type="np",
        )
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            "the GPU's memory is not enough; try --offload, --dtype fp16 or a smaller --size",
            "out_of_memory",
            field="size",
        ) from error


def _image(pixels: Float[np.ndarray, "height width 3"], seed: int) -> Image.Image:
    """Float 0..1 => uint8 0..255."""
    if not np.isfinite(pixels).all():
        raise BridgeError(
            f"the picture of seed {seed} is not a number (NaN), so it was not saved; "
            "try --dtype fp32 (or bf16 on a GPU), and check the model with bdm doctor",
            "not_a_number",
            seed=seed,
        )
    return Image.fromarray((pixels * 255).round().astype("uint8"))


def _length(prompts: Mapping[str, Any]) -> int | None:
    """Rows of the embeddings; None for plain texts, which the pipeline itself makes equal."""
    states = prompts.get("prompt_embeds")
    return None if states is None else states.shape[1]


def _together(prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The prompt arguments of single pictures as those of a batch.

    Embeddings of one length are joined as they are, so that nothing is encoded differently.
    """
    first = prompts[0]
    if len(prompts) == 1:
        return first

    def join(name: str) -> Any:
        values = [prompt[name] for prompt in prompts]
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        if name == "callback_on_step_end":  # one window for all: its pack is the batch's
            return values[0]
        return None if all(value is None for value in values) else [value or "" for value in values]

    return {name: join(name) for name in first}


def _with_step_end(
    inputs: dict[str, Any], step_end: StepEnd, pictures: tuple[int, ...]
) -> dict[str, Any]:
    """The arguments with a step's end told; a bridge's own step window stays before it."""

    def tell(pipe: Any, index: int, timesteps: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents = values["latents"]
        foreseen = getattr(pipe.scheduler, "model_outputs", [None])[-1]
        if isinstance(foreseen, Tensor) and foreseen.shape == latents.shape:
            latents = foreseen
        step = Step(number=index + 1, of=pipe.num_timesteps, pictures=pictures, latents=latents)
        step_end(step)
        return values

    window = inputs.get("callback_on_step_end")
    return inputs | {"callback_on_step_end": tell if window is None else window.then(tell)}


def _scheduler(opened: OpenedModel, request: GenerationRequest) -> Any:
    """The sampler over the model's noise schedule, with what the bridge expects of it."""
    expected = {} if opened.bridge is None else opened.bridge.config.scheduler
    scheduler = make_scheduler(request.scheduler, {**opened.pipe.scheduler.config, **expected})
    try:
        scheduler.set_timesteps(request.steps)
    except ValueError as error:
        raise BridgeError(
            f"--scheduler {request.scheduler} cannot draw in {request.steps} steps; give fewer",
            "sampler_steps",
            field="steps",
            steps=request.steps,
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
            "give --init-image and --mask, or another --model",
            "needs_mask",
            field="mask",
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
            f"try --size {near}",
            "size_multiple",
            field="size",
            size=f"{size[0]}x{size[1]}",
            multiple=multiple,
            near=near,
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
