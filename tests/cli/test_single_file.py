"""Single files draw what the same model draws as a folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.single_file import SD15_CONFIG, clip_tokenizer, load_single_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def under(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors below the given prefixes, under other prefixes."""
    return {
        new + key.removeprefix(old): value
        for old, new in names.items()
        for key, value in state.items()
        if key.startswith(old + ".")
    }


def resnet_names(old: str, new: str) -> dict[str, str]:
    return {f"{old}.{part}": f"{new}.{name}" for part, name in RESNET.items()}


def unet_names() -> Iterator[tuple[str, str]]:
    """Names of the tiny UNet's parts: diffusers' and those of the original checkpoints."""
    yield from {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }.items()
    for old, new in (
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.resnets.0", "output_blocks.0.0"),
        ("up_blocks.0.resnets.1", "output_blocks.1.0"),
        ("up_blocks.1.resnets.0", "output_blocks.2.0"),
        ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ):
        yield from resnet_names(old, new).items()


def vae_names(state: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    yield from {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}.items()
    for half, blocks, last, sampler in (
        ("encoder", "down", 1, "downsample"),
        ("decoder", "up", 2, "upsample"),
    ):
        for part in ("conv_in", "conv_out"):
            yield f"{half}.{part}", f"{half}.{part}"
        yield f"{half}.conv_norm_out", f"{half}.norm_out"
        for block in range(2):
            theirs = block if blocks == "down" else 1 - block
            for layer in range(last):
                old = f"{half}.{blocks}_blocks.{block}.resnets.{layer}"
                new = f"{half}.{blocks}.{theirs}.block.{layer}"
                yield from ((f"{old}.{p}", f"{new}.{p}") for p in ("norm1", "conv1", "norm2"))
                yield from ((f"{old}.{p}", f"{new}.{p}") for p in ("conv2",))
            old = f"{half}.{blocks}_blocks.{block}.{sampler}rs.0"
            yield old, f"{half}.{blocks}.{theirs}.{sampler}"
        for layer in range(2):
            yield f"{half}.mid_block.resnets.{layer}", f"{half}.mid.block_{layer + 1}"
        for old, new in VAE_ATTENTION.items():
            yield f"{half}.mid_block.attentions.0.{old}", f"{half}.mid.attn_1.{new}"


def single_file_state(pipe: StableDiffusionPipeline) -> dict[str, Tensor]:
    """The pipeline's weights under the names of the original checkpoints."""
    vae = pipe.vae.state_dict()
    parts = {
        "model.diffusion_model.": under(pipe.unet.state_dict(), dict(unet_names())),
        "first_stage_model.": {
            # Attention of the original autoencoder is made of 1x1 convolutions.
            key: v[:, :, None, None] if "attn_1" in key and v.ndim == 2 else v
            for key, v in under(vae, dict(vae_names(vae))).items()
        },
        "cond_stage_model.transformer.text_model.": pipe.text_encoder.state_dict(),
    }
    return {
        prefix + key: value.contiguous()
        for prefix, part in parts.items()
        for key, value in part.items()
    }


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
