"""A folder of pictures whose captions stand in files beside them."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bridge_diffusion.data.captions import TEXT_SUFFIXES, Said, said_in_record, said_in_text
from bridge_diffusion.data.pairs import Pair, UnreadablePicture
from bridge_diffusion.data.pixels import read_picture
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_TABLES = ("metadata.jsonl", "metadata.csv")


class PairFolder:
    """`cat.jpg` with `cat.txt` beside it, in a folder and the folders below it.

    Each line of the text file that is not empty is one caption of the picture. Where there is none,
    captions come from `cat.caption`, which is read alike, from the JSON object `cat.json`, or from
    the picture's row in a `metadata.jsonl` or `metadata.csv` of its folder or of one above it, as
    Hugging Face's image folders have them (`said_in_record`). Pictures without a caption are left
    out and listed in `without_caption`. Order: by path. What an English prompt beside a caption may
    say ("watercolor", "on a beach") stands in `cat.en.txt`, on one line. Hidden files and folders
    are not looked at.
    """

    def __init__(self, folder: Path, *, fields: Sequence[str] = ()) -> None:
        """fields: of JSON objects and rows, in which captions stand; text files are not read then.

        BridgeError if there is no such folder, or no pair in it, or a text cannot be read.
        """
        if not folder.is_dir():
            raise BridgeError(f"{folder} is no folder; give one with pictures and .txt captions")
        self._folder, self._fields = folder, tuple(fields)
        self._files: list[Path] = []
        self._said: list[Said] = []
        found = _files_below(folder)
        # `IMG_1.TXT` lies beside `IMG_1.JPG`; where there is an `IMG_1.txt` too, that one counts.
        self._beside = {path.with_suffix(path.suffix.lower()): path for path in found}
        pictures = [path for path in found if path.suffix.lower() in _PICTURES]
        rows = _rows([path for path in found if path.name in _TABLES])
        without: list[str] = []
        for path in pictures:
            said = self._said_of(path, rows)
            if said.captions:
                self._files.append(path)
                self._said.append(said)
            else:
                without.append(self._key(path))
        self.without_caption = tuple(without)
        gone = rows.keys() - set(pictures)
        self.left_out = dict.fromkeys(without, "no caption") | {
            self._key(path): "named in a table, but not there" for path in sorted(gone)
        }
        """What is no pair: why, by name."""
        if not self._files:
            how = "put a .txt file of the same name beside each picture"
            if fields:
                how = (
                    f"no .json file or row has one in {' or '.join(fields)}; name other fields, or "
                    "leave captions= out"
                )
            raise BridgeError(
                f"{folder} holds no picture with a caption: {how} ({len(without)} pictures without "
                f"one found; pictures are {', '.join(sorted(_PICTURES))})"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pair:
        path, said = self._files[index], self._said[index]
        key = self._key(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnreadablePicture(key, error.strerror or str(error)) from error
        content = hashlib.sha256(data).hexdigest()
        try:
            image = read_picture(io.BytesIO(data), key)
        except UnreadablePicture as error:
            raise UnreadablePicture(key, error.reason, content=content) from error
        return Pair(
            image=image,
            captions=said.captions,
            key=key,
            english=said.english,
            languages=said.languages,
            content=content,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names, captions and file contents."""
        return self.fingerprint_of(())

    def fingerprint_of(self, contents: Sequence[str]) -> str:
        """The fingerprint; reads the files of the pairs whose `Pair.content` is not given."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor() as pool:
            known = zip_longest(range(len(self)), contents[: len(self)], fillvalue="")
            for description in pool.map(lambda each: self._described(*each), known):
                digest.update(description)
        return digest.hexdigest()

    @property
    def glance(self) -> str:
        """Hash of the names and captions, and of the sizes and times of the files."""
        digest = hashlib.sha256()
        for index, path in enumerate(self._files):
            state = path.stat()
            size_and_time = f"{state.st_size} {state.st_mtime_ns}"
            digest.update(self._described(index, size_and_time))
        return digest.hexdigest()

    def _described(self, index: int, content: str) -> bytes:
        path, said = self._files[index], self._said[index]
        if not content:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:  # `[index]` says so, and the pair is counted as unusable
                content = "unreadable"
        texts = (said.captions, said.english, *said.languages)
        return json.dumps([self._key(path), *texts, content]).encode()

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _said_of(self, picture: Path, rows: dict[Path, Any]) -> Said:
        said = Said()
        for suffix in TEXT_SUFFIXES if not self._fields else ():
            if not said.captions:
                said = said_in_text(self._text_beside(picture, suffix))
        file = self._beside.get(picture.with_suffix(".json"))
        if not said.captions and file is not None:
            said = _with_place(file, read_json(file), self._fields)
        if not said.captions and picture in rows:
            place, record = rows[picture]
            said = _with_place(place, record, self._fields)
        english = self._english(picture) or said.english
        return Said(said.captions, said.languages, english)

    def _english(self, picture: Path) -> str:
        lines = said_in_text(self._text_beside(picture, ".en.txt")).captions
        if len(lines) > 1:
            file = picture.with_suffix(".en.txt")
            raise BridgeError(f"{file} has {len(lines)} lines; write the English text on one")
        return lines[0] if lines else ""

    def _text_beside(self, picture: Path, suffix: str) -> str:
        """The text of the file of that suffix beside a picture; "" if there is none."""
        file = self._beside.get(picture.with_suffix(suffix))
        return "" if file is None else _text(file)


def _files_below(folder: Path) -> list[Path]:
    """All files but hidden ones, by path; folders that are links are looked into once."""
    files: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _with_place(place: Any, record: dict[str, Any], fields: Sequence[str]) -> Said:
    try:
        return said_in_record(record, fields)
    except BridgeError as error:
        raise BridgeError(f"{place}: {error}") from error


def _rows(tables: Sequence[Path]) -> dict[Path, tuple[str, dict[str, Any]]]:
    """Place and content of each picture's row, by the picture's path."""
    rows = {}
    for table in tables:
        for number, record in _records(table):
            place = f"{table}, row {number}"
            name = record.pop("file_name", None)
            if not isinstance(name, str) or not name:
                raise BridgeError(f"{place} has no file_name; each row names its picture there")
            rows[table.parent / name] = (place, record)
    return rows


def _records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(table)
    if table.suffix == ".csv":
        try:
            for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
                yield number, {name: value for name, value in row.items() if name is not None}
        except csv.Error as error:
            raise BridgeError(f"{table} cannot be read as CSV ({error})") from error
        return
    # JSON may hold other ends of lines, as U+2028, as they stand.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BridgeError(f"{table}, row {number} is no JSON ({error})") from error
        if not isinstance(record, dict):
            raise BridgeError(f"{table}, row {number} is no JSON object")
        yield number, record


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BridgeError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:  # of UTF-16, each Latin letter is followed by one
        raise BridgeError(f"{file} is not UTF-8 text; save it as UTF-8")
    return text
