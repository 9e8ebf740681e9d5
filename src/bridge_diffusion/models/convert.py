"""Branch weights on disk => a branch, strictly; and the published layout, read and written.

The published layout (Qihoo 360, BDM1.0) is a diffusers folder whose config names the class
`ControlNetModelBDM`: a ControlNet without its image embedding. No key is ever left to chance: a
missing or surplus one is an error.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.models.shared_branch import changed, check_shared, shared_folder
from bridge_diffusion.reading import read_json, read_weights

PUBLISHED_CLASS = "ControlNetModelBDM"
CONFIG_FILE = "config.json"
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)

# Fields of the published config that say nothing about the branch, at the only value they have.
_PUBLISHED_FIXED = {
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type_num_heads": 64,
}


def read_branch(folder: Path, dtype: torch.dtype | None = None) -> BridgeBranch:
    """Read a branch from a folder of ours or of the published layout.

    A folder of ours may refer to another bridge's branch (`shared_branch`). `dtype` None keeps the
    type of the file. Raises `BridgeError` for a folder without a branch, a file that is cut or
    holds code, for keys or shapes that do not match one to one, and for a shared branch that is not
    the one that was meant.
    """
    own, folder = folder, shared_folder(folder)
    config = read_json(folder / CONFIG_FILE)
    if own != folder:
        check_shared(own, _weights_file(folder))
    state = changed(own, _read_weights(folder))
    if config.get("_class_name") == PUBLISHED_CLASS:
        config = _from_published_config(config, state)
    elif config.get("_class_name") != BridgeBranch.__name__:
        raise BridgeError(
            f"{folder} holds a network of class {config.get('_class_name')}, not a branch: give a "
            f"folder saved by this library or one of the published layout ({PUBLISHED_CLASS})"
        )
    with torch.device("meta"):
        branch = BridgeBranch.from_config(config)
    _check_keys(folder, {k: v.shape for k, v in branch.state_dict().items()}, state)
    state = {key: value.to(dtype or value.dtype) for key, value in state.items()}
    branch.load_state_dict(state, strict=True, assign=True)
    return branch.eval()


def write_published(branch: BridgeBranch, folder: Path) -> None:
    """Write the published layout, which the paper's release loads."""
    names = set(branch.config) - {"projected_from", "pooled_projected_from"}
    config = {name: branch.config[name] for name in names if not name.startswith("_")}
    config |= _PUBLISHED_FIXED | {
        "_class_name": PUBLISHED_CLASS,
        "is_xl": branch.config.projected_from is not None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    state = {key: value.contiguous() for key, value in branch.state_dict().items()}
    save_file(state, folder / WEIGHT_FILES[0], metadata={"format": "pt"})


def _from_published_config(config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """The published config => ours: what is fixed is checked, what `is_xl` means is written out."""
    for name, value in _PUBLISHED_FIXED.items():
        if config.get(name, value) != value:
            raise BridgeError(
                f"the published branch has {name}={config[name]!r}; only {value!r} is known"
            )
    known = BridgeBranch._get_init_keys(BridgeBranch) - {"self"} - set(_PUBLISHED_FIXED)
    ours = {name: value for name, value in config.items() if name in known}
    ours["_class_name"] = BridgeBranch.__name__
    # `is_xl` only says that the projections are there; their widths stand in the weights.
    for field, key in (
        ("projected_from", "prompt_embeds_projection.weight"),
        ("pooled_projected_from", "pooled_prompt_embeds_projection.weight"),
    ):
        if key in state:
            ours[field] = state[key].shape[1]
        elif config.get("is_xl", False):
            raise BridgeError(f"the published branch says is_xl, but its weights lack {key!r}")
    return ours


def _read_weights(folder: Path) -> dict[str, Tensor]:
    return read_weights(_weights_file(folder))


def _weights_file(folder: Path) -> Path:
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise BridgeError(f"{folder} holds no branch weights: {WEIGHT_FILES[0]} is missing")
    return path


def _check_keys(folder: Path, needed: dict[str, torch.Size], state: dict[str, Tensor]) -> None:
    missing = sorted(needed.keys() - state.keys())
    surplus = sorted(state.keys() - needed.keys())
    if missing or surplus:
        example = (missing or surplus)[0]
        raise BridgeError(
            f"{folder} is not the branch that its config describes: {len(missing)} of "
            f"{len(needed)} weights are missing and {len(surplus)} are unknown, {example!r} first"
        )
    for key, shape in needed.items():
        if state[key].shape != shape:
            raise BridgeError(
                f"{folder}: {key!r} has shape {tuple(state[key].shape)}, its config asks for "
                f"{tuple(shape)}"
            )
