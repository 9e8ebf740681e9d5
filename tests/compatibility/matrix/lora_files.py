"""LoRAs of a tiny pipeline, in the layouts that the community shares."""

from typing import Any

import torch
from torch import Tensor, nn

RANK = 2
ATTENTION = ("to_q", "to_k", "to_v")
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def _targets(network: nn.Module, endings: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    found = [(n, m) for n, m in network.named_modules() if n.endswith(endings) and "lora" not in n]
    assert found
    return found


def _pairs(
    network: nn.Module, endings: tuple[str, ...], seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up matrices (kernels, for convolutions) of a LoRA that has learnt something."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[1] ** 0.5

    pairs = {}
    for name, module in _targets(network, endings):
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size
            pairs[name] = (
                draw(RANK, module.in_channels, *kernel),
                draw(module.out_channels, RANK, 1, 1),
            )
        else:
            pairs[name] = (draw(RANK, module.in_features), draw(module.out_features, RANK))
    return pairs


def _text_encoders(pipe: Any) -> dict[str, nn.Module]:
    names = ("text_encoder", "text_encoder_2")
    return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}


def _text_name(module: str) -> str:
    """Files name the modules as CLIP's text model had them before transformers 5."""
    return "text_model." + module.removeprefix("text_model.")


def as_peft(pipe: Any, seed: int) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in _pairs(pipe.unet, ATTENTION, seed).items():
        state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    for encoder, network in _text_encoders(pipe).items():
        for name, (down, up) in _pairs(network, _TEXT, seed + 1).items():
            prefix = f"{encoder}.{_text_name(name)}"
            state |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
    return state


def as_old_diffusers(pipe: Any, seed: int) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in _pairs(pipe.unet, ATTENTION, seed).items():
        attention, _, projection = name.rpartition(".")
        prefix = f"unet.{attention}.processor.{projection}_lora"
        state |= {f"{prefix}.down.weight": down, f"{prefix}.up.weight": up}
    for encoder, network in _text_encoders(pipe).items():
        for name, (down, up) in _pairs(network, _TEXT, seed + 1).items():
            attention, _, projection = _text_name(name).rpartition(".")
            prefix = f"{encoder}.{attention}.to_{projection.removesuffix('_proj')}_lora"
            state |= {f"{prefix}.down.weight": down, f"{prefix}.up.weight": up}
    return state


def as_kohya(pipe: Any, seed: int, endings: tuple[str, ...] = ATTENTION) -> dict[str, Tensor]:
    encoders = _text_encoders(pipe)
    prefixes = ["lora_te"] if len(encoders) == 1 else ["lora_te1", "lora_te2"]
    named = {
        f"lora_unet_{name.replace('.', '_')}": pair
        for name, pair in _pairs(pipe.unet, endings, seed).items()
    }
    for prefix, network in zip(prefixes, encoders.values(), strict=True):
        for name, pair in _pairs(network, _TEXT, seed + 1).items():
            named[f"{prefix}_{_text_name(name).replace('.', '_')}"] = pair
    state = {}
    for name, (down, up) in named.items():
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def as_locon(pipe: Any, seed: int) -> dict[str, Tensor]:
    return as_kohya(pipe, seed, (*ATTENTION, "conv1", "conv2"))


def as_loha(pipe: Any, seed: int) -> dict[str, Tensor]:
    state = {}
    for name, (down, up) in _pairs(pipe.unet, ATTENTION, seed).items():
        prefix = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{prefix}.hada_w1_a": up, f"{prefix}.hada_w1_b": down}
        state |= {f"{prefix}.hada_w2_a": up.clone(), f"{prefix}.hada_w2_b": down.clone()}
        state[f"{prefix}.alpha"] = torch.tensor(1.0)
    return state


def as_dora(pipe: Any, seed: int) -> dict[str, Tensor]:
    state = {key: v for key, v in as_peft(pipe, seed).items() if key.startswith("unet.")}
    for name, module in _targets(pipe.unet, ATTENTION):
        size = module.weight.norm(dim=1)
        state[f"unet.{name}.lora_magnitude_vector"] = 1.3 * size
    return state
