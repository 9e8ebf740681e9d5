"""Bridges on disk => bridges in ComfyUI, whose memory management owns both networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.bridge import BRIDGE_FILE, published_branch_folder
from bridge_diffusion.text import NativeEmbeddings

FOLDER = "bridges"
DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class _Network(nn.Module):
    """A network for ComfyUI to keep its notes on; diffusers' own have a read-only `device`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _AlreadyEmbedded(nn.Module):
    """Takes the place of the embedding of SDXL's size numbers: ComfyUI hands over the result."""

    def forward(self, time_ids: Tensor) -> Tensor:
        return time_ids


class WholePatcher(ModelPatcher):
    """Loads a network whole or not at all: only ComfyUI's own layers can stay behind in part.

    Versions of ComfyUI differ in the arguments of these two methods, hence the open signatures.
    """

    def load(self, device_to: Any = None, *_amounts: Any, **options: Any) -> Any:
        options.pop("lowvram_model_memory", None)
        return super().load(device_to, **{**options, "full_load": True})

    def partially_unload(self, *_device_and_amounts: Any, **_options: Any) -> int:
        return 0  # bytes freed: ComfyUI unloads all of it then


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBridge:
    """What travels along BRIDGE links of a graph."""

    name: str
    """As chosen in Load Bridge."""
    key: str
    """Under which its text lies on conditionings, and its branch on models."""
    bridge: Bridge
    """Branch, native text encoder, configuration."""
    branch_patcher: ModelPatcher
    """ComfyUI's handle on the branch."""
    text_patcher: ModelPatcher
    """ComfyUI's handle on the native text encoder."""

    def encode(self, text: str, windows: int | None = None) -> NativeEmbeddings:
        """Encode one native prompt, to so many windows (None: as many as it needs)."""
        memory.load_models_gpu([self.text_patcher])
        native = self.bridge.text_encoder.encode([text], windows)
        rest = memory.intermediate_device()
        pooled = None if native.pooled is None else native.pooled.to(rest)
        return NativeEmbeddings(
            hidden=native.hidden.to(rest), mask=native.mask.to(rest), pooled=pooled
        )


def load_bridge(name: str, text_encoder: str, dtype: str) -> LoadedBridge:
    """Load a bridge of the folders for bridges. Raises `BridgeError` for what cannot be read.

    `text_encoder` is "" for a bridge that brings its own; else a Hugging Face folder (of those for
    bridges or for text encoders, or a full path) or hub name, or several, with commas.
    """
    encoders = [_text_encoder(each.strip()) for each in text_encoder.split(",") if each.strip()]
    bridge = Bridge.from_pretrained(
        bridge_path(name), text_encoder=_one_or_all(encoders), dtype=None
    )
    device, text_device = memory.get_torch_device(), memory.text_encoder_device()
    bridge.branch.to(dtype=DTYPES[dtype] or fitting_dtype(device)).eval().requires_grad_(False)
    bridge.text_encoder.to(dtype=DTYPES[dtype] or fitting_dtype(text_device))
    if bridge.branch.pooled_width is not None:
        bridge.branch.add_time_proj = _AlreadyEmbedded()
    return LoadedBridge(
        name=name,
        key=f"bridge_diffusion:{name}:{text_encoder}:{dtype}",
        bridge=bridge,
        branch_patcher=WholePatcher(_Network(bridge.branch), device, memory.unet_offload_device()),
        text_patcher=WholePatcher(
            _Network(bridge.text_encoder.model), text_device, memory.text_encoder_offload_device()
        ),
    )


def fitting_dtype(device: torch.device) -> torch.dtype:
    """Half precision where the device computes in it, else float32."""
    if memory.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if memory.should_use_bf16(device) else torch.float32


def bridge_names() -> list[str]:
    """All bridges in ComfyUI's folders for them, as paths relative to these."""
    found = {
        bridge.relative_to(root).as_posix()
        for root in _roots(FOLDER)
        for bridge in _bridges_below(root)
    }
    return sorted(found)


def bridge_path(name: str) -> Path:
    """The folder of a bridge of this name. Raises `BridgeError` if there is none."""
    for root in _roots(FOLDER):
        if (root / name).is_dir():
            return root / name
    raise BridgeError(
        f"there is no bridge {name!r} in {' or '.join(map(str, _roots(FOLDER)))}: put its folder "
        "there"
    )


def register_folder() -> None:
    """Tell ComfyUI of `models/bridges`; extra_model_paths.yaml may name more of them."""
    folder = Path(folder_paths.models_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(FOLDER, str(folder), is_default=True)


def _text_encoder(name: str) -> str:
    for root in (*_roots(FOLDER), *_roots("text_encoders")):
        if (root / name).is_dir():
            return str(root / name)
    return name  # a full path, or a name on the hub


def _one_or_all(names: list[str]) -> str | list[str] | None:
    return (names[0] if len(names) == 1 else names) if names else None


def _roots(kind: str) -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def _bridges_below(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Folders of bridges; nothing is searched inside them."""
    if not folder.is_dir():
        return
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (child / BRIDGE_FILE).is_file() or _is_published(child):
            yield child
        elif depth > 1:
            yield from _bridges_below(child, depth - 1)


def _is_published(folder: Path) -> bool:
    try:
        published_branch_folder(folder)
    except BridgeError:
        return False
    return True
