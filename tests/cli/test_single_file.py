"""Single files draw what the same model draws as a folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from matrix.single_files import single_file_state
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.single_file import SD15_CONFIG, clip_tokenizer, load_single_file


def drawn(pipe: StableDiffusionPipeline, **inputs: object) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    call = {"num_inference_steps": 2, "generator": generator, "output_type": "np", **inputs}
    return pipe("a fox", **call).images[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_draws_what_its_folder_draws(
    model: Path, tmp_path: Path, suffix: str
) -> None:
    folder = StableDiffusionPipeline.from_pretrained(model)
    state, path = single_file_state(folder), tmp_path / f"tiny{suffix}"
    assert len(state) == sum(len(part.state_dict()) for part in (
        folder.unet, folder.vae, folder.text_encoder,
    ))  # fmt: skip
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 1}, path)
    else:
        save_file(state, path)
    single = load_single_file(path, dtype=torch.float32, config=model, tokenizer=folder.tokenizer)
    np.testing.assert_array_equal(drawn(single), drawn(folder))


def test_nine_channels_are_the_inpainting_pipeline(model: Path, tmp_path: Path) -> None:
    folder = StableDiffusionPipeline.from_pretrained(model)
    state = single_file_state(folder)
    state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(state, tmp_path / "fill.safetensors")
    single = load_single_file(
        tmp_path / "fill.safetensors",
        dtype=torch.float32,
        config=model,
        tokenizer=folder.tokenizer,
    )
    assert type(single).__name__ == "StableDiffusionInpaintPipeline"
    assert single.unet.config.in_channels == 9


def test_sdxl_is_told_apart(bdm: Callable, tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(1, 2048)}, tmp_path / "xl.safetensors")
    outcome = bdm("generate", "x", "--model", tmp_path / "xl.safetensors", "--bridge", "none")
    assert outcome.code == 2
    assert "sdxl" in outcome.err


def test_a_damaged_ckpt(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"\x80\x02", b"text"):
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(BridgeError, match=r"x\.ckpt"):
            load_single_file(tmp_path / "x.ckpt", dtype=torch.float32)


def test_the_shipped_configuration_is_stable_diffusion_15() -> None:
    """Sizes of the published model, in parameters."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(SD15_CONFIG / "unet")
        )
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD15_CONFIG / "vae"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(SD15_CONFIG / "text_encoder"))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (unet, vae, text)]
    assert sizes == [859_520_964, 83_653_863, 123_060_480]
    assert json.loads((SD15_CONFIG / "model_index.json").read_text())["safety_checker"][0] is None


def test_the_tokenizer_is_clips() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49_408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("a", padding="max_length").input_ids
    assert len(padded) == 77
    assert padded[-1] == 49407
