"""The example workflows from the first node to the saved picture, on a small checkpoint."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from comfyui_server import ComfyUI, Graph
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from matrix.lora_files import as_kohya
from matrix.networks import drawn
from original_layout import original_layout
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parents[2] / "comfyui" / "example_workflows"
# Weights at which a picture is neither black nor white: ComfyUI's own layers start as they lie.
_AUTOENCODER = """
import sys
import torch
from comfy.cli_args import args
args.cpu = True
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
torch.manual_seed(8)
autoencoder = TAESD().requires_grad_(False)
for name, values in autoencoder.named_parameters():
    if name.endswith("weight"):
        values.normal_(std=values[0].numel() ** -0.5)
    elif name.endswith("bias"):
        values.fill_(0.0)
autoencoder.taesd_decoder[-1].weight *= 0.2
autoencoder.taesd_decoder[-1].bias += 0.5
save_file(autoencoder.state_dict(), sys.argv[1])
"""


@pytest.fixture(scope="module")
def installed(
    comfyui: ComfyUI, reference_weights: Path, chinese_clip_folder: Path, tmp_path_factory
) -> ComfyUI:
    """ComfyUI with everything that the workflows name, at small size."""
    unet = UNet2DConditionModel.from_pretrained(reference_weights / "unet")
    clip = drawn(
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=32,
                intermediate_size=64,
                num_attention_heads=4,
                num_hidden_layers=2,
            )
        ),
        seed=7,
    )
    autoencoder = tmp_path_factory.mktemp("autoencoder") / "small.safetensors"
    making = [comfyui.python, "-c", _AUTOENCODER, str(autoencoder)]
    subprocess.run(making, cwd=comfyui.source, check=True)
    checkpoint = {
        f"model.diffusion_model.{k}": v for k, v in original_layout(unet, comfyui).items()
    }
    checkpoint |= {
        f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
        for k, v in clip.state_dict().items()
    }
    checkpoint |= {f"first_stage_model.{k}": v for k, v in load_file(autoencoder).items()}
    folder = comfyui.models("checkpoints")
    save_file(checkpoint, folder / "v1-5-pruned-emaonly.safetensors")
    shutil.copytree(reference_weights / "controlnet", comfyui.models("bridges") / "BDM1.0")
    encoder = comfyui.models("text_encoders") / "chinese-clip-vit-huge-patch14"
    shutil.copytree(chinese_clip_folder, encoder)

    pipe = StableDiffusionPipeline.from_pretrained(
        reference_weights, text_encoder=clip, safety_checker=None, requires_safety_checker=False
    )
    save_file(as_kohya(pipe, seed=5), comfyui.models("loras") / "style.safetensors")
    net = drawn(ControlNetModel.from_unet(unet), seed=6)
    net_file = comfyui.models("controlnet") / "control_v11p_sd15_canny.safetensors"
    save_file({f"control_model.{k}": v for k, v in original_layout(net, comfyui).items()}, net_file)
    Image.new("RGB", (128, 128), "white").save(comfyui.base / "input" / "edges.png")
    return comfyui


def workflow(name: str) -> Graph:
    """A workflow, made quicker: a small picture in few steps."""
    graph = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": 128, "height": 128}
        elif node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2
    return graph


@pytest.mark.parametrize("name", ["native_prompt", "native_prompt_lora_controlnet"])
def test_the_workflow_draws_and_listens_to_its_native_prompt(installed: ComfyUI, name: str) -> None:
    pictures = []
    for text in (None, "一座山"):
        graph = workflow(name)
        if text is not None:
            first = next(n for n in graph.values() if n["class_type"] == "BridgeTextEncode")
            first["inputs"]["text"] = text
        (output,) = [o for o in installed.run(graph).values() if "images" in o]
        (saved,) = output["images"]
        path = installed.base / "output" / saved["subfolder"] / saved["filename"]
        with Image.open(path) as picture:
            assert picture.size == (128, 128)
            pictures.append(torch.tensor(list(picture.convert("RGB").tobytes())))
    assert not torch.equal(*pictures)


def test_the_widgets_of_the_page_are_the_inputs_of_the_nodes(installed: ComfyUI) -> None:
    """In the order in which ComfyUI's page numbers them."""
    for path in FOLDER.glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if not node["type"].startswith("Bridge"):
                continue
            known = installed.get(f"/object_info/{node['type']}")[node["type"]]["input"]
            names = [*known["required"], *known.get("optional", {})]
            assert [given["name"] for given in node["inputs"]] == names


def test_every_input_has_a_tooltip(installed: ComfyUI) -> None:
    for kind in ("BridgeLoader", "BridgeTextEncode", "BridgeApply"):
        info = installed.get(f"/object_info/{kind}")[kind]
        assert info["description"]
        for group in info["input"].values():
            assert all(options[1]["tooltip"] for options in group.values())
