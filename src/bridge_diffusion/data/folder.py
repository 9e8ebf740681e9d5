"""A folder of pictures, each with a text file of the same name that holds its captions."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from bridge_diffusion.data.pairs import Pair
from bridge_diffusion.data.pixels import read_picture
from bridge_diffusion.errors import BridgeError

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class PairFolder:
    """`cat.jpg` with `cat.txt` beside it, in a folder and the folders below it.

    Each line of the text file that is not empty is one caption of the picture. Pictures without
    a caption are left out and listed in `without_caption`. Order: by path. What an English prompt
    beside a caption may say ("watercolor", "on a beach") stands in `cat.en.txt`, on one line.
    """

    def __init__(self, folder: Path) -> None:
        """BridgeError if there is no such folder, or no pair in it, or a text is not UTF-8."""
        if not folder.is_dir():
            raise BridgeError(f"{folder} is no folder; give one with pictures and .txt captions")
        self._folder = folder
        self._files: list[Path] = []
        self._captions: list[tuple[str, ...]] = []
        self._english: list[str] = []
        without: list[str] = []
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in _PICTURES or not path.is_file():
                continue
            captions = _captions(path.with_suffix(".txt"))
            if captions:
                self._files.append(path)
                self._captions.append(captions)
                self._english.append(_english(path.with_suffix(".en.txt")))
            else:
                without.append(self._key(path))
        self.without_caption = tuple(without)
        if not self._files:
            raise BridgeError(
                f"{folder} holds no picture with a caption: put a .txt file of the same name "
                f"beside each picture ({len(without)} pictures without one found)"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pair:
        path = self._files[index]
        key = self._key(path)
        return Pair(
            image=read_picture(path, key),
            captions=self._captions[index],
            key=key,
            english=self._english[index],
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names, captions and file contents."""

        def describe(index: int) -> bytes:
            path = self._files[index]
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            said = (self._captions[index], self._english[index])
            return json.dumps([self._key(path), *said, content]).encode()

        digest = hashlib.sha256()
        with ThreadPoolExecutor() as pool:
            for description in pool.map(describe, range(len(self))):
                digest.update(description)
        return digest.hexdigest()

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _english(file: Path) -> str:
    lines = _captions(file)
    if len(lines) > 1:
        raise BridgeError(f"{file} has {len(lines)} lines; write the English text on one")
    return lines[0] if lines else ""


def _captions(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BridgeError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())
