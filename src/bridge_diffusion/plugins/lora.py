"""English LoRAs: any layout => diffusers' names => stock loading, verified tensor by tensor.

Stock loading drops keys that fit nothing without a word. Here they are matched with the networks
before, and what was loaded is compared after.
"""

import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import Identity, identify
from bridge_diffusion.lora_header import PARTS
from bridge_diffusion.plugins.files import (
    WeightFile,
    backbone_family,
    check_family,
    check_kind,
    read_weight_file,
)
from bridge_diffusion.plugins.lora_tensors import LORA_KEY, Networks, lora_tensors
from bridge_diffusion.plugins.naming import plugin_name
from bridge_diffusion.reading import read_json

_log = logging.getLogger(__name__)

_FLAG = "--lora"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PIPELINE_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartReport:
    """How a LoRA's keys fit one network."""

    matched: int
    """Keys that have their place in it."""
    unmatched: tuple[str, ...]
    """Those that have none, as the file names them after conversion to diffusers' names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraReport:
    """Which keys of a LoRA go where."""

    identity: Identity
    """What the file is."""
    parts: Mapping[str, PartReport]
    """By the network's name, only those that the LoRA speaks of."""
    unknown: tuple[str, ...]
    """Keys that are no LoRA's."""

    @property
    def matched(self) -> int:
        return sum(part.matched for part in self.parts.values())

    @property
    def unmatched(self) -> tuple[str, ...]:
        return tuple(key for part in self.parts.values() for key in part.unmatched) + self.unknown

    def __str__(self) -> str:
        where = ", ".join(
            f"{name} {part.matched} of {part.matched + len(part.unmatched)} keys"
            for name, part in self.parts.items()
        )
        return f"{where}, {len(self.unknown)} unknown" if self.unknown else where


def load_lora(pipe: Any, path: Path, name: str | None = None) -> LoraReport:
    """Load a LoRA into a stock pipeline's UNet and text encoders, at weight 1.

    A bridge may be attached before or after; its branch stays as it is. Several LoRAs are weighed
    with `set_lora_weights`.

    Args:
        name: What the pipeline shall call it; None is the file's name without its suffix.

    Raises:
        BridgeError: The file is damaged, no LoRA, of another family or method, fits nothing, or a
            LoRA of that name is there already.
    """
    networks = networks_of(pipe)
    report, state = match_lora(path, networks)
    name = name or plugin_name(path)
    adapter = adapter_name(name)
    if any(adapter in names for names in pipe.get_list_adapters().values()):
        raise BridgeError(f"{_FLAG} {path}: there is a LoRA {name!r} already; rename one")
    try:
        with warnings.catch_warnings():
            # Several at once are what is asked for.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            _load(pipe, state, adapter)
        _verify(networks, state, adapter)
    except Exception as error:  # peft refuses odd layers in many ways
        _forget(pipe, adapter)
        reason = " ".join(str(error).split())[:300]
        raise BridgeError(f"{_FLAG} {path} cannot be loaded ({reason})") from error
    if report.unmatched:
        _log.warning(
            "%d of the keys of %s fit nothing in the model, the first %s: %s",
            len(report.unmatched), path, report.unmatched[0], report,
        )  # fmt: skip
    return report


def set_lora_weights(pipe: Any, weights: Mapping[str, float]) -> None:
    """Let exactly these loaded LoRAs act, each with its weight, by the names they were given."""
    names = [adapter_name(name) for name in weights]
    pipe.set_adapters(names, list(weights.values()))


def adapter_name(name: str) -> str:
    """A name that torch and peft take for a module, another one for each LoRA's name.

    No dot may be in it, and it must not be one that a module has already, such as "half".
    """
    return "_" + re.sub(r"[\W_]", lambda sign: f"_{ord(sign[0]):x}_", name)


def networks_of(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline that LoRAs change. Raises `BridgeError` where it has no UNet."""
    parts = {part: getattr(pipe, part, None) for part in PARTS}
    if parts["unet"] is None:
        raise BridgeError(f"{type(pipe).__name__} has no UNet, so it takes no LoRA of this family")
    return {part: network for part, network in parts.items() if network is not None}


def match_lora(path: Path, networks: Networks) -> tuple[LoraReport, dict[str, Tensor]]:
    """Which keys of a LoRA fit which network, and those that fit, by diffusers' names.

    Raises:
        BridgeError: As `load_lora`.
    """
    file, config = _read(path)
    check_family(file.identity, backbone_family(networks["unet"]), _FLAG)
    _check_method(file)
    state, unknown = lora_tensors(file, config, networks)
    fitting: dict[str, Tensor] = {}
    parts: dict[str, PartReport] = {}
    for part in PARTS:
        own = {k: v for k, v in state.items() if k.startswith(f"{part}.")}
        if not own:
            continue
        fit = _fitting(own, part, networks.get(part), path)
        fitting |= fit
        lost = tuple(key for key in own if key not in fit)
        parts[part] = PartReport(matched=len(fit), unmatched=lost)
    report = LoraReport(identity=file.identity, parts=parts, unknown=unknown)
    if not report.matched:
        first = report.unmatched[0] if report.unmatched else "none"
        raise BridgeError(
            f"{_FLAG} {path}: none of its {len(file.tensors)} keys fits the model (the first is "
            f"{first}); is it for another kind of model?"
        )
    _check_pairs(fitting, path)
    return report, fitting


def _read(path: Path) -> tuple[WeightFile, Mapping[str, Any] | None]:
    """The LoRA's file, and peft's settings where they are told."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        files = [path / name for name in (*_ADAPTER_FILES, *_PIPELINE_FILES)]
        path = next((file for file in files if file.is_file()), path)
        if path.is_dir():
            check_kind(identify(path), "LoRA", _FLAG)
    file = read_weight_file(path)
    check_kind(file.identity, "LoRA", _FLAG)
    if path.name in _ADAPTER_FILES and (folder / _ADAPTER_CONFIG).is_file():
        return file, read_json(folder / _ADAPTER_CONFIG)
    return file, None


def _check_method(file: WeightFile) -> None:
    details = file.identity.details
    method, layout = details["method"], details["layout"]
    if method not in ("LoRA", "LoCon", "DoRA"):
        raise BridgeError(
            f"{_FLAG} {file.path} is a LyCORIS file of the method {method}, which diffusers' "
            "pipelines of this family do not load; give a LoRA, LoCon or DoRA, or merge it into a "
            "checkpoint"
        )
    if layout == "unknown":
        raise BridgeError(
            f"{_FLAG} {file.path} names its keys in no known layout (the first is "
            f"{next(iter(file.tensors))}); kohya's, ComfyUI's, diffusers' and peft's are read"
        )


def _fitting(
    state: Mapping[str, Tensor], part: str, network: nn.Module | None, path: Path
) -> dict[str, Tensor]:
    """Those whose module the network has; in a text encoder under the names it has today.

    Raises `BridgeError` where a module is there with another size.
    """
    if network is None:
        return {}
    # A layer that carries a LoRA already has peft's names inside; the layer itself keeps its own.
    modules = dict(network.named_modules())
    fit = {}
    for key, tensor in state.items():
        match = LORA_KEY.fullmatch(key.removeprefix(f"{part}."))
        assert match is not None
        module = modules.get(match[1])
        if module is None and part != "unet":
            # transformers 5 took the level text_model out of some classes.
            module = modules.get(match[1].removeprefix("text_model."))
        module = getattr(module, "base_layer", module)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        tensor = _as_its_layer(match[2], tensor, module)
        _check_size(match[2], tensor, module, key, path)
        fit[key] = tensor
    return fit


def _as_its_layer(matrix: str, tensor: Tensor, module: nn.Linear | nn.Conv2d) -> Tensor:
    """A matrix with its layer's number of sides: some trainers leave a kernel of 1x1 out."""
    if matrix == "lora_magnitude_vector":
        return tensor
    if isinstance(module, nn.Linear) and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    if isinstance(module, nn.Conv2d) and tensor.ndim == 2:
        is_square = module.kernel_size == (1, 1) or matrix == "lora_B"
        return tensor[..., None, None] if is_square else tensor
    return tensor


def _check_pairs(state: Mapping[str, Tensor], path: Path) -> None:
    """Each narrowing matrix has its widening one, of the same rank."""
    ranks: dict[str, dict[str, int]] = {}
    for key, tensor in state.items():
        module, _, rest = key.rpartition(".lora_")
        if rest in ("A.weight", "B.weight"):
            axis = 0 if rest[0] == "A" else 1
            ranks.setdefault(module, {})[rest[0]] = tensor.shape[axis] if tensor.ndim > 1 else 0
    for module, rank in ranks.items():
        if len(rank) < 2 or rank["A"] != rank["B"]:
            raise BridgeError(
                f"{_FLAG} {path}: the matrices of {module} are no pair; get the file again"
            )


def _check_size(
    matrix: str, tensor: Tensor, module: nn.Linear | nn.Conv2d, key: str, path: Path
) -> None:
    if matrix == "lora_magnitude_vector":
        return  # shaped by peft, which compares it
    weight = module.weight
    allowed = weight.shape[1 if matrix == "lora_A" else 0]
    got = tensor.shape[1 if matrix == "lora_A" and tensor.ndim > 1 else 0]
    if got != allowed:
        raise BridgeError(
            f"{_FLAG} {path} does not fit the model: {key} is of size {got}, the model's layer of "
            f"{allowed}; it was made for a model of another family or size"
        )


def _load(pipe: Any, state: Mapping[str, Tensor], adapter: str) -> None:
    """Stock loading, part by part, of tensors that are known to fit."""
    for part in PARTS:
        own = {key: tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
        if not own:
            continue
        network = getattr(pipe, part)
        own = {key: tensor.to(network.dtype) for key, tensor in own.items()}
        settings: dict[str, Any] = {"network_alphas": None, "adapter_name": adapter}
        if part == "unet":
            pipe.load_lora_into_unet(own, unet=network, _pipeline=pipe, **settings)
        else:
            # In this form stock finds every layer, whichever of them were trained.
            own = {_old_name(key, adapter): tensor for key, tensor in own.items()}
            pipe.load_lora_into_text_encoder(
                own, text_encoder=network, prefix=part, _pipeline=pipe, **settings
            )


def _forget(pipe: Any, adapter: str) -> None:
    """Take out what was loaded of a LoRA; without any other, the networks are as they were."""
    if any(adapter in names for names in pipe.get_list_adapters().values()):
        pipe.delete_adapters(adapter)
    if not any(pipe.get_list_adapters().values()):
        pipe.unload_lora_weights()


def _old_name(key: str, adapter: str) -> str:
    if key.endswith(".lora_magnitude_vector"):  # transformers gives peft's name to the others only
        return f"{key}.{adapter}.weight"
    return key.replace(".lora_A.", ".lora_linear_layer.down.").replace(
        ".lora_B.", ".lora_linear_layer.up."
    )


def _verify(networks: Networks, state: Mapping[str, Tensor], adapter: str) -> None:
    """Every tensor is where it belongs, with scale 1.

    Raises `BridgeError` where one is not: a fault of the libraries that must not pass unseen.
    """
    loaded: dict[str, Tensor] = {}
    for part, network in networks.items():
        if adapter not in getattr(network, "peft_config", {}):
            continue
        tensors = get_peft_model_state_dict(network, adapter_name=adapter)
        loaded |= {f"{part}.{key.removeprefix('text_model.')}": v for key, v in tensors.items()}
        layers: list[Any] = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
        scales = [layer.scaling[adapter] for layer in layers if adapter in layer.scaling]
        if any(not math.isclose(scale, 1.0) for scale in scales):
            raise BridgeError("the LoRA was loaded with another scale than it says")
    for key, tensor in state.items():
        part, _, rest = key.partition(".")
        there = loaded.get(f"{part}.{rest.removeprefix('text_model.')}")
        if there is None or not torch.equal(there.cpu(), tensor.to(there.dtype)):
            raise BridgeError(f"the LoRA's key {key} was not loaded by diffusers")
