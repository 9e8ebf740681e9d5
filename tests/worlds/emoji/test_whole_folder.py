import errno
import os
from pathlib import Path

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.whole_folder import whole_folder


def build(out: Path, *files: str, earlier: tuple[str, ...] = ()) -> None:
    with whole_folder(out, earlier=earlier) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("new")


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_new_folder(tmp_path: Path) -> None:
    build(tmp_path / "a/b", "x", "set/y")
    assert files(tmp_path / "a/b") == {"x", "set/y"}
    assert not list((tmp_path / "a/b").glob(".*"))


def test_earlier_files_are_replaced(tmp_path: Path) -> None:
    build(tmp_path, "old", "set/gone", "set/kept")
    (tmp_path / "old").write_text("earlier")
    build(tmp_path, "old", "set/kept", earlier=("old", "set/gone", "set/kept"))
    assert files(tmp_path) == {"old", "set/kept"}
    assert (tmp_path / "old").read_text() == "new"


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/thesis.txt").write_text("mine")
    with pytest.raises(BridgeError, match=r"holds another file, set/thesis.txt; choose an empty"):
        build(tmp_path, "x", earlier=("set/x",))
    assert files(tmp_path) == {"set/thesis.txt"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [True, False])
def test_failure_leaves_all_as_it_was(tmp_path: Path, error: BaseException, existed: bool) -> None:
    out = tmp_path / "out"
    if existed:
        build(out, "old")
    expected = BridgeError if isinstance(error, OSError) else KeyboardInterrupt

    def interrupted() -> None:
        with whole_folder(out, earlier=("old",)) as folder:
            (folder / "half").write_text("written")
            raise error

    with pytest.raises(expected) as caught:
        interrupted()
    if isinstance(error, OSError):
        assert "the disk is full" in str(caught.value)
    assert out.exists() == existed
    assert not existed or (os.listdir(out) == ["old"] and (out / "old").read_text() == "new")


def test_failure_while_moving_is_undone(tmp_path: Path) -> None:
    build(tmp_path, "a", "b")

    def hindered() -> None:
        with whole_folder(tmp_path, earlier=("a", "b")) as folder:
            (folder / "a").write_text("newer")
            (folder / "z").write_text("newer")
            (tmp_path / "z").mkdir()  # in the way of the last move

    with pytest.raises(BridgeError, match="cannot write"):
        hindered()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"
    assert not list(tmp_path.glob(".building-*"))


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".building-dead/new").mkdir(parents=True)
    (tmp_path / ".building-dead/new/half").write_text("")
    build(tmp_path, "x")
    assert files(tmp_path) == {"x"}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BridgeError, match="is a file; choose a folder"):
        build(tmp_path / "file", "x")
    with pytest.raises(BridgeError, match=r"cannot write to .*; choose another place"):
        build(tmp_path / "file/below", "x")
    assert (tmp_path / "file").read_text() == "mine"
