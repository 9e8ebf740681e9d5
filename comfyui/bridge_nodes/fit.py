"""Whether a bridge fits a model that ComfyUI has loaded: asked before anything is drawn.

ComfyUI's UNet leaves out residuals of another shape with no more than a line in its log.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge_diffusion import BridgeConfig, BridgeError
from bridge_diffusion.models.config import FAMILY_NAMES


def check_fits(unet: Mapping[str, Any], branch: Mapping[str, Any], config: BridgeConfig) -> None:
    """Compare ComfyUI's `unet_config` of a model with the configuration of a branch.

    Raises `BridgeError` for a model of another architecture or family.
    """
    if "channel_mult" not in unet or "model_channels" not in unet:
        raise BridgeError(
            f"this bridge is for {FAMILY_NAMES[config.family]}, the model is of another "
            "architecture: choose a checkpoint of that family"
        )
    ours, theirs = _of_branch(branch), _of_unet(unet)
    for name, value in ours.items():
        if theirs[name] != value:
            raise BridgeError(
                f"this bridge is for {FAMILY_NAMES[config.family]} with {name} {value}, the model "
                f"has {theirs[name]}: choose a checkpoint of that family"
            )


def check_prediction(theirs: str, config: BridgeConfig) -> None:
    """Noise and velocity need other residuals. Raises `BridgeError` where they differ."""
    if theirs != config.prediction_type:
        raise BridgeError(
            f"the bridge was trained beside a model that predicts {config.prediction_type}, this "
            f"model predicts {theirs}: choose another checkpoint, or correct it with "
            "ModelSamplingDiscrete if it is wrong"
        )


def _of_unet(unet: Mapping[str, Any]) -> dict[str, Any]:
    first = unet["model_channels"]
    return {
        "channels": [first * times for times in unet["channel_mult"]],
        "residual blocks": list(unet["num_res_blocks"]),
        "transformer layers": list(unet["transformer_depth"]),
        "size numbers": unet.get("adm_in_channels"),
    }


def _of_branch(branch: Mapping[str, Any]) -> dict[str, Any]:
    channels = list(branch["block_out_channels"])
    blocks = _for_each(branch["layers_per_block"], len(channels))
    transformers = _for_each(branch["transformer_layers_per_block"], len(channels))
    depth = [
        layers if "CrossAttn" in kind else 0
        for kind, layers, count in zip(
            branch["down_block_types"], transformers, blocks, strict=True
        )
        for _ in range(count)
    ]
    return {
        "channels": channels,
        "residual blocks": blocks,
        "transformer layers": depth,
        "size numbers": branch.get("projection_class_embeddings_input_dim"),
    }


def _for_each(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)
