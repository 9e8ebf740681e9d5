"""SDXL in ComfyUI: two native text models, the pooled vector, the backbone's size numbers."""

from pathlib import Path

import pytest
import torch
from comfyui_server import ComfyUI, Graph, GraphError
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from graphs import SIZE, assert_same, bridged, changed, drawing_with
from matrix.networks import (
    NATIVE_WIDTHS,
    POOLED_WIDTH,
    drawn,
    make_bridge,
    make_parts,
    write_native_models,
)
from original_layout import original_layout
from safetensors.torch import save_file

from bridge_diffusion import Bridge, BridgeBranch
from bridge_diffusion.text import EnglishEmbeddings

pytestmark = pytest.mark.full

NATIVE, NEGATIVE = "一只红色的狐狸", "模糊"
SCALING = 0.13025


@pytest.fixture(scope="module")
def english(comfyui: ComfyUI) -> EnglishEmbeddings:
    """The backbone's text, also in ComfyUI's input folder."""
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(2, 1, 77, 56, generator=generator)
    pooled = torch.randn(2, 1, POOLED_WIDTH, generator=generator)
    tensors = {}
    for i, name in enumerate(("positive", "negative")):
        tensors |= {name: states[i].clone(), f"{name}.pooled": pooled[i].clone()}
    save_file(tensors, comfyui.base / "input" / "english.safetensors")
    return EnglishEmbeddings(
        positive=states[0], negative=states[1], pooled=pooled[0], negative_pooled=pooled[1]
    )


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    """As ComfyUI wants it: 32 norm groups, and 256 features for each size number."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_head_dim=(4, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=56,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 256,
    )
    return StableDiffusionXLPipeline(**{**make_parts("sdxl"), "unet": drawn(unet, seed=1)})


@pytest.fixture(scope="module")
def bridge(pipe: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Bridge:
    small = make_bridge("sdxl", write_native_models("sdxl", tmp_path_factory.mktemp("native")))
    widths = NATIVE_WIDTHS["sdxl"]
    branch = BridgeBranch.from_backbone(pipe.unet, sum(widths), widths[0])
    return Bridge(drawn(branch, seed=2), small.text_encoder, small.config)


@pytest.fixture(scope="module")
def graph(
    comfyui: ComfyUI, pipe: StableDiffusionXLPipeline, bridge: Bridge, english: EnglishEmbeddings
) -> Graph:
    layout = original_layout(pipe.unet, comfyui)
    weights = {f"model.diffusion_model.{key}": value for key, value in layout.items()}
    save_file(weights, comfyui.models("diffusion_models") / "small-xl.safetensors")
    bridge.save_pretrained(comfyui.models("bridges") / "xl")
    loader = {"bridge_name": "xl", "text_encoder": "", "dtype": "float32"}
    return bridged("small-xl.safetensors", loader, NATIVE, NEGATIVE)


def test_a_sampler_draws_what_the_pipeline_draws(
    comfyui: ComfyUI,
    graph: Graph,
    pipe: StableDiffusionXLPipeline,
    bridge: Bridge,
    english: EnglishEmbeddings,
) -> None:
    bridge.attach(pipe)
    texts = bridge.text_encoder.encode_pair([NATIVE], [NEGATIVE])
    call = bridge.pack_embeddings(*texts, english)
    size = (8 * SIZE, 8 * SIZE)  # what ComfyUI tells the model, whatever the autoencoder
    wanted = drawing_with(pipe, SCALING)(call, original_size=size, target_size=size)
    bridge.detach()
    assert_same(comfyui.latents(graph), wanted)


def test_a_bridge_of_another_family_is_refused(
    comfyui: ComfyUI, graph: Graph, reference_weights: Path, chinese_clip_folder: Path
) -> None:
    (comfyui.models("bridges") / "sd15").symlink_to(reference_weights / "controlnet")
    loader = {"bridge_name": "sd15", "text_encoder": str(chinese_clip_folder)}
    with pytest.raises(GraphError, match=r"is for Stable Diffusion 1\.5 with"):
        comfyui.run(changed(graph, bridge=loader))
