"""LoRAs as ComfyUI, OneTrainer, peft while it trains, and LyCORIS (DoRA) name their keys."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file

from bridge_diffusion.plugins.lora import load_lora

from .conftest import add_lora, draw, refusal

Pipe = Any

NEW_NAMES = {
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "alpha": "alpha",
}


@pytest.mark.parametrize("matrices", [{}, NEW_NAMES])
@pytest.mark.parametrize("trainer", ["ComfyUI", "OneTrainer", "whole model"])
def test_names_with_dots(
    taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path, trainer: str, matrices: dict
) -> None:
    """As ComfyUI saves a LoRA that it extracted or trained, and OneTrainer; the alphas halve it."""
    unet, text, pipe = taught
    prefixes = {
        "ComfyUI": ("diffusion_model.", "text_encoders.clip_l.transformer."),
        "OneTrainer": ("lora_unet.", "lora_te."),
        "whole model": ("model.diffusion_model.", "text_encoders.clip_l.transformer."),
    }[trainer]
    state = {}
    for prefix, tensors in zip(prefixes, (unet, text), strict=True):
        below = "text_model." if "te" in prefix else ""
        for key, tensor in tensors.items():
            layer, _, matrix = key.partition(".lora_")
            name = f"{prefix}{below}{layer.removeprefix('text_model.')}"
            kohya = "lora_down.weight" if matrix[0] == "A" else "lora_up.weight"
            state[f"{name}.{matrices.get(kohya, kohya)}"] = tensor
            if matrix[0] == "A":
                state[f"{name}.alpha"] = torch.tensor(len(tensor) / 2)
    save_file(state, tmp_path / "x.safetensors")
    for network in (pipe.unet, pipe.text_encoder):
        for module in network.modules():
            if hasattr(module, "scaling"):
                module.scaling["made"] = 0.5
    other = new_pipe()
    report = load_lora(other, tmp_path / "x.safetensors")
    assert (report.matched, report.unmatched) == (len(unet) + len(text), ())
    assert report.identity.details["layout"] == "dotted"
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_the_original_code_s_names_of_blocks(
    pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    """input_blocks, middle_block and output_blocks, as ComfyUI names a UNet's layers."""
    unet = add_lora(pipe.unet, r=2, lora_alpha=2, target_modules=["to_q", "to_k"])
    a_level = pipe.unet.config.layers_per_block + 1

    def original(layer: str) -> str:
        block, *rest = layer.split(".")
        if block == "mid_block":
            return ".".join(["middle_block", "1", *rest[2:]])
        level, _, place, *rest = rest
        first = 1 if block == "down_blocks" else 0
        number = first + int(level) * a_level + int(place)
        name = "input_blocks" if first else "output_blocks"
        return ".".join([name, str(number), "1", *rest])

    state = {}
    for key, tensor in unet.items():
        layer, _, matrix = key.partition(".lora_")
        end = "lora_down" if matrix[0] == "A" else "lora_up"
        state[f"diffusion_model.{original(layer)}.{end}.weight"] = tensor
    save_file(state, tmp_path / "x.safetensors")
    other = new_pipe()
    report = load_lora(other, tmp_path / "x.safetensors")
    assert (report.matched, report.unmatched) == (len(unet), ())
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def test_keys_that_the_converter_leaves_out_are_told(
    kohya_file: Path, new_pipe: Callable[[], Pipe]
) -> None:
    """Of a file that mixes both ways of naming blocks, diffusers drops one without a word."""
    state = load_file(kohya_file)
    key = "lora_unet_input_blocks_1_1_proj_in"
    state |= {f"{key}.lora_{m}.weight": torch.zeros(2, 2) for m in ("up", "down")}
    save_file(state, kohya_file)
    report = load_lora(new_pipe(), kohya_file)
    assert set(report.unmatched) == {f"{key}.lora_up.weight", f"{key}.lora_down.weight"}


def test_peft_s_names_while_it_trains(
    taught: tuple, new_pipe: Callable[[], Pipe], tmp_path: Path
) -> None:
    unet, text, pipe = taught
    state = {f"base_model.model.{k}": v for k, v in unet.items()}
    state |= {f"base_model.model.text_encoder.text_model.{k}": v for k, v in text.items()}
    state = {re.sub(r"(lora_[AB])", r"\1.default", key): v for key, v in state.items()}
    save_file(state, tmp_path / "x.safetensors")
    other = new_pipe()
    report = load_lora(other, tmp_path / "x.safetensors")
    assert (report.matched, report.unmatched) == (len(unet) + len(text), ())
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-6)


def as_kohya_dora(unet: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LyCORIS's magnitudes: one number an output, in the shape of the layer's weight."""
    plain = {f"unet.{k}": v for k, v in unet.items() if "magnitude" not in k}
    state = convert_state_dict_to_kohya(plain)
    for key, magnitude in unet.items():
        if key.endswith("lora_magnitude_vector"):
            layer = key.removesuffix(".lora_magnitude_vector").replace(".", "_")
            shape = (-1, 1, 1, 1) if magnitude.ndim == 4 else (-1, 1)
            state[f"lora_unet_{layer}.dora_scale"] = magnitude.reshape(shape).contiguous()
    return state


def test_kohya_dora(pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    """Of attention and convolutions."""
    unet = add_lora(pipe.unet, r=4, lora_alpha=4, target_modules=["to_q", "conv1"], use_dora=True)
    for key in unet:
        if "magnitude" in key:
            unet[key] = unet[key] * 1.5
    for module in pipe.unet.modules():
        if vectors := getattr(module, "lora_magnitude_vector", None):
            vectors["made"].weight.data *= 1.5
    path = tmp_path / "x.safetensors"
    state = as_kohya_dora(unet)
    save_file(state, path)
    other = new_pipe()
    report = load_lora(other, path)
    assert report.identity.details["method"] == "DoRA"
    assert report.unmatched == ()
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-5)
    scale = next(key for key in state if key.endswith("dora_scale"))
    save_file({k: v for k, v in state.items() if k != scale}, path)
    assert "for some of its layers only" in refusal(new_pipe(), path)
    save_file({**state, scale: torch.ones(1, 3)}, path)
    assert "magnitude of shape (1, 3)" in refusal(new_pipe(), path)
    save_file({**state, "lora_unet_nowhere.dora_scale": torch.ones(2, 1)}, path)
    assert "stands beside no LoRA" in refusal(new_pipe(), path)


def test_dora_of_a_text_encoder(pipe: Pipe, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    text = add_lora(
        pipe.text_encoder, r=2, lora_alpha=2, target_modules=["q_proj", "fc1"], use_dora=True
    )
    for key in text:
        if "magnitude" in key:
            text[key] = text[key] * 1.5
    for module in pipe.text_encoder.modules():
        if vectors := getattr(module, "lora_magnitude_vector", None):
            vectors["made"].weight.data *= 1.5
    state = {}
    for key, tensor in text.items():
        layer, _, matrix = key.removeprefix("text_model.").partition(".lora_")
        name = f"lora_te_text_model_{layer.replace('.', '_')}"
        if matrix.startswith("magnitude"):
            state[f"{name}.dora_scale"] = tensor[:, None].contiguous()
        else:
            state[f"{name}.lora_{'down' if matrix[0] == 'A' else 'up'}.weight"] = tensor
    save_file(state, tmp_path / "x.safetensors")
    other = new_pipe()
    report = load_lora(other, tmp_path / "x.safetensors")
    assert (report.matched, report.unmatched) == (len(text), ())
    np.testing.assert_allclose(draw(other), draw(pipe), atol=1e-5)


def test_a_kernel_of_one_may_be_written_or_left_out(
    kohya_file: Path, taught: tuple, new_pipe: Callable[[], Pipe]
) -> None:
    state = load_file(kohya_file)
    for key, tensor in state.items():
        if tensor.ndim == 2:
            state[key] = tensor[..., None, None].contiguous()
        elif tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            state[key] = tensor.flatten(1).contiguous()
    save_file(state, kohya_file)
    other = new_pipe()
    assert load_lora(other, kohya_file).unmatched == ()
    np.testing.assert_allclose(draw(other), draw(taught[2]), atol=1e-6)


def test_floats_of_8_bits(kohya_file: Path, new_pipe: Callable[[], Pipe], tmp_path: Path) -> None:
    small = {key: t.to(torch.float8_e4m3fn) for key, t in load_file(kohya_file).items()}
    save_file(small, kohya_file)
    save_file({key: t.float() for key, t in small.items()}, tmp_path / "same.safetensors")
    one, other = new_pipe(), new_pipe()
    load_lora(one, kohya_file)
    load_lora(other, tmp_path / "same.safetensors")
    assert np.array_equal(draw(one), draw(other))
