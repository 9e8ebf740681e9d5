"""The nodes in ComfyUI itself: its server, its executor, its samplers, its LoRAs and ControlNets.

What it draws must be what a stock diffusers pipeline with the same bridge draws.
"""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_server import ComfyUI, Graph
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from original_layout import original_layout
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion import Bridge
from bridge_diffusion.text import EnglishEmbeddings

pytestmark = pytest.mark.full

NATIVE, NEGATIVE = "除夕夜，一家人在包饺子", "模糊"
SEED, GUIDANCE, SIZE = 5, 7.5, 16
STEPS = 4  # 999 / 3 is whole, so ComfyUI and diffusers draw at the same noise levels
SCALING = 0.18215  # ComfyUI's latents are those before it


@pytest.fixture(scope="module")
def english(comfyui: ComfyUI) -> EnglishEmbeddings:
    """The backbone's text, also in ComfyUI's input folder."""
    generator = torch.Generator().manual_seed(3)
    positive, negative = torch.randn(2, 1, 77, 32, generator=generator).unbind()
    tensors = {"positive": positive.contiguous(), "negative": negative.contiguous()}
    save_file(tensors, comfyui.base / "input" / "english.safetensors")
    return EnglishEmbeddings(
        positive=positive, negative=negative, pooled=None, negative_pooled=None
    )


@pytest.fixture
def drawn(pipe: StableDiffusionPipeline) -> Callable[..., Tensor]:
    """Latents of a call of the stock pipeline, at ComfyUI's scale and noise levels."""
    pipe.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )

    def draw(call: dict[str, Any], **settings: Any) -> Tensor:
        pipe.scheduler.set_timesteps(STEPS)
        first = pipe.scheduler.sigmas[0]
        noise = torch.randn(1, 4, SIZE, SIZE, generator=torch.manual_seed(SEED))
        latents = noise * (first**2 + 1).sqrt() / pipe.scheduler.init_noise_sigma
        settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **settings}
        return pipe(**call, latents=latents, output_type="latent", **settings).images / SCALING

    return draw


@pytest.fixture(scope="module")
def graph(
    comfyui: ComfyUI, reference_weights: Path, chinese_clip_folder: Path, english: EnglishEmbeddings
) -> Graph:
    """Load Bridge, Native Prompt twice, Apply Bridge, KSampler, Save Latent."""
    pipe = StableDiffusionPipeline.from_pretrained(
        reference_weights, safety_checker=None, requires_safety_checker=False
    )
    layout = original_layout(pipe.unet, comfyui)
    weights = {f"model.diffusion_model.{key}": value for key, value in layout.items()}
    save_file(weights, comfyui.models("diffusion_models") / "small.safetensors")
    shutil.copytree(reference_weights / "controlnet", comfyui.models("bridges") / "published")
    shutil.copytree(chinese_clip_folder, comfyui.models("text_encoders") / "chinese_clip")
    loader = {"unet_name": "small.safetensors", "weight_dtype": "default"}
    bridge = {"bridge_name": "published", "text_encoder": "chinese_clip", "dtype": "float32"}
    return {
        "model": node("UNETLoader", **loader),
        "bridge": node("BridgeLoader", **bridge),
        "apply": node(
            "BridgeApply",
            model=["model", 0],
            bridge=["bridge", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ),
        **prompt("positive", NATIVE),
        **prompt("negative", NEGATIVE),
        "latent": node("EmptyLatentImage", width=8 * SIZE, height=8 * SIZE, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["apply", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=SEED,
            steps=STEPS,
            cfg=GUIDANCE,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/test"),
    }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def prompt(name: str, text: str) -> Graph:
    return {
        f"{name}_english": node("SmallText", file="english.safetensors", name=name),
        name: node(
            "BridgeTextEncode", conditioning=[f"{name}_english", 0], bridge=["bridge", 0], text=text
        ),
    }


def changed(graph: Graph, **inputs: dict[str, Any]) -> Graph:
    """The graph with other inputs of some nodes, by their names."""
    new = copy.deepcopy(graph)
    for name, values in inputs.items():
        new[name]["inputs"].update(values)
    return new


@pytest.fixture
def bridge(new_release_bridge: Callable[[], Bridge], pipe: StableDiffusionPipeline) -> Bridge:
    return new_release_bridge().attach(pipe)


def assert_same(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 2e-5


def test_a_sampler_draws_what_the_pipeline_draws(
    comfyui: ComfyUI,
    graph: Graph,
    bridge: Bridge,
    english: EnglishEmbeddings,
    drawn: Callable[..., Tensor],
) -> None:
    native, negative = bridge.text_encoder.encode_pair([NATIVE], [NEGATIVE])
    wanted = drawn(bridge.pack_embeddings(native, negative, english))
    assert_same(comfyui.latents(graph), wanted)
