"""Rows on disk: the same as were encoded, made once, never those of another model."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from bridge_diffusion.data import store
from bridge_diffusion.data.store import Item, TensorStore, build_store, module_hash
from bridge_diffusion.errors import BridgeError

ROWS = [torch.full((i % 3, 4), float(i)) for i in range(11)]


class Encoder:
    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.fail_after = fail_after

    def __call__(self, indices: Sequence[int]) -> list[Item]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += indices
        return [Item(ROWS[i], {"name": str(i)}) for i in indices]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SHARD_ITEMS", 4)


def test_rows_and_notes_come_back(tmp_path: Path) -> None:
    built = build_store(tmp_path, {"data": "a"}, 11, Encoder(), chunk=3)
    for opened in (built, build_store(tmp_path, {"data": "a"}, 11, Encoder(fail_after=0))):
        assert len(opened) == 11
        assert all(torch.equal(opened[i], ROWS[i]) for i in range(11) if len(ROWS[i]))
        assert all(len(opened[i]) == len(ROWS[i]) for i in range(11))
        assert opened.notes == [{"name": str(i)} for i in range(11)]


def test_another_identity_is_encoded_anew(tmp_path: Path) -> None:
    build_store(tmp_path, {"data": "a", "model": "m"}, 11, Encoder())
    for identity in ({"data": "b", "model": "m"}, {"data": "a", "model": "n"}):
        encoder = Encoder()
        build_store(tmp_path, identity, 11, encoder)
        assert encoder.asked == list(range(11))


def test_an_interrupted_build_goes_on_at_its_last_shard(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path, {}, 11, Encoder(fail_after=6), chunk=2)
    encoder = Encoder()
    done: list[int] = []
    build_store(tmp_path, {}, 11, encoder, progress=done.append)
    assert encoder.asked == list(range(4, 11))
    assert done == [4, 8, 11]


def test_a_full_disk_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = store.save_file

    def full_disk(tensors: dict, file: Path, metadata: dict) -> None:
        saved(tensors, file, metadata=metadata)
        if file.name.startswith("00001"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", full_disk)
    with pytest.raises(BridgeError, match="could not be written"):
        build_store(tmp_path, {}, 11, Encoder())
    assert [file.name for file in tmp_path.rglob("*.*")] == ["00000.safetensors"]


@pytest.mark.parametrize("index", ["[]", "{}", '{"items": null}', "{"])
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    build_store(tmp_path, {}, 11, Encoder())
    (file,) = tmp_path.rglob("index.json")
    file.write_text(index)
    with pytest.raises(BridgeError, match="is damaged"):
        build_store(tmp_path, {}, 11, Encoder())


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    build_store(tmp_path, {}, 11, Encoder())
    (file,) = tmp_path.rglob("00001.safetensors")
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(BridgeError, match="is damaged"):
        TensorStore(file.parent)


def test_the_module_hash_sees_every_value() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    first = module_hash(module)
    assert module_hash(module) == first
    module[1].running_mean[2] += 1e-6
    second = module_hash(module)
    assert len({first, second, module_hash(module.half())}) == 3
