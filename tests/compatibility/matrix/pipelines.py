"""The stock pipelines of the matrix: how each is made of a family's parts, and called."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
from diffusers import LCMScheduler, MultiAdapter
from PIL import Image

from matrix.networks import (
    Family,
    make_controlnet,
    make_motion_adapter,
    make_parts,
    make_t2i_adapter,
)

Parts = dict[str, Any]


def picture(shift: int = 0) -> Image.Image:
    ramp = (np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3) + shift) % 256
    return Image.fromarray(ramp.astype(np.uint8))


def left_half() -> Image.Image:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    return Image.fromarray(mask)


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelineCase:
    """One row of the matrix."""

    name: str
    """Its name in the tables."""
    sd15: str | None
    """The class in diffusers, None where there is none."""
    sdxl: str | None
    call: Callable[[], dict[str, Any]]
    """What it is called with, prompts aside."""
    unguided: bool = False
    """Whether negative prompts have no say."""
    unet: dict[str, Any] = field(default_factory=dict)
    """Settings of its UNet that differ from the family's."""
    add: Callable[[Family, Parts], Parts] = lambda family, parts: {}
    """Parts that it has besides the family's."""

    def kind(self, family: Family) -> type[Any] | None:
        name = self.sd15 if family == "sd15" else self.sdxl
        return None if name is None else getattr(diffusers, name)

    def parts(self, family: Family) -> Parts:
        """All parts, anew; none of them is shared with another pipeline."""
        parts = make_parts(family, **self.unet)
        return {**parts, **self.add(family, parts)}

    def make(self, family: Family, parts: Parts) -> Any:
        kind = self.kind(family)
        assert kind is not None
        extra = {} if family == "sdxl" else {"requires_safety_checker": False}
        wanted = inspect.signature(kind.__init__).parameters
        pipe = kind(**{name: p for name, p in {**parts, **extra}.items() if name in wanted})
        if self.sdxl == "AnimateDiffSDXLPipeline" and family == "sdxl":
            # diffusers 0.42 builds its UNet of the given one and leaves these weights random.
            pipe.unet.add_embedding.load_state_dict(parts["unet"].add_embedding.state_dict())
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _steps(count: int = 2, **others: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"num_inference_steps": count, **others}


def _from_picture(**others: Any) -> dict[str, Any]:
    return {"num_inference_steps": 3, "strength": 0.7, "image": picture(), **others}


def _fill(**others: Any) -> dict[str, Any]:
    sizes = {"height": 32, "width": 32}
    return {"num_inference_steps": 3, "strength": 0.7, "mask_image": left_half(), **sizes, **others}


def _one_net(family: Family, parts: Parts) -> Parts:
    return {"controlnet": make_controlnet(parts["unet"], seed=6)}


def _two_nets(family: Family, parts: Parts) -> Parts:
    return {"controlnet": [make_controlnet(parts["unet"], seed=seed) for seed in (6, 7)]}


def _two_adapters(family: Family, parts: Parts) -> Parts:
    nets = [make_t2i_adapter(family, seed=seed) for seed in (8, 18)]
    return {"adapter": MultiAdapter(nets).eval()}


def _lcm(family: Family, parts: Parts) -> Parts:
    return {"scheduler": LCMScheduler.from_config(parts["scheduler"].config)}


def _motion(family: Family, parts: Parts) -> Parts:
    return {"motion_adapter": make_motion_adapter(family)}


PIPELINES = (
    PipelineCase(
        name="text-to-image",
        sd15="StableDiffusionPipeline",
        sdxl="StableDiffusionXLPipeline",
        call=_steps(),
    ),
    PipelineCase(
        name="image-to-image",
        sd15="StableDiffusionImg2ImgPipeline",
        sdxl="StableDiffusionXLImg2ImgPipeline",
        call=_from_picture,
    ),
    PipelineCase(
        name="inpainting, 4 channels",
        sd15="StableDiffusionInpaintPipeline",
        sdxl="StableDiffusionXLInpaintPipeline",
        call=lambda: _fill(image=picture()),
    ),
    PipelineCase(
        name="inpainting, 9 channels",
        sd15="StableDiffusionInpaintPipeline",
        sdxl="StableDiffusionXLInpaintPipeline",
        call=lambda: _fill(image=picture()),
        unet={"in_channels": 9},
    ),
    PipelineCase(
        name="ControlNet",
        sd15="StableDiffusionControlNetPipeline",
        sdxl="StableDiffusionXLControlNetPipeline",
        call=lambda: {"num_inference_steps": 2, "image": picture()},
        add=_one_net,
    ),
    PipelineCase(
        name="ControlNet, image-to-image",
        sd15="StableDiffusionControlNetImg2ImgPipeline",
        sdxl="StableDiffusionXLControlNetImg2ImgPipeline",
        call=lambda: _from_picture(control_image=picture(99)),
        add=_one_net,
    ),
    PipelineCase(
        name="ControlNet, inpainting",
        sd15="StableDiffusionControlNetInpaintPipeline",
        sdxl="StableDiffusionXLControlNetInpaintPipeline",
        call=lambda: _fill(image=picture(), control_image=picture(99)),
        add=_one_net,
    ),
    PipelineCase(
        name="two ControlNets",
        sd15="StableDiffusionControlNetPipeline",
        sdxl="StableDiffusionXLControlNetPipeline",
        call=lambda: {
            "num_inference_steps": 2,
            "image": [picture(), picture(99)],
            "controlnet_conditioning_scale": [1.0, 0.5],
        },
        add=_two_nets,
    ),
    PipelineCase(
        name="latent consistency",
        sd15="LatentConsistencyModelPipeline",
        sdxl=None,
        call=_steps(),
        unet={"time_cond_proj_dim": 8},
        add=_lcm,
    ),
    PipelineCase(
        name="latent consistency, image-to-image",
        sd15="LatentConsistencyModelImg2ImgPipeline",
        sdxl=None,
        call=_from_picture,
        unet={"time_cond_proj_dim": 8},
        add=_lcm,
    ),
    PipelineCase(
        name="perturbed attention (PAG)",
        sd15="StableDiffusionPAGPipeline",
        sdxl="StableDiffusionXLPAGPipeline",
        call=_steps(pag_scale=2.0),
    ),
    PipelineCase(
        name="PAG without guidance",
        sd15="StableDiffusionPAGPipeline",
        sdxl="StableDiffusionXLPAGPipeline",
        call=_steps(pag_scale=2.0, guidance_scale=0.0),
        unguided=True,
    ),
    PipelineCase(
        name="PAG with ControlNet",
        sd15="StableDiffusionControlNetPAGPipeline",
        sdxl="StableDiffusionXLControlNetPAGPipeline",
        call=lambda: {"num_inference_steps": 2, "image": picture(), "pag_scale": 2.0},
        add=_one_net,
    ),
    PipelineCase(
        name="self-attention guidance (SAG)",
        sd15="StableDiffusionSAGPipeline",
        sdxl=None,
        call=_steps(sag_scale=0.5),
    ),
    PipelineCase(
        name="T2I-Adapter",
        sd15="StableDiffusionAdapterPipeline",
        sdxl="StableDiffusionXLAdapterPipeline",
        call=lambda: {"num_inference_steps": 2, "image": picture(), "height": 32, "width": 32},
        add=lambda family, parts: {"adapter": make_t2i_adapter(family, seed=8)},
    ),
    PipelineCase(
        name="two T2I-Adapters",
        sd15="StableDiffusionAdapterPipeline",
        sdxl="StableDiffusionXLAdapterPipeline",
        call=lambda: {
            "num_inference_steps": 2,
            "image": [picture(), picture(99)],
            "adapter_conditioning_scale": [1.0, 0.5],
            "height": 32,
            "width": 32,
        },
        add=_two_adapters,
    ),
    PipelineCase(
        name="AnimateDiff",
        sd15="AnimateDiffPipeline",
        sdxl="AnimateDiffSDXLPipeline",
        call=_steps(num_frames=2),
        add=_motion,
    ),
    PipelineCase(
        name="AnimateDiff with ControlNet",
        sd15="AnimateDiffControlNetPipeline",
        sdxl=None,
        call=lambda: {
            "num_inference_steps": 2,
            "num_frames": 2,
            "conditioning_frames": [picture(), picture(99)],
        },
        add=lambda family, parts: {**_one_net(family, parts), **_motion(family, parts)},
    ),
)
