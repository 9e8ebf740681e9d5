"""Plug-ins of each kind for the tiny pipeline, as the community would save them."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection


def save_plugins(model: Path, folder: Path) -> None:
    """Fill a folder: LoRAs, a Textual Inversion, a ControlNet, a VAE, an IP-Adapter."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    state = {f"unet.{k}": v for k, v in trained(unet, ["to_q", "to_v", "conv1"], 1).items()}
    save_file(convert_state_dict_to_kohya(state), folder / "style.safetensors")
    text = CLIPTextModel.from_pretrained(model / "text_encoder")
    words = trained(text, ["q_proj", "fc1"], 2)
    StableDiffusionPipeline.save_lora_weights(
        folder / "lora", text_encoder_lora_layers=words, weight_name="words.v2.safetensors"
    )
    torch.manual_seed(3)
    save_file({"emb_params": torch.randn(2, 32)}, folder / "mood.safetensors")
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    net.save_pretrained(folder / "edges")
    vae = AutoencoderKL.from_pretrained(model / "vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias += 0.2
    vae.save_pretrained(folder / "bright")
    ip_adapter(unet, folder / "ip")


def trained(network: Any, targets: list[str], seed: int) -> dict[str, torch.Tensor]:
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets), "made")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return get_peft_model_state_dict(network, adapter_name="made")


def ip_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """A file with the keys of the published IP-Adapters, and its image encoder beside it."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(4)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    state = {
        "image_proj.proj.weight": torch.randn(4 * 32, 16),
        "image_proj.proj.bias": torch.zeros(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }
    cross = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(cross):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for matrix in ("to_k_ip", "to_v_ip"):
            weight = torch.randn(hidden, 32)
            state[f"ip_adapter.{2 * number + 1}.{matrix}.weight"] = weight
    save_file(state, folder / "ip-adapter.safetensors")
