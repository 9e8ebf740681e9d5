"""The nodes in ComfyUI itself: its server, its executor, its samplers, its LoRAs and ControlNets.

What it draws must be what a stock diffusers pipeline with the same bridge draws.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfyui_server import ComfyUI, Graph, GraphError
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from graphs import assert_same, bridged, changed, drawing_with, native_prompt, node
from matrix.lora_files import as_kohya
from matrix.networks import drawn
from original_layout import original_layout
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion import Bridge
from bridge_diffusion.prompting import EncodedPart, pack_together
from bridge_diffusion.text import EnglishEmbeddings, NativeEmbeddings

pytestmark = pytest.mark.full

NATIVE, NEGATIVE = "除夕夜，一家人在包饺子", "模糊"
LONG = "除夕夜，一家人在包饺子，" * 6  # more than one window
SCALING = 0.18215

Drawing = Callable[..., Tensor]


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


@pytest.fixture(scope="module")
def graph(
    comfyui: ComfyUI, reference_weights: Path, chinese_clip_folder: Path, english: EnglishEmbeddings
) -> Graph:
    """The release's reference case in ComfyUI."""
    pipe = stock(reference_weights)
    layout = original_layout(pipe.unet, comfyui)
    weights = {f"model.diffusion_model.{key}": value for key, value in layout.items()}
    save_file(weights, comfyui.models("diffusion_models") / "small.safetensors")
    for name in ("published", "second"):
        shutil.copytree(reference_weights / "controlnet", comfyui.models("bridges") / name)
    shutil.copytree(chinese_clip_folder, comfyui.models("text_encoders") / "chinese_clip")
    bridge = {"bridge_name": "published", "text_encoder": "chinese_clip", "dtype": "float32"}
    return bridged("small.safetensors", bridge, NATIVE, NEGATIVE)


def stock(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False
    )


@pytest.fixture
def draw(pipe: StableDiffusionPipeline) -> Drawing:
    return drawing_with(pipe, SCALING)


@pytest.fixture
def bridge(new_release_bridge: Callable[[], Bridge], pipe: StableDiffusionPipeline) -> Bridge:
    return new_release_bridge().attach(pipe)


@pytest.fixture
def texts(bridge: Bridge) -> tuple[NativeEmbeddings, NativeEmbeddings]:
    return bridge.text_encoder.encode_pair([NATIVE], [NEGATIVE])


def test_a_sampler_draws_what_the_pipeline_draws(
    comfyui: ComfyUI,
    graph: Graph,
    bridge: Bridge,
    texts: tuple[NativeEmbeddings, NativeEmbeddings],
    english: EnglishEmbeddings,
    draw: Drawing,
) -> None:
    assert_same(comfyui.latents(graph), draw(bridge.pack_embeddings(*texts, english)))


def test_strength_and_a_part_of_the_steps(
    comfyui: ComfyUI,
    graph: Graph,
    bridge: Bridge,
    texts: tuple[NativeEmbeddings, NativeEmbeddings],
    english: EnglishEmbeddings,
    draw: Drawing,
) -> None:
    acting = {"strength": 0.6, "start_percent": 0.25, "end_percent": 0.75}
    wanted = draw(bridge.pack_embeddings(*texts, english, scale=0.6, start=0.25, end=0.75))
    assert_same(comfyui.latents(changed(graph, apply=acting)), wanted)


def test_text_of_several_windows(
    comfyui: ComfyUI, graph: Graph, bridge: Bridge, english: EnglishEmbeddings, draw: Drawing
) -> None:
    pair = bridge.text_encoder.encode_pair([LONG], [NEGATIVE])
    assert pair[0].hidden.shape[1] == 102  # two windows
    wanted = draw(bridge.pack_embeddings(*pair, english))
    long = changed(graph, positive={"text": LONG}, negative={"windows": 2})
    assert_same(comfyui.latents(long), wanted)


def test_a_batch_of_pictures(
    comfyui: ComfyUI,
    graph: Graph,
    bridge: Bridge,
    english: EnglishEmbeddings,
    draw: Drawing,
) -> None:
    texts = bridge.text_encoder.encode_pair([NATIVE] * 2, [NEGATIVE] * 2)
    two = EnglishEmbeddings(
        positive=english.positive.repeat(2, 1, 1),
        negative=english.negative.repeat(2, 1, 1),
        pooled=None,
        negative_pooled=None,
    )
    wanted = draw(bridge.pack_embeddings(*texts, two), pictures=2)
    assert_same(comfyui.latents(changed(graph, latent={"batch_size": 2})), wanted)


def test_two_bridges_add(
    comfyui: ComfyUI,
    graph: Graph,
    bridge: Bridge,
    new_release_bridge: Callable[[], Bridge],
    pipe: StableDiffusionPipeline,
    texts: tuple[NativeEmbeddings, NativeEmbeddings],
    english: EnglishEmbeddings,
    draw: Drawing,
) -> None:
    second = new_release_bridge().attach(pipe)
    other = second.text_encoder.encode_pair(["红包"], [""])
    parts = [
        EncodedPart(bridge=bridge, native=texts[0], negative=texts[1], scale=1.0),
        EncodedPart(bridge=second, native=other[0], negative=other[1], scale=0.5),
    ]
    wanted = draw(pack_together(parts, english))
    both = changed(graph)
    loader = {**graph["bridge"]["inputs"], "bridge_name": "second"}
    both["bridge_2"] = node("BridgeLoader", **loader)
    for name, text in (("positive", "红包"), ("negative", "")):
        of = {"conditioning": [name, 0], "bridge": ["bridge_2", 0], "text": text}
        both[f"{name}_2"] = node("BridgeTextEncode", **of)
        both["sampler"]["inputs"][name] = [f"{name}_2", 0]
    again = {**graph["apply"]["inputs"], "model": ["apply", 0], "bridge": ["bridge_2", 0]}
    both["apply_2"] = node("BridgeApply", **{**again, "strength": 0.5})
    both["sampler"]["inputs"]["model"] = ["apply_2", 0]
    assert_same(comfyui.latents(both), wanted)


def test_a_plain_conditioning_is_drawn_as_without_the_bridge(
    comfyui: ComfyUI, graph: Graph
) -> None:
    plain = {"positive": ["positive_english", 0], "negative": ["negative_english", 0]}
    attached = comfyui.latents(changed(graph, sampler=plain))
    bare = comfyui.latents(changed(graph, sampler={**plain, "model": ["model", 0]}))
    assert torch.equal(attached, bare)


def test_a_lora_and_a_controlnet_act_beside_the_bridge(
    comfyui: ComfyUI,
    graph: Graph,
    reference_weights: Path,
    new_release_bridge: Callable[[], Bridge],
    english: EnglishEmbeddings,
    tmp_path: Path,
) -> None:
    pipe, picture = with_controlnet(reference_weights)
    net = original_layout(pipe.controlnet, comfyui)
    prefixed = {f"control_model.{key}": value for key, value in net.items()}
    save_file(prefixed, comfyui.models("controlnet") / "small.safetensors")
    lora = {k: v for k, v in as_kohya(pipe, seed=5).items() if k.startswith("lora_unet")}
    save_file(lora, comfyui.models("loras") / "small.safetensors")
    picture.save(comfyui.base / "input" / "edges.png")

    whole = changed(
        graph,
        apply={"model": ["lora", 0]},
        sampler={"positive": ["control", 0], "negative": ["control", 1]},
    )
    whole["lora"] = node(
        "LoraLoaderModelOnly", model=["model", 0], lora_name="small.safetensors", strength_model=0.7
    )
    whole["net"] = node("ControlNetLoader", control_net_name="small.safetensors")
    whole["image"] = node("LoadImage", image="edges.png")
    whole["control"] = node(
        "ControlNetApplyAdvanced",
        positive=["positive", 0],
        negative=["negative", 0],
        control_net=["net", 0],
        image=["image", 0],
        strength=0.5,
        start_percent=0.0,
        end_percent=1.0,
    )
    got = comfyui.latents(whole)

    bridge = new_release_bridge().attach(pipe)
    save_file(lora, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="small")
    pipe.set_adapters(["small"], [0.7])
    texts = bridge.text_encoder.encode_pair([NATIVE], [NEGATIVE])
    call = bridge.pack_embeddings(*texts, english)
    shown = {"image": picture, "controlnet_conditioning_scale": 0.5}
    assert_same(got, drawing_with(pipe, SCALING)(call, **shown))


def with_controlnet(folder: Path) -> tuple[StableDiffusionControlNetPipeline, Image.Image]:
    """The reference case with a ControlNet and the usual eight pixels a latent; and its picture."""
    parts = stock(folder).components
    torch.manual_seed(1)
    parts["vae"] = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    net = drawn(ControlNetModel.from_unet(parts["unet"]), seed=6)
    pipe = StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    noise = torch.randint(256, (128, 128, 3), dtype=torch.uint8, generator=torch.manual_seed(2))
    return pipe, Image.fromarray(noise.numpy())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"sampler": {"model": ["model", 0]}}, "put Apply Bridge with that bridge before"),
        ({"apply": {"start_percent": 0.8, "end_percent": 0.2}}, "start_percent is 0.8"),
        ({"bridge": {"text_encoder": ""}}, "has no text encoder"),
        ({"bridge": {"bridge_name": "none"}}, "not in list"),
    ],
)
def test_mistakes_are_told(
    comfyui: ComfyUI, graph: Graph, inputs: dict[str, dict], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        comfyui.run(changed(graph, **inputs))


def test_a_bridge_applied_twice_is_refused(comfyui: ComfyUI, graph: Graph) -> None:
    twice = changed(graph, sampler={"model": ["apply_2", 0]})
    twice["apply_2"] = node("BridgeApply", **{**graph["apply"]["inputs"], "model": ["apply", 0]})
    with pytest.raises(GraphError, match="has the bridge 'published' already"):
        comfyui.run(twice)


def test_conditionings_of_other_nodes_keep_their_text(comfyui: ComfyUI, graph: Graph) -> None:
    combined = changed(graph, sampler={"positive": ["combined", 0]})
    combined |= native_prompt("positive_2", "红包")
    combined["positive_2_english"]["inputs"]["name"] = "positive"
    combined["combined"] = node(
        "ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["positive_2", 0]
    )
    two = comfyui.latents(combined)
    one = comfyui.latents(graph)
    assert float((two - one).abs().max()) > 0.01
