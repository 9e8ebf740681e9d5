"""`bdm info`: what a picture, a folder or a weight file is."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from bridge_diffusion.images.metadata import ImageMetadata, encode_image


def test_a_picture(bdm: Callable, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    infotext = "a fox\nSteps: 20, Seed: 7, Native prompt: 红包"
    metadata = ImageMetadata(infotext=infotext, record={"format": 1})
    path.write_bytes(encode_image(Image.new("RGB", (8, 8)), ".png", metadata))
    assert bdm("info", path).out == infotext + "\n"
    shown = json.loads(bdm("info", path, "--json").out)
    assert shown["prompt"] == "a fox"
    assert shown["parameters"]["Native prompt"] == "红包"
    assert shown["record"] == {"format": 1}


def test_a_picture_that_says_nothing(bdm: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    outcome = bdm("info", tmp_path / "x.png")
    assert outcome.code == 0
    assert "does not say" in outcome.out
    assert json.loads(bdm("info", tmp_path / "x.png", "--json").out)["infotext"] is None


def test_folders(bdm: Callable, model: Path, bridge: Path) -> None:
    assert f"{model}: pipeline, Stable Diffusion 1.5\n" in bdm("info", model).out
    shown = bdm("info", bridge).out
    assert f"{bridge}: bridge, Stable Diffusion 1.5\n" in shown
    assert "native_width: 16" in shown


def test_weight_files(bdm: Callable, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 3)}, path, {"modelspec.title": "Snow"})
    shown = bdm("info", path).out
    assert f"{path}: LoRA\n" in shown
    assert "modelspec.title: Snow" in shown
    assert json.loads(bdm("info", path, "--json").out)["details"]["parameters"] == 6
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.ckpt")
    assert "not opened" in bdm("info", tmp_path / "x.ckpt").out
