"""A branch that is another bridge's: named and checked by its hash, and changed by a few numbers.

    zh/branch/...                        a whole branch
    ar/branch/shared.json                {"bridge": "zh", "sha256": "..."}: that branch, no other
    ar/branch/change.safetensors         what is added to it; absent if nothing is

The bridge that is named lies beside the folder. The change of a matrix or a convolution is two
narrow matrices, "NAME.up" and "NAME.down" (Hu et al. 2021, arXiv 2106.09685); that of anything else
is "NAME.added", as it is.
"""

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json, read_weights

SHARED_FILE = "shared.json"
CHANGE_FILE = "change.safetensors"

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")  # of a bridge beside this one, never a path


def shared_folder(folder: Path) -> Path:
    """The branch's folder that `folder` refers to; `folder` itself if it holds a whole branch.

    Raises `BridgeError` for a reference that is damaged or leads to no whole branch.
    """
    if not (folder / SHARED_FILE).is_file():
        return folder
    name = read_json(folder / SHARED_FILE).get("bridge")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BridgeError(
            f"{folder / SHARED_FILE} names the bridge {name!r}; it must be the name of a folder "
            "beside this bridge's, of letters, digits and hyphens"
        )
    other = folder.resolve().parent.parent / name / folder.name
    if not other.is_dir() or (other / SHARED_FILE).is_file():
        raise BridgeError(
            f"{folder.parent} has the branch of the bridge {name}, and there is no whole branch at "
            f"{other}; get that bridge too and put it there"
        )
    return other


def check_shared(folder: Path, weights: Path) -> None:
    """Raise `BridgeError` unless the shared branch's file is the one that was meant."""
    wanted = read_json(folder / SHARED_FILE).get("sha256")
    if (found := file_hash(weights)) != wanted:
        raise BridgeError(
            f"{folder.parent} was made for another branch than {weights}: its SHA-256 is "
            f"{found[:10]}..., and {SHARED_FILE} says {str(wanted)[:10]}...; get both bridges anew"
        )


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A shared branch's weights with this folder's change added, in the precision they have.

    Raises `BridgeError` for a change that fits no weight, or one of another shape.
    """
    file = folder / CHANGE_FILE
    if not file.is_file():
        return state
    change = read_weights(file)
    state = dict(state)
    for key in change:
        name, _, part = key.rpartition(".")
        if part == "down" and f"{name}.up" in change:
            continue
        delta = _delta(change, name, part)
        if delta is None or name not in state or state[name].numel() != delta.numel():
            raise BridgeError(
                f"{file} holds {key!r}, which changes no weight of the shared branch; get both "
                "bridges anew"
            )
        state[name] = (state[name].float() + delta.view_as(state[name])).to(state[name].dtype)
    return state


def _delta(change: dict[str, Tensor], name: str, part: str) -> Tensor | None:
    """What is added to a weight, in float32; None for a part that is not whole."""
    if part == "added":
        return change[f"{name}.added"].float()
    up, down = change.get(f"{name}.up"), change.get(f"{name}.down")
    if part != "up" or up is None or down is None or up.shape[1:] != down.shape[:1]:
        return None
    return up.float() @ down.float()


def write_shared(folder: Path, name: str, weights: Path) -> None:
    """Refer to the branch of the bridge `name`, whose file of weights is `weights`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"bridge": name, "sha256": file_hash(weights)}, indent=2)
    (folder / SHARED_FILE).write_text(f"{text}\n", encoding="utf-8")


def write_change(
    folder: Path, base: dict[str, Tensor], trained: dict[str, Tensor], most: int
) -> float:
    """Write what leads from one branch to another, in float16; nothing if they are equal.

    Vectors are kept as they are. Of all matrices' singular components together, each the best of
    its rank (Eckart & Young 1936), those are kept that carry most, in squares, for their bytes.

    Args:
        most: bytes of all tensors, half as many numbers.

    Returns:
        The part of the change, in squares, that is lost: 0 where `most` holds all of it.
    """
    change: dict[str, Tensor] = {}
    parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    lost = whole = 0.0
    for name, weight in base.items():
        delta = trained[name].float() - weight.float()
        if not delta.any():
            continue
        whole += delta.square().sum().item()
        if delta.dim() < 2:
            change[f"{name}.added"] = delta.half()
        else:
            parts[name] = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    room = most - sum(2 * added.numel() for added in change.values())
    ranks = _ranks(parts, room)
    for name, (u, s, v) in parts.items():
        rank = ranks[name]
        lost += s[rank:].square().sum().item()
        if rank:
            root = s[:rank].sqrt()
            change[f"{name}.up"] = (u[:, :rank] * root).half().contiguous()
            change[f"{name}.down"] = (root[:, None] * v[:rank]).half().contiguous()
    if change:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(change, folder / CHANGE_FILE, metadata={"format": "pt"})
    return lost / whole if whole else 0.0


def _ranks(parts: dict[str, tuple[Tensor, Tensor, Tensor]], room: int) -> dict[str, int]:
    """How many components of each matrix are kept in so many bytes."""
    components = []
    for name, (u, s, v) in parts.items():
        size = 2 * (len(u) + v.shape[1])
        components += [(value * value / size, size, name) for value in s.tolist() if value]
    ranks = dict.fromkeys(parts, 0)
    for _, size, name in sorted(components, reverse=True):
        if size <= room:
            ranks[name] += 1
            room -= size
    return ranks
