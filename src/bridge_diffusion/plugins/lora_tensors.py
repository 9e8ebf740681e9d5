"""A LoRA's tensors by diffusers' names and at scale 1, whatever its layout.

diffusers 0.42 does not know peft's own files, scales the attention layers of a text encoder wrongly
where alphas differ, and loses them where the output projection was not trained. So the scale
(alpha / rank) is multiplied into the narrowing matrix here, and every layer gets peft's name.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.lora_header import KOHYA_PREFIXES, PARTS, is_down, kohya_key, part_of
from bridge_diffusion.plugins.files import WeightFile

Networks = Mapping[str, nn.Module]
"""A pipeline's networks that LoRAs change, by the names in `PARTS`; weights may be on "meta"."""

LORA_KEY = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight|\.bias)?")
"""A tensor's name: the module, and which of the LoRA's matrices it is."""

_MAGNITUDE = ".dora_scale"
_OF_AN_ADAPTER = re.compile(r"\.(lora_[AB])\.\w+\.weight$")  # as peft holds it while training

_METADATA_KEY = "lora_adapter_metadata"  # where diffusers notes peft's settings


def lora_tensors(
    file: WeightFile, config: Mapping[str, Any] | None, networks: Networks
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by "part.module.lora_A.weight" and the like, scaled; and the keys of no LoRA.

    Args:
        config: The settings that peft wrote beside the file; None where there are none.

    Raises:
        BridgeError: A key has no name in diffusers, or the settings are senseless.
    """
    tensors, unknown = _scaled_by_alphas(file)
    magnitudes: dict[str, Tensor] = {}
    if file.identity.details["layout"] in ("kohya", "dotted"):
        magnitudes = {k: v for k, v in tensors.items() if k.endswith(_MAGNITUDE)}
        tensors = {k: v for k, v in tensors.items() if k not in magnitudes}
        foreign = tuple(key for key in tensors if not key.startswith(KOHYA_PREFIXES))
        own = {key: tensor for key, tensor in tensors.items() if key not in foreign}
        state, unknown = _from_kohya(own, networks, file.path), unknown + foreign
        kept = {id(tensor) for tensor in state.values()}
        unknown += tuple(key for key, tensor in own.items() if id(tensor) not in kept)
    else:
        state = {}
        for key, tensor in tensors.items():
            part, name = part_of(key), key.removeprefix("base_model.model.")
            name = _OF_AN_ADAPTER.sub(r".\1.weight", name)
            state[f"{part}.{name.removeprefix(f'{part}.')}"] = tensor
    named: dict[str, Tensor] = {}
    for part in PARTS:
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        if part == "unet":
            own = convert_unet_state_dict_to_peft(own)
        else:
            for old in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
                own = convert_state_dict_to_peft(own, original_type=old)
        unknown += tuple(f"{part}.{key}" for key in own if not LORA_KEY.fullmatch(key))
        named |= {f"{part}.{k}": tensor for k, tensor in own.items() if LORA_KEY.fullmatch(k)}
    if magnitudes:
        named |= _magnitudes(magnitudes, tensors, named, file.path)
    return _scaled_by_config(named, _configs(file, config)), unknown


def _magnitudes(
    magnitudes: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    named: Mapping[str, Tensor],
    path: Path,
) -> dict[str, Tensor]:
    """DoRA's magnitudes in kohya's layout, by the names of the matrices that stand beside them.

    LyCORIS writes [out, 1, ...], one number an output, as peft has them (Liu et al. 2024,
    arXiv 2402.09353, equation 5); its other form, [1, in, ...], has no equal there.
    """
    layers = {key.rpartition(".lora_down")[0] for key in tensors if is_down(key)}
    without = layers - {key.removesuffix(_MAGNITUDE) for key in magnitudes}
    if without:
        raise BridgeError(
            f"--lora {path} has the magnitudes of a DoRA for some of its layers only (none for "
            f"{min(without)}), which peft does not load; merge it into a checkpoint"
        )
    names = {id(tensor): name for name, tensor in named.items()}
    found = {}
    for key, magnitude in magnitudes.items():
        layer = key.removesuffix(_MAGNITUDE)
        name = names.get(id(tensors.get(f"{layer}.lora_down.weight")))
        up = tensors.get(f"{layer}.lora_up.weight")
        if name is None or up is None:
            raise BridgeError(
                f"--lora {path}: its key {key} stands beside no LoRA; get the file again"
            )
        if magnitude.shape[0] != len(up) or magnitude.numel() != len(up):
            raise BridgeError(
                f"--lora {path} is a DoRA with a magnitude of shape {tuple(magnitude.shape)} for "
                f"{layer}; only one number for each of its {len(up)} outputs is read: merge it "
                "into a checkpoint"
            )
        vector = magnitude.float().flatten()
        if up.ndim == 4:  # peft keeps a convolution's so that it can be broadcast
            vector = vector[None, :, None, None]
        found[name.replace(".lora_A.weight", ".lora_magnitude_vector")] = vector
    return found


def _scaled_by_alphas(file: WeightFile) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """kohya's way: alpha / rank multiplies each pair; without an alpha the scale is 1.

    Also gives the alphas that belong to no pair.
    """
    tensors = {kohya_key(key): tensor for key, tensor in file.tensors.items()}
    alphas = {k.removesuffix(".alpha"): v for k, v in tensors.items() if k.endswith(".alpha")}
    used = set()
    scaled = {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            continue
        _check_numbers(key, tensor, file.path)
        layer = key.rpartition(".lora")[0]
        if is_down(key) and layer in alphas:
            used.add(layer)
            tensor = tensor.float() * (_number(alphas[layer], file.path) / tensor.shape[0])
        scaled[key] = tensor
    return scaled, tuple(f"{layer}.alpha" for layer in alphas if layer not in used)


def _check_numbers(key: str, tensor: Tensor, path: Path) -> None:
    if not tensor.is_floating_point() or not tensor.numel() or not _finite(tensor):
        raise BridgeError(
            f"--lora {path}: its key {key} holds no numbers, or NaN or infinity; get the file again"
        )
    if tensor.ndim < 2 and is_down(key):
        raise BridgeError(f"--lora {path}: its key {key} is no matrix; get the file again")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float()).all())  # torch has no such test of 8-bit floats


def _number(alpha: Tensor, path: Path) -> float:
    if alpha.numel() != 1 or not _finite(alpha):
        raise BridgeError(f"--lora {path}: an alpha in it is no number; get the file again")
    return float(alpha)


def _from_kohya(tensors: dict[str, Tensor], networks: Networks, path: Path) -> Mapping[str, Tensor]:
    """diffusers' names of kohya's keys, by diffusers' own converter; it may leave some out."""
    unet: Any = networks["unet"]
    tensors = dict(tensors)  # the converter empties it
    try:
        if "text_encoder_2" in networks:
            return StableDiffusionXLLoraLoaderMixin.lora_state_dict(
                tensors, unet_config=unet.config
            )[0]
        return StableDiffusionLoraLoaderMixin.lora_state_dict(tensors, unet_config=unet.config)[0]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BridgeError(
            f"--lora {path} has keys that diffusers cannot name ({reason}); is a part of the "
            "file missing?"
        ) from error


def _configs(file: WeightFile, config: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """peft's settings by part: from the file beside, or from diffusers' note in the file."""
    if config is not None:
        return dict.fromkeys(PARTS, config)
    if _METADATA_KEY not in file.metadata:
        return {}
    try:
        noted = json.loads(file.metadata[_METADATA_KEY])
        return {
            part: {
                key.removeprefix(f"{part}."): value
                for key, value in noted.items()
                if key.startswith(f"{part}.")
            }
            for part in PARTS
        }
    except (ValueError, AttributeError, RecursionError) as error:
        raise BridgeError(
            f"--lora {file.path}: its note {_METADATA_KEY} cannot be read ({error}); get it again"
        ) from error


def _scaled_by_config(
    state: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """peft's way: alpha / rank, or alpha / sqrt(rank) (rsLoRA), by module where patterns say so."""
    scaled = {}
    for key, tensor in state.items():
        part, _, module = key.partition(".")
        config = configs.get(part)
        if config and key.endswith(".lora_A.weight"):
            tensor = tensor.float() * _peft_scale(config, module, tensor.shape[0])
        scaled[key] = tensor
    return scaled


def _peft_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    module = module.removesuffix(".lora_A.weight")
    alpha = patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise BridgeError(f"the LoRA's settings have lora_alpha {alpha!r}; a number is needed")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
