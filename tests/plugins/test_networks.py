"""ControlNets, autoencoders and IP-Adapters: folders and single files, whole and of the family."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    AutoPipelineForText2Image,
    ControlNetModel,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.plugins.ip_adapter import load_ip_adapter
from bridge_diffusion.plugins.lora import load_lora
from bridge_diffusion.plugins.networks import load_controlnet, load_vae

from .conftest import Trap, draw, frozen, same

Pipe = Any
WEIGHTS = "diffusion_pytorch_model.safetensors"


@torch.no_grad()
def drawn(network: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.fixture
def net_folder(pipe: Pipe, tmp_path: Path) -> Path:
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    drawn(net, 1).save_pretrained(tmp_path / "edges")
    return tmp_path / "edges"


def refusal(load: Callable, pipe: Pipe, path: Path, *more: Any) -> str:
    with pytest.raises(BridgeError) as error:
        load(pipe, path, *more)
    assert "\n" not in str(error.value)
    return str(error.value)


# ControlNet


def test_a_controlnet_folder_and_its_file_alone(
    pipe: Pipe, net_folder: Path, tmp_path: Path
) -> None:
    """The file alone gets its configuration from the model, and from its own shapes."""
    saved = load_file(net_folder / WEIGHTS)
    alone = tmp_path / "edges.safetensors"
    shutil.copy(net_folder / WEIGHTS, alone)
    torch.save(saved, tmp_path / "edges.pth")
    for path in (net_folder, net_folder / WEIGHTS, alone, tmp_path / "edges.pth"):
        assert same(load_controlnet(pipe, path).state_dict(), saved)


@pytest.mark.parametrize("attached_first", [True, False])
def test_a_controlnet_with_a_bridge_and_a_lora(
    pipe: Pipe,
    kohya_file: Path,
    new_release_bridge: Callable[[], Bridge],
    net_folder: Path,
    picture: Image.Image,
    attached_first: bool,
) -> None:
    bridge = new_release_bridge()
    branch = frozen(bridge.branch)
    if attached_first:
        bridge.attach(pipe)
    load_lora(pipe, kohya_file)
    net = load_controlnet(pipe, net_folder)
    whole = AutoPipelineForText2Image.from_pipe(pipe, controlnet=net)
    whole.set_progress_bar_config(disable=True)
    bridge.attach(whole)
    prompt = bridge.prompt("狐狸", english="fox")
    acts = draw(whole, **prompt, image=picture)
    nothing = draw(whole, **prompt, image=picture, controlnet_conditioning_scale=0.0)
    np.testing.assert_allclose(nothing, draw(pipe, **prompt), atol=1e-6)
    assert not np.array_equal(acts, nothing)
    assert same(frozen(bridge.branch), branch)


def test_controlnets_that_do_not_belong(pipe: Pipe, net_folder: Path, tmp_path: Path) -> None:
    config = json.loads((net_folder / "config.json").read_text())
    for change, words in (
        ({"cross_attention_dim": 2048}, "made for SDXL, but the model is Stable Diffusion 1.5"),
        ({"cross_attention_dim": 48}, "cannot be loaded"),
        ({"_class_name": "ControlNetUnionModel"}, "is a model, not a ControlNet"),
    ):
        (net_folder / "config.json").write_text(json.dumps(config | change))
        assert words in refusal(load_controlnet, pipe, net_folder)
    other = UNet2DConditionModel.from_config({**pipe.unet.config, "cross_attention_dim": 48})
    ControlNetModel.from_unet(other).save_pretrained(tmp_path / "other")
    message = refusal(load_controlnet, pipe, tmp_path / "other")
    assert "cross_attention_dim=48, the model has 32" in message
    shutil.copy(tmp_path / "other" / WEIGHTS, tmp_path / "other.safetensors")
    message = refusal(load_controlnet, pipe, tmp_path / "other.safetensors")
    assert "does not fit the model" in message


def test_a_controlnet_of_many_tasks(pipe: Pipe, net_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "union.safetensors"
    save_file(load_file(net_folder / WEIGHTS) | {"task_embedding": torch.zeros(6, 8)}, path)
    assert "1 tensors that a ControlNet has not, the first task_embedding" in refusal(
        load_controlnet, pipe, path
    )


@pytest.mark.parametrize("alone", [True, False])
def test_damaged_controlnets(pipe: Pipe, net_folder: Path, tmp_path: Path, alone: bool) -> None:
    weights = tmp_path / "x.safetensors" if alone else net_folder / WEIGHTS
    path = weights if alone else net_folder
    state = load_file(net_folder / WEIGHTS)
    lost = "controlnet_mid_block.weight"
    save_file({k: v for k, v in state.items() if k != lost}, weights, {"format": "pt"})
    words = "lacks some of its tensors" if alone else f"lacks 1 tensors, the first {lost}"
    assert words in refusal(load_controlnet, pipe, path)
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "cut short" in refusal(load_controlnet, pipe, path)
    torch.save({"x": Trap(tmp_path / "sprung")}, weights)
    assert "is a pickle" in refusal(load_controlnet, pipe, path)
    weights.unlink()
    refusal(load_controlnet, pipe, path)
    torch.save({"x": Trap(tmp_path / "sprung")}, weights.with_suffix(".bin"))
    refusal(load_controlnet, pipe, path.with_suffix(".bin") if alone else path)
    assert not (tmp_path / "sprung").exists()


def test_other_kinds_as_controlnet(pipe: Pipe, kohya_file: Path, reference_weights: Path) -> None:
    assert "give it with --lora" in refusal(load_controlnet, pipe, kohya_file)
    branch = reference_weights / "controlnet"  # a published bridge
    assert "give it with --bridge" in refusal(load_controlnet, pipe, branch)
    alone = shutil.copy(branch / WEIGHTS, kohya_file.with_name("branch.safetensors"))
    assert "is a bridge branch, not a ControlNet" in refusal(load_controlnet, pipe, Path(alone))


# Autoencoders


def to_ldm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of Stable Diffusion's original code, for an autoencoder of two levels."""
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in (
            ("down_blocks.0.resnets.0", "down.0.block.0"),
            ("down_blocks.1.resnets.0", "down.1.block.0"),
            ("down_blocks.0.downsamplers.0", "down.0.downsample"),
            ("up_blocks.0.upsamplers.0", "up.1.upsample"),
            ("up_blocks.0.resnets", "up.1.block"),
            ("up_blocks.1.resnets", "up.0.block"),
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
            ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
            ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
        ):
            key = key.replace(ours, theirs)
        is_attention = "attn_1" in key and tensor.ndim == 2
        renamed[key] = tensor[..., None, None].contiguous() if is_attention else tensor
    return renamed


def test_an_autoencoder_folder_and_single_files(pipe: Pipe, tmp_path: Path) -> None:
    """diffusers' names and the original code's, with and without its prefix."""
    other = drawn(AutoencoderKL.from_config(pipe.vae.config), 2)
    other.save_pretrained(tmp_path / "vae")
    state = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    shutil.copy(tmp_path / "vae" / WEIGHTS, tmp_path / "named.safetensors")
    save_file(to_ldm(state), tmp_path / "ldm.safetensors")
    prefixed = {f"first_stage_model.{k}": v for k, v in to_ldm(state).items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    torch.save({"state_dict": to_ldm(state)}, tmp_path / "ldm.pt")
    for name in ("vae", "named.safetensors", "ldm.safetensors", "prefixed.safetensors", "ldm.pt"):
        vae = load_vae(pipe, tmp_path / name)
        assert same(vae.state_dict(), state), name


def test_a_tiny_autoencoder_may_stand_in(pipe: Pipe, tmp_path: Path) -> None:
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), upsampling_scaling_factor=2,
    )  # fmt: skip
    tiny.save_pretrained(tmp_path / "tiny")
    pipe.register_modules(vae=load_vae(pipe, tmp_path / "tiny"))
    assert draw(pipe).shape == (1, 32, 32, 3)


def test_autoencoders_that_do_not_belong(pipe: Pipe, tmp_path: Path) -> None:
    for change, words in (
        ({"scaling_factor": 0.13025}, "scaling factor 0.13025, the model's own has 0.18215"),
        ({"latent_channels": 16}, "latent channels 16, the model's own has 4"),
    ):
        config = {**pipe.vae.config, **change}
        AutoencoderKL.from_config(config).save_pretrained(tmp_path / "vae")
        assert words in refusal(load_vae, pipe, tmp_path / "vae")
    config = {**pipe.vae.config, "block_out_channels": (4, 4, 8)}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * 3}
    config |= {"up_block_types": ("UpDecoderBlock2D",) * 3}
    AutoencoderKL.from_config(config).save_pretrained(tmp_path / "vae")
    assert "pixels a latent 4, the model's own has 2" in refusal(load_vae, pipe, tmp_path / "vae")
    state = {k: v for k, v in pipe.vae.state_dict().items() if k != "decoder.conv_out.bias"}
    save_file(state, tmp_path / "x.safetensors")
    assert "lacks some of its tensors" in refusal(load_vae, pipe, tmp_path / "x.safetensors")


# IP-Adapter


@pytest.fixture
def ip_folder(pipe: Pipe, tmp_path: Path) -> Path:
    """As the community publishes them: models/NAME beside models/image_encoder."""
    folder = tmp_path / "models"
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(4)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    save_file(ip_state(pipe.unet), folder / "ip.safetensors")
    return folder


def ip_state(unet: Any, width: int = 32) -> dict[str, torch.Tensor]:
    state = {
        "image_proj.proj.weight": torch.randn(4 * width, 16),
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    cross = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(cross):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for matrix in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * number + 1}.{matrix}.weight"
            state[key] = torch.randn(hidden, width)
    return state


@pytest.mark.parametrize("where", ["file", "folder", "sub-folder", "pickle"])
def test_an_ip_adapter_with_a_bridge(
    pipe: Pipe, bridge_of: Callable, ip_folder: Path, picture: Image.Image, where: str
) -> None:
    path = {"folder": ip_folder}.get(where, ip_folder / "ip.safetensors")
    if where == "sub-folder":
        (ip_folder / "sd15").mkdir()
        path = path.rename(ip_folder / "sd15" / "ip.safetensors")
    elif where == "pickle":
        nested: dict[str, dict] = {}
        for key, tensor in load_file(path).items():
            table, _, rest = key.partition(".")
            nested.setdefault(table, {})[rest] = tensor
        torch.save(nested, path := ip_folder / "ip.bin")
    bridge = bridge_of(pipe)
    plain = draw(pipe, **bridge.prompt("狐狸"))
    load_ip_adapter(pipe, path, 0.5)
    acts = draw(pipe, **bridge.prompt("狐狸"), ip_adapter_image=picture)
    assert not np.allclose(acts, plain, atol=1e-3)
    pipe.set_ip_adapter_scale(0.0)
    nothing = draw(pipe, **bridge.prompt("狐狸"), ip_adapter_image=picture)
    np.testing.assert_allclose(nothing, plain, atol=1e-5)


@pytest.fixture
def bridge_of(new_release_bridge: Callable[[], Bridge]) -> Callable[[Pipe], Bridge]:
    return lambda pipe: new_release_bridge().attach(pipe)


def test_ip_adapters_that_do_not_belong(pipe: Pipe, ip_folder: Path) -> None:
    path = ip_folder / "ip.safetensors"
    save_file(ip_state(pipe.unet, width=2048), path)
    message = refusal(load_ip_adapter, pipe, path, 1.0)
    assert "made for SDXL, but the model is Stable Diffusion 1.5" in message
    save_file(ip_state(pipe.unet, width=48), path)
    assert "cannot be loaded" in refusal(load_ip_adapter, pipe, path, 1.0)


def test_ip_adapters_that_read_something_else(pipe: Pipe, ip_folder: Path) -> None:
    """Another image encoder's features, or a face recogniser's numbers: told before drawing."""
    path = ip_folder / "ip.safetensors"
    state = ip_state(pipe.unet)
    save_file(state | {"image_proj.proj.weight": torch.zeros(4 * 32, 24)}, path)
    message = refusal(load_ip_adapter, pipe, path, 1.0)
    assert "features of width 24, the image_encoder beside it gives 16" in message
    save_file(state | {"ip_adapter.0.to_q_lora.down.weight": torch.zeros(4, 32)}, path)
    assert "is a FaceID adapter" in refusal(load_ip_adapter, pipe, path, 1.0)
    assert not hasattr(pipe.unet, "encoder_hid_proj") or pipe.unet.encoder_hid_proj is None


def test_ip_adapters_that_are_not_there(pipe: Pipe, ip_folder: Path, kohya_file: Path) -> None:
    path = ip_folder / "ip.safetensors"
    assert "give it with --lora" in refusal(load_ip_adapter, pipe, kohya_file, 1.0)
    shutil.copy(path, ip_folder / "another.safetensors")
    assert "holds 2 weight files" in refusal(load_ip_adapter, pipe, ip_folder, 1.0)
    shutil.rmtree(ip_folder / "image_encoder")
    message = refusal(load_ip_adapter, pipe, path, 1.0)
    assert "no folder image_encoder beside it" in message
    path.write_bytes(path.read_bytes()[:-4])
    assert "cut short" in refusal(load_ip_adapter, pipe, path, 1.0)
