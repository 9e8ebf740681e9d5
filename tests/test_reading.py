"""JSON and weight files: what is whole comes in, and nothing else does."""

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from bridge_diffusion import BridgeError
from bridge_diffusion.reading import read_json, read_weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_whole_weights_are_read_and_cut_ones_refused(tmp_path: Path, name: str) -> None:
    path, weights = tmp_path / name, {"a": torch.arange(6.0)}
    torch.save(weights, path) if name.endswith("bin") else save_file(weights, path)
    assert torch.equal(read_weights(path)["a"], weights["a"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BridgeError, match="not a whole"):
        read_weights(path)


@pytest.mark.parametrize("value", [[torch.ones(1)], {"a": 1}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.bin")
    with pytest.raises(BridgeError, match="no plain table"):
        read_weights(tmp_path / "w.bin")


def test_code_is_never_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[object]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Touch()}, tmp_path / "w.bin")
    with pytest.raises(BridgeError, match="was not run"):
        read_weights(tmp_path / "w.bin")
    assert not (tmp_path / "ran").exists()


@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_json_object_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(BridgeError):
        assert isinstance(read_json(path), dict)


def test_a_missing_or_a_listing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(BridgeError, match="holds a list"):
        read_json(tmp_path / "a.json")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"w\.safetensors is missing"):
        read_weights(tmp_path / "w.safetensors")


def test_a_pickle_under_another_name_is_called_one(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(BridgeError, match="is a pickle, whatever its name says"):
        read_weights(tmp_path / "w.safetensors")
