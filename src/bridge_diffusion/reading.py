"""JSON objects and weight tables from files, strictly; no pickle is ever run."""

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_diffusion.errors import BridgeError

if TYPE_CHECKING:
    from torch import Tensor


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `BridgeError` where it is missing or none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BridgeError(f"{path} is missing: is the folder complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BridgeError(f"{path} cannot be read as JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise BridgeError(f"{path} holds a {type(value).__name__}; a JSON object is needed")
    return value


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def is_pickle(path: Path) -> bool:
    """Whether a file begins as a PyTorch archive (zip) or as a bare pickle does."""
    with path.open("rb") as file:
        start = file.read(2)
    return is_zip(path) or (start[:1] == b"\x80" and start[1:] in _PROTOCOLS)


_PROTOCOLS = tuple(bytes([number]) for number in range(2, 6))


def refuse_pickle(path: Path) -> None:
    """Raises `BridgeError` for a pickle under another file's name."""
    if is_pickle(path):
        raise BridgeError(
            f"{path} is a pickle, whatever its name says, and was not opened: a pickle can run "
            "code; get the same weights as safetensors"
        )


def unwrapped(content: Any) -> Any:
    """What a pickle holds, without the tables "state_dict" that trainers put around weights.

    A pickle may hold a table that holds itself: three deep is enough.
    """
    for _ in range(3):
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
    return content


def read_weights(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, or of a `.bin` that holds plain weights and no code.

    Raises `BridgeError` for a file that is missing or cut, holds code, or anything but tensors.
    """
    import torch
    from safetensors.torch import load_file
    from torch import Tensor

    if not path.is_file():
        raise BridgeError(f"{path} is missing: is the folder complete?")
    if path.suffix == ".safetensors":
        refuse_pickle(path)
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
