"""Folders of made files that appear whole or not at all."""

import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.writing import clear_write_errors

_STAGING = ".building-"


@contextmanager
def whole_folder(out: Path, *, earlier: Collection[str]) -> Iterator[Path]:
    """Gives an empty folder to fill; what is in it becomes the contents of `out` at the end.

    If the body raises, or is interrupted, `out` is as it was before.

    Args:
        out: a folder that is new, empty, or holds nothing but earlier files.
        earlier: files under `out` (POSIX paths) that an earlier run made: they are replaced.

    Raises:
        BridgeError: `out` holds other files or cannot be written, or the disk is full.
    """
    with clear_write_errors(out):
        is_new = not out.exists()
        replaced = [] if is_new else _replaceable(out, earlier)
        staging = out / f"{_STAGING}{secrets.token_hex(4)}"
        (staging / "new").mkdir(parents=True)
        try:
            yield staging / "new"
            _publish(staging, out, replaced)
        except BaseException:
            shutil.rmtree(staging)
            if is_new:
                out.rmdir()
            raise
        shutil.rmtree(staging)


def _replaceable(out: Path, earlier: Collection[str]) -> list[Path]:
    """The entries of a folder, if all of them are ours to replace."""
    if not out.is_dir():
        raise BridgeError(f"{out} is a file; choose a folder with --out")
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        ours = relative.as_posix() in earlier or relative.parts[0].startswith(_STAGING)
        if path.is_file() and not ours:
            raise BridgeError(f"{out} holds another file, {relative}; choose an empty folder")
    return sorted(out.iterdir())


def _publish(staging: Path, out: Path, replaced: list[Path]) -> None:
    """Moves the earlier entries away and the new ones in; undoes it all if a move fails."""
    (staging / "old").mkdir()
    moves = [(path, staging / "old" / path.name) for path in replaced]
    moves += [(path, out / path.name) for path in sorted((staging / "new").iterdir())]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise
