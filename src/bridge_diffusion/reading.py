"""JSON objects and weight tables from files, strictly; no pickle is ever run."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bridge_diffusion.errors import BridgeError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `BridgeError` where it is missing or none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BridgeError(f"{path} is missing: is the folder complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BridgeError(f"{path} cannot be read as JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise BridgeError(f"{path} holds a {type(value).__name__}; a JSON object is needed")
    return value


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a `.bin` that holds plain weights and no code.

    Raises `BridgeError` for a file that is cut, holds code, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BridgeError(
            f"{path} is a pickle that holds more than weights; it was not run: "
            "get the safetensors file instead"
        ) from None
    except Exception as error:  # both readers raise many kinds, each meaning: not plain weights
        line = str(error).partition("\n")[0]
        raise BridgeError(
            f"{path} is not a whole {path.suffix.removeprefix('.')} file ({line}); get it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BridgeError(f"{path} holds no plain table of weights")
    return state
