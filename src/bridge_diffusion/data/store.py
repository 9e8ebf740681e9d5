"""What was encoded once: rows of numbers in safetensors shards, memory-mapped when read.

    folder/
        index.json                 what the store was made from, and how many items it has
        00000.safetensors          "rows" [sum of rows, ...], "ends" [items], notes in the header

The folder's name is a hash of what the store was made from (data and model), so rows of other
data or of another model are never read. A build that was interrupted goes on at its last shard.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError

_SHARD_ITEMS = 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded thing."""

    rows: Shaped[Tensor, "rows ..."]
    """Its numbers; no rows if there are none."""
    note: Any
    """A plain JSON value kept with it."""


#: Encodes the items first..last-1 of a store.
Encode = Callable[[Sequence[int]], Sequence[Item]]


class TensorStore:
    """Items by position, read from the disk when asked for."""

    def __init__(self, folder: Path) -> None:
        """Open a whole store. BridgeError if it is damaged."""
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            self._count: int = index["items"]
            files = [_shard(folder, first) for first in range(0, self._count, _SHARD_ITEMS)]
            self._shards = [safe_open(file, framework="pt") for file in files]
            self._rows = [shard.get_slice("rows") for shard in self._shards]
            self._ends = [shard.get_tensor("ends").tolist() for shard in self._shards]
            self.notes: list[Any] = []
            for shard in self._shards:
                self.notes.extend(json.loads(shard.metadata()["notes"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BridgeError(f"the cache {folder} is damaged ({error}); delete it") from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Shaped[Tensor, "rows ..."]:
        shard, place = divmod(index, _SHARD_ITEMS)
        ends = self._ends[shard]
        return self._rows[shard][(ends[place - 1] if place else 0) : ends[place]]


def build_store(
    cache: Path,
    identity: dict[str, Any],
    count: int,
    encode: Encode,
    *,
    chunk: int = 64,
    progress: Callable[[int], None] | None = None,
) -> TensorStore:
    """Open the store of `identity` under the folder `cache`; make it first if it is not there.

    identity: plain JSON values that the rows depend on, hashes of data and model among them.
    `encode` gets at most `chunk` positions at a time; `progress` hears how many items are done.
    BridgeError if the disk is full or a store of that name is damaged.
    """
    text = json.dumps(identity, sort_keys=True)
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:24]
    if not (folder / "index.json").is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for first in range(0, count, _SHARD_ITEMS):
                last = min(first + _SHARD_ITEMS, count)
                if not _shard(folder, first).is_file():
                    _write_shard(_shard(folder, first), range(first, last), encode, chunk)
                if progress is not None:
                    progress(last)
            index = json.dumps({"items": count, "made_from": identity}, indent=2)
            publish(folder / "index.json", lambda file: file.write_text(index, encoding="utf-8"))
        except (OSError, SafetensorError) as error:
            raise BridgeError(
                f"the cache {folder} could not be written ({error}); make room, or give another "
                "cache folder; what is written already will be used"
            ) from error
    return TensorStore(folder)


def module_hash(module: nn.Module) -> str:
    """Hash of a module's weights and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shard(folder: Path, first: int) -> Path:
    return folder / f"{first // _SHARD_ITEMS:05d}.safetensors"


def _write_shard(file: Path, positions: range, encode: Encode, chunk: int) -> None:
    items: list[Item] = []
    for first in range(0, len(positions), chunk):
        asked = positions[first : first + chunk]
        made = encode(asked)
        assert len(made) == len(asked)
        items.extend(made)
    rows = torch.cat([item.rows for item in items if len(item.rows)] or [torch.zeros(0)])
    ends = torch.tensor([len(item.rows) for item in items]).cumsum(0)
    notes = json.dumps([item.note for item in items], ensure_ascii=False)
    tensors = {"rows": rows.contiguous(), "ends": ends}
    publish(file, lambda path: save_file(tensors, path, metadata={"notes": notes}))


def publish(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the place, flush, and rename: a file that is there is whole."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        handle = os.open(unfinished, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
