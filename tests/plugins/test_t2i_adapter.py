"""T2I-Adapters: folders and the published single files, of the model's family or refused."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import T2IAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from bridge_diffusion import BridgeError
from bridge_diffusion.identify import identify
from bridge_diffusion.plugins.t2i_adapter import adapter_pipeline, load_t2i_adapter

from .conftest import same

WEIGHTS = "diffusion_pytorch_model.safetensors"


def adapter_for(pipe: Any, kind: str, **changes: Any) -> T2IAdapter:
    widths = list(pipe.unet.config.block_out_channels)
    settings = {
        "in_channels": 1,
        "channels": widths[:-1] if kind == "light_adapter" else widths,
        "num_res_blocks": 2,
        "downscale_factor": pipe.vae_scale_factor * (2 if kind == "full_adapter_xl" else 1),
        "adapter_type": kind,
    } | changes
    torch.manual_seed(4)
    return T2IAdapter(**settings)


def even(pipe: Any) -> Any:
    """A pipeline's parts that count, with last levels as wide as each other, as real ones have."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )
    return SimpleNamespace(unet=unet, vae_scale_factor=pipe.vae_scale_factor)


def published(adapter: T2IAdapter) -> dict[str, torch.Tensor]:
    """TencentARC's names: a flat list of blocks, or of levels with bodies of their own."""
    light = adapter.config.adapter_type == "light_adapter"

    def name(key: str) -> str:
        key = key.removeprefix("adapter.")
        if light:
            return re.sub(r"body\.(\d+)\.resnets\.", r"body.\1.body.", key)
        if match := re.fullmatch(r"body\.(\d+)\.resnets\.(\d+)\.(.+)", key):
            return f"body.{2 * int(match[1]) + int(match[2])}.{match[3]}"
        return key.replace("body.1.in_conv", "body.2.in_conv")

    return {name(key): tensor.clone() for key, tensor in adapter.state_dict().items()}


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
def test_a_folder_and_single_files(pipe: Any, tmp_path: Path, kind: str) -> None:
    pipe = even(pipe) if kind == "light_adapter" else pipe
    adapter = adapter_for(pipe, kind)
    adapter.save_pretrained(tmp_path / "sketch")
    state = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
    save_file(published(adapter), tmp_path / "sketch.safetensors")
    save_file(state, tmp_path / "named.safetensors")
    torch.save(published(adapter), tmp_path / "sketch.pth")
    for name in ("sketch", f"sketch/{WEIGHTS}", "sketch.safetensors", "named.safetensors",
                 "sketch.pth"):  # fmt: skip
        loaded = load_t2i_adapter(pipe, tmp_path / name)
        assert same(loaded.state_dict(), state), name
        assert (loaded.config.in_channels, loaded.config.adapter_type) == (1, kind)


def test_sdxl(xl_pipe: Any, tmp_path: Path) -> None:
    adapter = adapter_for(xl_pipe, "full_adapter_xl")
    adapter.save_pretrained(tmp_path / "sketch")
    save_file(published(adapter), tmp_path / "sketch.safetensors")
    for name in ("sketch", "sketch.safetensors"):
        assert same(load_t2i_adapter(xl_pipe, tmp_path / name).state_dict(), adapter.state_dict())
    assert identify(tmp_path / "sketch").family == "sdxl"


def test_the_family_of_published_sizes(tmp_path: Path) -> None:
    for channels, family in ((192, "sd15"), (64, "sd15"), (768, "sdxl"), (256, "sdxl")):
        state = {"conv_in.weight": torch.zeros(2, channels, 3, 3)}
        save_file(state | {"body.0.block1.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
        identity = identify(tmp_path / "x.safetensors")
        assert (identity.kind, identity.family) == ("T2I-Adapter", family)


def test_what_does_not_belong(pipe: Any, xl_pipe: Any, tmp_path: Path) -> None:
    def refusal(path: Path, where: Any = pipe, load: Callable = load_t2i_adapter) -> str:
        with pytest.raises(BridgeError) as error:
            load(where, path)
        assert "\n" not in str(error.value)
        return str(error.value)

    adapter_for(pipe, "full_adapter", channels=(8, 8)).save_pretrained(tmp_path / "narrow")
    assert "levels of widths [8, 8]" in refusal(tmp_path / "narrow")
    adapter_for(pipe, "full_adapter", downscale_factor=8).save_pretrained(tmp_path / "coarse")
    assert "pixels a feature 8" in refusal(tmp_path / "coarse")
    adapter_for(pipe, "full_adapter").save_pretrained(tmp_path / "sketch")
    assert "made for Stable Diffusion 1.5, but the model is SDXL" in refusal(
        tmp_path / "sketch", xl_pipe
    )
    state = load_file(tmp_path / "sketch" / WEIGHTS)
    lost = min(state)
    del state[lost]
    save_file(state, tmp_path / "x.safetensors")
    assert lost in refusal(tmp_path / "x.safetensors")
    save_file(state, tmp_path / "sketch" / WEIGHTS, {"format": "pt"})
    assert f"lacks 1 tensors, the first {lost}" in refusal(tmp_path / "sketch")
    save_file({"emb_params": torch.zeros(1, 32)}, tmp_path / "x.safetensors")
    assert "give it with --embedding" in refusal(tmp_path / "x.safetensors")


def test_several_of_different_scales_are_refused(pipe: Any) -> None:
    both = (adapter_for(pipe, "full_adapter"), adapter_for(pipe, "full_adapter", channels=(8,)))
    with pytest.raises(BridgeError, match="cannot be used together"):
        adapter_pipeline(pipe, both)
