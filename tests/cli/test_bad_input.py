"""A user's mistake is one line on standard error and exit code 2, and leaves no file."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


@pytest.fixture
def refused(bdm: Callable, model: Path, bridge: Path, tmp_path: Path) -> Callable:
    """Run `bdm generate` and give its one line of error; checks what holds for every mistake."""

    def run(*arguments: object, model: object = model, bridge: object = bridge) -> str:
        prompt = () if "--from" in arguments else ("--model", model, "--bridge", bridge)
        out = tmp_path / "out"
        outcome = bdm("generate", "--steps", 2, *arguments, *prompt, "--out", out)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.startswith("bdm: error: ")
        assert outcome.err.count("\n") == 1
        assert not out.exists() or not list(out.iterdir())
        return outcome.err

    return run


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may damage."""
    return shutil.copytree(model, tmp_path / "model")


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_an_empty_prompt(refused: Callable) -> None:
    assert "prompt is empty" in refused(" ")


def test_no_prompt(refused: Callable) -> None:
    assert "no prompt" in refused()


def test_a_size_that_does_not_fit(refused: Callable) -> None:
    assert "--size 16x24" in refused("红包", "--size", "15x25")
    assert "512x768" in refused("红包", "--size", "big")


def test_an_initial_picture_that_does_not_fit_or_cannot_be_read(
    refused: Callable, tmp_path: Path
) -> None:
    odd, broken = tmp_path / "odd.png", tmp_path / "broken.png"
    Image.new("RGB", (15, 16)).save(odd)
    broken.write_bytes(odd.read_bytes()[:40])
    assert "--size 16x16" in refused("红包", "--init-image", odd)
    assert "broken.png cannot be read" in refused("红包", "--init-image", broken)
    assert "no picture at" in refused("红包", "--init-image", tmp_path / "none.png")
    Image.new("1", (20_000, 20_000)).save(odd)
    assert "odd.png cannot be read" in refused("红包", "--init-image", odd)


def test_an_out_that_is_another_kind_of_picture(bdm: Callable, tmp_path: Path) -> None:
    outcome = bdm("generate", "红包", "--out", tmp_path / "x.gif")
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert ".png, .jpg" in outcome.err


def test_more_steps_than_a_sampler_takes(refused: Callable) -> None:
    assert "cannot draw in 60 steps" in refused("红包", "--scheduler", "lcm", "--steps", 60)


def test_missing_models(refused: Callable, tmp_path: Path) -> None:
    assert "nothing at" in refused("红包", model=tmp_path / "none")
    assert "emoji world (ar, zh)" in refused("红包", bridge=tmp_path / "none")


def test_a_mistyped_path_never_asks_the_network(
    refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "nothing at models/none" in refused("红包", model="models/none")


def test_a_hub_model_that_is_not_there(refused: Callable) -> None:
    """The tests run offline, so this is what a user without a connection sees."""
    assert "nobody/nothing cannot be loaded" in refused("红包", model="nobody/nothing")


def test_a_bridge_given_as_model_and_a_model_as_bridge(
    refused: Callable, model: Path, bridge: Path
) -> None:
    assert "is a bridge, not a whole model" in refused("红包", model=bridge)
    assert "is a UNet" in refused("红包", model=model / "unet/diffusion_pytorch_model.safetensors")
    assert "published branch" in refused("红包", bridge=model)


def test_a_lora_given_as_model(refused: Callable, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    save_file({"unet.x.lora_A.weight": torch.zeros(2, 2)}, path)
    assert "is a LoRA" in refused("红包", model=path)


def test_another_family(refused: Callable, own_model: Path) -> None:
    index = own_model / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusion", "StableDiffusionXL"))
    error = refused("红包", model=own_model)
    assert "Stable Diffusion 1.5" in error
    assert "SDXL" in error


def test_missing_and_corrupt_weights(refused: Callable, own_model: Path) -> None:
    weights = own_model / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    assert "it may be cut short" in refused("红包", model=own_model)
    weights.write_bytes(whole)
    state = load_file(weights)
    state.pop("conv_in.weight")
    save_file(state, weights)
    assert "lacks 1 tensors, the first conv_in.weight" in refused("红包", model=own_model)
    weights.unlink()
    assert "cannot be loaded" in refused("红包", model=own_model)
    shutil.rmtree(own_model / "vae")
    assert "lacks its part 'vae'" in refused("红包", model=own_model)


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model", "text_encoder/model"])
def test_a_tensor_that_is_missing_in_any_part(
    refused: Callable, own_model: Path, part: str
) -> None:
    weights = own_model / f"{part}.safetensors"
    state = load_file(weights)
    lost = min(state)
    del state[lost]
    save_file(state, weights, metadata={"format": "pt"})
    assert f"lacks 1 tensors, the first {lost}" in refused("红包", model=own_model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_or_senseless_config(refused: Callable, own_model: Path, part: str) -> None:
    config = own_model / part / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(dict.fromkeys(values, "x")))
    refused("红包", model=own_model)
    config.unlink()
    assert f"{part}/config.json is missing" in refused("红包", model=own_model)


def test_a_model_without_its_tokenizer(refused: Callable, own_model: Path) -> None:
    (own_model / "tokenizer" / "tokenizer_config.json").unlink()
    assert "at most 77 tokens" in refused("红包", model=own_model)
    (own_model / "tokenizer" / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused("红包", model=own_model)


def test_nothing_of_other_libraries_beside_the_line(model: Path, tmp_path: Path) -> None:
    """In a process of its own: the libraries' loggers keep the standard error of their import."""
    own = shutil.copytree(model, tmp_path / "model")
    (own / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    command = [sys.executable, "-m", "bridge_diffusion.cli", "generate", "x", "--model", own]
    done = subprocess.run([*command, "--bridge", "none"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("bdm: error: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_corrupt_bridge(refused: Callable, bridge: Path, tmp_path: Path) -> None:
    own = shutil.copytree(bridge, tmp_path / "bridge")
    weights = own / "branch" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "not a whole safetensors file" in refused("红包", bridge=own)
    torch.save({"conv_in.weight": Trap(tmp_path / "sprung")}, weights)
    assert "is a pickle, whatever its name says" in refused("红包", bridge=own)
    assert not (tmp_path / "sprung").exists()
    config = json.loads((own / "bridge.json").read_text())
    (own / "bridge.json").write_text(json.dumps(config | {"family": "sdxl"}))
    assert "one family" in refused("红包", bridge=own)


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"]
)
def test_a_pickle_is_never_executed(
    refused: Callable, own_model: Path, tmp_path: Path, name: str
) -> None:
    (own_model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Trap(tmp_path / "sprung")}, own_model / "unet" / name)
    refused("红包", model=own_model)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_single_file_that_is_a_pickle_is_never_executed(
    refused: Callable, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, path)
    assert "pickle" in refused("红包", model=path)
    assert not (tmp_path / "sprung").exists()


def test_nan_is_not_saved(refused: Callable, own_model: Path) -> None:
    weights = own_model / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["decoder.conv_out.bias"].fill_(float("nan"))
    save_file(state, weights)
    assert "NaN" in refused("红包", model=own_model)


def test_a_full_disk(refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    assert "disk is full" in refused("红包")


def test_a_device_that_is_not_there(refused: Callable) -> None:
    assert "--device" in refused("红包", "--device", "nonsense")
    assert "--device" in refused("红包", "--device", "meta")
    assert "--dtype fp16" in refused("红包", "--device", "cpu", "--dtype", "fp16")
    assert "--dtype fp16" in refused("红包", "--device", "cpu:0", "--dtype", "fp16")


def test_from_a_picture_of_another_program(refused: Callable, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    assert "does not say how bdm drew it" in refused("--from", path)
    path.write_bytes(b"")
    assert "cannot be read" in refused("--from", path)


def test_a_model_that_only_fills_masks(refused: Callable, own_model: Path) -> None:
    state = load_file(own_model / "unet" / "diffusion_pytorch_model.safetensors")
    state["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(state, own_model / "unet" / "diffusion_pytorch_model.safetensors")
    config = own_model / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    index = own_model / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionP", "StableDiffusionInpaintP"))
    assert "--mask" in refused("红包", model=own_model)
