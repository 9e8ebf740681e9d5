"""T2I-Adapters from folders or single files: a picture to follow, read once before the steps.

Mou et al. 2023 (arXiv 2302.08453). diffusers loads folders alone; the names and sizes of the
published single files are turned into its own here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
    T2IAdapter,
)
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import identify
from bridge_diffusion.plugins.files import (
    WeightFile,
    backbone_family,
    check_family,
    check_kind,
)
from bridge_diffusion.plugins.networks import load_folder, own_folder, read_single

_FLAG = "--control-net"
_KIND = "T2I-Adapter"
_BLOCKS_A_LEVEL = 2  # of the published full adapters; diffusers nests them by level, they do not
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(.+)")
_FULL = re.compile(r"body\.(\d+)\.((?:block[12]|in_conv)\..+)")


def load_t2i_adapter(pipe: Any, path: Path) -> T2IAdapter:
    """A T2I-Adapter for a pipeline's backbone, in the precision of its UNet.

    Raises:
        BridgeError: It is damaged, incomplete, of another kind, or made for another backbone.
    """
    folder = own_folder(path)
    if folder is not None:
        check_kind(identify(folder), _KIND, _FLAG)
        check_family(identify(folder), backbone_family(pipe.unet), _FLAG)
        adapter = load_folder(T2IAdapter, folder, pipe.unet.dtype, _FLAG)
    else:
        file = read_single(path, _KIND, _FLAG)
        check_family(file.identity, backbone_family(pipe.unet), _FLAG)
        adapter = _from_single_file(pipe, file).to(pipe.unet.dtype).eval()
    _check_fit(pipe, adapter, path)
    return adapter


def adapter_pipeline(pipe: Any, adapters: tuple[T2IAdapter, ...]) -> Any:
    """The stock pipeline of a backbone with T2I-Adapters, of the same networks.

    Raises:
        BridgeError: The adapters read pictures of different scales.
    """
    is_xl = backbone_family(pipe.unet) == "sdxl"
    cls = StableDiffusionXLAdapterPipeline if is_xl else StableDiffusionAdapterPipeline
    wanted = cls.__init__.__annotations__
    parts = {name: part for name, part in pipe.components.items() if name in wanted}
    settings = {name: pipe.config[name] for name in wanted if name in pipe.config.keys() - parts}
    try:
        together = adapters[0] if len(adapters) == 1 else MultiAdapter(list(adapters))
    except ValueError as error:
        raise BridgeError(
            f"{_FLAG}: these T2I-Adapters cannot be used together ({' '.join(str(error).split())})"
        ) from error
    return cls(**parts, **settings, adapter=together)


def picture_mode(adapter: T2IAdapter) -> str:
    """The mode of the picture that an adapter reads: "L" for one channel, else "RGB"."""
    return "L" if adapter.config.in_channels == 1 else "RGB"


def _wanted_factor(pipe: Any) -> int:
    """Pixels of the picture for one of the adapter's first features, along a side.

    The UNet adds a feature inside a level with attention, and after one without, whose end halves.
    """
    first_has_attention = "CrossAttn" in pipe.unet.config.down_block_types[0]
    return pipe.vae_scale_factor * (1 if first_has_attention else 2)


def _check_fit(pipe: Any, adapter: T2IAdapter, path: Path) -> None:
    widths = list(adapter.config.channels)
    if adapter.config.adapter_type == "light_adapter":
        widths.append(widths[-1])  # its last level is as wide as the one before
    blocks = list(pipe.unet.config.block_out_channels)
    factor = _wanted_factor(pipe)
    for what, theirs, ours in (
        ("levels of widths", widths[: len(blocks)], blocks),
        ("pixels a feature", adapter.downscale_factor, factor),
    ):
        if theirs != ours:
            raise BridgeError(
                f"{_FLAG} {path} is a T2I-Adapter with {what} {theirs}, the model needs {ours}; "
                "give one made for the model's family"
            )


def _from_single_file(pipe: Any, file: WeightFile) -> T2IAdapter:
    is_light = not any(key.endswith("conv_in.weight") for key in file.tensors)
    state = {_own_name(key, is_light): tensor for key, tensor in file.tensors.items()}
    try:
        adapter = T2IAdapter(**_config(pipe, state))
        lost = adapter.load_state_dict(state, strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BridgeError(
            f"{_FLAG} {file.path} is no T2I-Adapter that can be read ({reason}); get it again, or "
            "in diffusers' layout"
        ) from error
    for what, keys in (("lacks", lost.missing_keys), ("has unknown", lost.unexpected_keys)):
        if keys:
            raise BridgeError(
                f"{_FLAG} {file.path} {what} {len(keys)} tensors, the first {min(keys)}; get it "
                "again, or in diffusers' layout"
            )
    return adapter


def _own_name(key: str, is_light: bool) -> str:
    """The published files' names => diffusers'; diffusers' own stay."""
    if is_light and (match := _LIGHT.fullmatch(key)):
        return f"adapter.body.{match[1]}.resnets.{match[2]}.{match[3]}"
    if not is_light and (match := _FULL.fullmatch(key)):
        level, block = divmod(int(match[1]), _BLOCKS_A_LEVEL)
        rest = match[2] if match[2].startswith("in_conv.") else f"resnets.{block}.{match[2]}"
        return f"adapter.body.{level}.{rest}"
    return f"adapter.{key}" if key.startswith(("conv_in.", "body.")) else key


def _config(pipe: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say; the family says the rest. KeyError where a tensor is missing."""
    is_light = "adapter.conv_in.weight" not in state
    first = state["adapter.body.0.in_conv.weight" if is_light else "adapter.conv_in.weight"]
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("adapter.body."))
    blocks = {key.split(".")[4] for key in state if key.startswith("adapter.body.0.resnets.")}
    last = "out_conv" if is_light else "resnets.0.block1"
    channels = [len(state[f"adapter.body.{level}.{last}.weight"]) for level in range(levels)]
    factor = _wanted_factor(pipe)
    is_xl = backbone_family(pipe.unet) == "sdxl"
    return {
        "in_channels": first.shape[1] // factor**2,
        "channels": channels[:-1] if is_light else channels,
        "num_res_blocks": len(blocks),
        "downscale_factor": factor,
        "adapter_type": "light_adapter"
        if is_light
        else "full_adapter_xl"
        if is_xl
        else "full_adapter",
    }
