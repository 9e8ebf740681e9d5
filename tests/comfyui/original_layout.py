"""Stock UNets in the original layout of Stable Diffusion, by ComfyUI's own table of names."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from comfyui_server import ComfyUI
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

_NAMES = """
import json, sys
from comfy.utils import unet_to_diffusers
json.dump(unet_to_diffusers(json.load(sys.stdin)), sys.stdout)
"""


def original_layout(
    network: UNet2DConditionModel | ControlNetModel, comfyui: ComfyUI
) -> dict[str, Tensor]:
    """The weights of a UNet or ControlNet as the original files hold them, without a prefix."""
    names = json.loads(
        subprocess.run(
            [comfyui.python, "-c", _NAMES],
            input=json.dumps(_layers(network.config)),
            cwd=comfyui.source,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    if isinstance(network, ControlNetModel):
        names |= _of_controlnet(network)
    return {names[key]: value.contiguous() for key, value in network.state_dict().items()}


def _of_controlnet(net: ControlNetModel) -> dict[str, str]:
    """Names of what only a ControlNet has: zero convolutions, and those of its picture."""
    picture = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    modules = {f"controlnet_cond_embedding.{name}": 2 * i for i, name in enumerate(picture)}
    places = {old: f"input_hint_block.{i}" for old, i in modules.items()}
    for i in range(len(net.controlnet_down_blocks)):
        places[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    places["controlnet_mid_block"] = "middle_block_out.0"
    return {f"{old}.{k}": f"{new}.{k}" for old, new in places.items() for k in ("weight", "bias")}


def _layers(config: Any) -> dict[str, Any]:
    """Which layers there are, in ComfyUI's words."""
    channels = config.block_out_channels
    blocks = _for_each(config.layers_per_block, len(channels))
    depths = [
        layers if "CrossAttn" in kind else 0
        for kind, layers in zip(
            config.down_block_types,
            _for_each(config.transformer_layers_per_block, len(channels)),
            strict=True,
        )
    ]
    return {
        "num_res_blocks": blocks,
        "channel_mult": [width // channels[0] for width in channels],
        "transformer_depth": [d for d, n in zip(depths, blocks, strict=True) for _ in range(n)],
        "transformer_depth_output": [
            d for d, n in zip(depths, blocks, strict=True) for _ in range(n + 1)
        ],
        "transformer_depth_middle": _for_each(config.transformer_layers_per_block, len(channels))[
            -1
        ],
    }


def _for_each(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)
