"""Files that appear whole or not at all, and names that every file system takes."""

import contextlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from bridge_diffusion.writing import clear_write_errors

_LONGEST_STEM = 80  # bytes of UTF-8; file systems take 255 for a whole name
_NUMBERED = re.compile(r"(\d{5,})-")


def file_stem(prompt: str) -> str:
    """A prompt as part of a file name: letters and digits of any script, "-" for all else.

    At most 80 bytes of UTF-8; "picture" where nothing is left.
    """
    text = unicodedata.normalize("NFC", prompt)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    stem = re.sub("-+", "-", kept).strip("-")
    short = stem.encode()[:_LONGEST_STEM].decode(errors="ignore").strip("-")
    return short or "picture"


def write_numbered(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """Write a new file `00007-stem.png` under the folder's next free number; overwrites nothing.

    Raises:
        BridgeError: The folder cannot be written, or the disk is full. No part of a file stays.
    """
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = _next_number(folder)
        with _temporary(data, folder) as temporary:
            while True:
                path = folder / f"{number:05d}-{stem}{suffix}"
                if _place_new(temporary, path):
                    return path
                number += 1


def write_file(data: bytes, path: Path) -> Path:
    """Write a file whole, in place of one that is there.

    Raises:
        BridgeError: The folder cannot be written, or the disk is full. What was there stays.
    """
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(data, path.parent) as temporary:
            os.replace(temporary, path)
    return path


def _next_number(folder: Path) -> int:
    matches = (_NUMBERED.match(name) for name in os.listdir(folder))
    return max((int(match[1]) for match in matches if match), default=0) + 1


def _place_new(temporary: Path, path: Path) -> bool:
    """Give the temporary file its name; False where the name is taken."""
    try:
        os.link(temporary, path)
    except OSError:  # the name is taken, or the file system has no hard links
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _temporary(data: bytes, folder: Path) -> Iterator[Path]:
    """The data on disk under a hidden name, which is gone afterwards."""
    path = folder / f".bdm-{secrets.token_hex(8)}"
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)
