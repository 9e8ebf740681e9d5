"""A tiny pipeline's weights in one file, under the names of the original checkpoints."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}

Names = Iterator[tuple[str, str]]


def single_file_state(pipe: Any) -> dict[str, Tensor]:
    """Of a Stable Diffusion 1.5 or XL pipeline whose UNet and autoencoder have two levels."""
    vae = pipe.vae.state_dict()
    parts = {
        "model.diffusion_model.": _under(pipe.unet.state_dict(), dict(_unet_names(pipe.unet))),
        "first_stage_model.": {
            # Attention of the original autoencoder is made of 1x1 convolutions.
            key: v[:, :, None, None] if "attn_1" in key and v.ndim == 2 else v
            for key, v in _under(vae, dict(_vae_names(vae))).items()
        },
    }
    text = pipe.text_encoder.state_dict()
    if getattr(pipe, "text_encoder_2", None) is None:
        parts["cond_stage_model.transformer.text_model."] = text
    else:
        parts["conditioner.embedders.0.transformer.text_model."] = text
        parts["conditioner.embedders.1.model."] = _open_clip(pipe.text_encoder_2.state_dict())
    return {
        prefix + key: value.contiguous().clone()
        for prefix, part in parts.items()
        for key, value in part.items()
    }


def _under(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors below the given prefixes, under other prefixes."""
    return {
        new + key.removeprefix(old): value
        for old, new in names.items()
        for key, value in state.items()
        if key.startswith(old + ".")
    }


def _resnet(old: str, new: str) -> Names:
    yield from ((f"{old}.{part}", f"{new}.{name}") for part, name in _RESNET.items())


def _unet_names(unet: Any) -> Names:
    """diffusers' names of a UNet's parts and those of the original checkpoints."""
    yield from {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }.items()
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield from _resnet("mid_block.resnets.1", "middle_block.2")
    place = 1
    for i, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            yield from _resnet(f"down_blocks.{i}.resnets.{layer}", f"input_blocks.{place}.0")
            yield f"down_blocks.{i}.attentions.{layer}", f"input_blocks.{place}.1"
            place += 1
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{place}.0.op"
        place += 1
    place = 0
    for i, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            yield from _resnet(f"up_blocks.{i}.resnets.{layer}", f"output_blocks.{place}.0")
            yield f"up_blocks.{i}.attentions.{layer}", f"output_blocks.{place}.1"
            place += 1
        after = 2 if getattr(block, "attentions", None) else 1
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{place - 1}.{after}.conv"


def _vae_names(state: dict[str, Tensor]) -> Names:
    yield from {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}.items()
    for half, blocks, layers, sampler in (
        ("encoder", "down", 1, "downsample"),
        ("decoder", "up", 2, "upsample"),
    ):
        for part in ("conv_in", "conv_out"):
            yield f"{half}.{part}", f"{half}.{part}"
        yield f"{half}.conv_norm_out", f"{half}.norm_out"
        for block in range(2):
            theirs = block if blocks == "down" else 1 - block
            for layer in range(layers):
                old = f"{half}.{blocks}_blocks.{block}.resnets.{layer}"
                new = f"{half}.{blocks}.{theirs}.block.{layer}"
                for part in ("norm1", "conv1", "norm2", "conv2"):
                    yield f"{old}.{part}", f"{new}.{part}"
                yield f"{old}.conv_shortcut", f"{new}.nin_shortcut"
            old = f"{half}.{blocks}_blocks.{block}.{sampler}rs.0"
            yield old, f"{half}.{blocks}.{theirs}.{sampler}"
        for layer in range(2):
            yield f"{half}.mid_block.resnets.{layer}", f"{half}.mid.block_{layer + 1}"
        for old, new in _VAE_ATTENTION.items():
            yield f"{half}.mid_block.attentions.0.{old}", f"{half}.mid.attn_1.{new}"


def _open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SDXL's larger text encoder: query, key and value in one matrix, the projection transposed."""
    text = {key.removeprefix("text_model."): value for key, value in state.items()}
    made = {
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": text["text_projection.weight"].T,
    }
    layers = {key.split(".")[2] for key in text if key.startswith("encoder.layers.")}
    for layer in sorted(layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            made[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                [text[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
        made |= _under(text, {f"{old}.{a}": f"{new}.{b}" for a, b in _OPEN_CLIP.items()})
    return made
