import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import file_stem, write_file, write_numbered


@given(st.text())
def test_a_stem_is_safe_on_every_file_system(prompt: str) -> None:
    stem = file_stem(prompt)
    assert stem
    assert len(stem.encode()) <= 80
    assert not set(stem) & set('/\\:*?"<>|.\0\n\t ')
    assert not any(0x200E <= ord(character) <= 0x202E for character in stem)


def test_stems_keep_every_script() -> None:
    assert file_stem("红包") == "红包"
    assert file_stem("../a  b/（词：1.3）") == "a-b-词-1-3"
    assert file_stem("ظرف أحمر") == "ظرف-أحمر"
    assert file_stem("लाल लिफ़ाफ़ा") == file_stem("लाल-लिफ़ाफ़ा")
    assert file_stem("?!") == "picture"
    assert file_stem("红" * 100) == "红" * 26


def test_numbers_count_up_and_overwrite_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    first = write_numbered(b"1", folder, "红包", ".png")
    second = write_numbered(b"2", folder, "红包", ".png")
    assert [first.name, second.name] == ["00001-红包.png", "00002-红包.png"]
    (folder / "100000-x.jpg").write_bytes(b"")
    assert write_numbered(b"3", folder, "红包", ".png").name == "100001-红包.png"
    assert first.read_bytes() == b"1"


def test_a_name_taken_in_between_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "00001-x.png"
    monkeypatch.setattr(os, "listdir", lambda _: [])
    taken.write_bytes(b"other")
    assert write_numbered(b"mine", tmp_path, "x", ".png").name == "00002-x.png"
    assert taken.read_bytes() == b"other"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def full(_: int) -> None:
        raise OSError(error, "no space")

    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BridgeError, match="disk is full"):
        write_numbered(b"data", tmp_path, "x", ".png")
    with pytest.raises(BridgeError, match="disk is full"):
        write_file(b"new", old)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"old"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BridgeError, match="another place"):
        write_numbered(b"data", tmp_path / "file", "x", ".png")
    with pytest.raises(BridgeError, match="another place"):
        write_file(b"data", tmp_path / "file" / "x.png")


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", no_links)
    write_numbered(b"1", tmp_path, "x", ".png")
    write_numbered(b"2", tmp_path, "x", ".png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00001-x.png", "00002-x.png"]
