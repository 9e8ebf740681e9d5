"""Draw pictures: one generator a picture, so that each can be drawn again on its own."""

import inspect
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
from bridge_diffusion.plugins.t2i_adapter import adapter_pipeline, picture_mode

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
        inputs = _with_step_end(pipe, inputs, step_end, tuple(batch))
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
    pipe: Any, inputs: dict[str, Any], step_end: StepEnd, pictures: tuple[int, ...]
) -> dict[str, Any]:
    """The arguments with a step's end told; a bridge's own step window stays before it."""

    def tell(pipe: Any, index: int, timesteps: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents = values["latents"]
        steps = getattr(pipe, "num_timesteps", len(pipe.scheduler.timesteps))
        foreseen = getattr(pipe.scheduler, "model_outputs", [None])[-1]
        if isinstance(foreseen, Tensor) and foreseen.shape == latents.shape:
            latents = foreseen
        step_end(Step(number=index + 1, of=steps, pictures=pictures, latents=latents))
        return values

    if "callback_on_step_end" not in inspect.signature(pipe.__call__).parameters:

        def tell_old(index: int, timestep: Any, latents: Tensor) -> None:
            tell(pipe, index, timestep, {"latents": latents})

        return inputs | {"callback": tell_old}
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
        texts = {"prompt": request.prompt, "negative_prompt": request.negative or None}
        return _encoded(opened.pipe, texts) if opened.adapters else texts
    return opened.bridge.prompt(
        request.prompt,
        negative=request.negative,
        english=request.english,
        negative_english=request.negative_english,
        scale=request.scale,
        start=request.start,
        end=request.end,
    )


def _encoded(pipe: Any, texts: Mapping[str, str | None]) -> dict[str, Any]:
    """A prompt as its own pipeline encodes it: that of T2I-Adapters knows no new words."""
    encoded = pipe.encode_prompt(
        **texts,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )
    names = ("prompt_embeds", "negative_prompt_embeds")
    pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")  # SDXL's
    return dict(zip((*names, *pooled), encoded, strict=False))


def _pipeline_for(opened: OpenedModel, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    """The stock pipeline for a request's inputs, and these inputs."""
    pipe = opened.pipe
    size = _size(opened, request)
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
    if opened.adapters:
        drawing = adapter_pipeline(pipe, opened.adapters)
        inputs |= _adapter_inputs(opened, request, size)
    elif request.control:
        # Where there is an initial picture, stock pipelines call the other one so.
        name = "image" if request.init_image is None else "control_image"
        pictures = [_open(path).resize(size) for path in request.control]
        inputs[name] = _lone(pictures)
        inputs["controlnet_conditioning_scale"] = _lone(request.control_scales())
    if request.ip_image is not None:
        inputs["ip_adapter_image"] = _open(request.ip_image)
    drawing.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return drawing, inputs


def _adapter_inputs(
    opened: OpenedModel, request: GenerationRequest, size: tuple[int, int]
) -> dict[str, Any]:
    """The arguments for T2I-Adapters, whose stock pipeline draws from text alone."""
    if request.init_image is not None:
        raise BridgeError(
            "--init-image does not go with a T2I-Adapter: diffusers' pipeline draws from text "
            "alone; leave it out, or give a ControlNet"
        )
    if (request.start, request.end) != (0.0, 1.0):
        raise BridgeError(
            "--start and --end do not go with a T2I-Adapter: diffusers' pipeline does not tell "
            "its steps; leave them out, or give a ControlNet"
        )
    pictures = [
        _open(path).convert(picture_mode(adapter)).resize(size)
        for path, adapter in zip(request.control, opened.adapters, strict=True)
    ]
    return {
        "image": _lone(pictures),
        "adapter_conditioning_scale": _lone(request.control_scales()),
    }


def _lone(values: Sequence[Any]) -> Any:
    """Stock pipelines take one by itself and several as a list."""
    return values[0] if len(values) == 1 else list(values)


def _size(opened: OpenedModel, request: GenerationRequest) -> tuple[int, int]:
    """Width and height of the picture, in pixels."""
    pipe = opened.pipe
    factors = [adapter.downscale_factor for adapter in opened.adapters]
    multiple = int(np.lcm.reduce([_STOCK_MULTIPLE, pipe.vae_scale_factor, *factors]))
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
