"""Graphs in the format of ComfyUI's API, and how their latents compare with a pipeline's."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from comfyui_server import Graph
from diffusers import EulerDiscreteScheduler
from torch import Tensor

SEED, GUIDANCE, SIZE = 5, 7.5, 16  # SIZE is the side of the latents
STEPS = 4  # 999 / 3 is whole, so ComfyUI and diffusers draw at the same noise levels


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def native_prompt(name: str, text: str, **settings: Any) -> Graph:
    """Native text beside the English embeddings of this name."""
    english = node("SmallText", file="english.safetensors", name=name)
    of = {"conditioning": [f"{name}_english", 0], "bridge": ["bridge", 0]}
    return {
        f"{name}_english": english,
        name: node("BridgeTextEncode", text=text, **of, **settings),
    }


def bridged(unet: str, bridge: dict[str, str], native: str, negative: str) -> Graph:
    """Load Bridge, Native Prompt twice, Apply Bridge, KSampler, Save Latent."""
    acting = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    drawing = {"seed": SEED, "steps": STEPS, "cfg": GUIDANCE, "denoise": 1.0}
    return {
        "model": node("UNETLoader", unet_name=unet, weight_dtype="default"),
        "bridge": node("BridgeLoader", **bridge),
        "apply": node("BridgeApply", model=["model", 0], bridge=["bridge", 0], **acting),
        **native_prompt("positive", native),
        **native_prompt("negative", negative),
        "latent": node("EmptyLatentImage", width=8 * SIZE, height=8 * SIZE, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["apply", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            sampler_name="euler",
            scheduler="normal",
            **drawing,
        ),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/test"),
    }


def changed(graph: Graph, **inputs: dict[str, Any]) -> Graph:
    """The graph with other inputs of some nodes, by their names."""
    new = copy.deepcopy(graph)
    for name, values in inputs.items():
        new[name]["inputs"].update(values)
    return new


def drawing_with(pipe: Any, scaling: float) -> Callable[..., Tensor]:
    """Latents of calls of a stock pipeline at ComfyUI's noise levels and scale.

    `scaling` is the scaling factor of the latents: ComfyUI's links carry them without it.
    """
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )

    def draw(call: dict[str, Any], pictures: int = 1, **settings: Any) -> Tensor:
        pipe.scheduler.set_timesteps(STEPS)
        first = pipe.scheduler.sigmas[0]
        noise = torch.randn(pictures, 4, SIZE, SIZE, generator=torch.manual_seed(SEED))
        latents = noise * (first**2 + 1).sqrt() / pipe.scheduler.init_noise_sigma
        settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **settings}
        return pipe(**call, latents=latents, output_type="latent", **settings).images / scaling

    return draw


def assert_same(got: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding: sums in another order, multiplied by the guidance scale."""
    assert got.shape == wanted.shape
    difference = float((got - wanted).abs().max() / wanted.abs().max())
    assert difference < 2e-5, f"differs by {difference:.1e} of the largest latent"
