"""Hugging Face datasets: a saved folder, parquet files, or a data set of the hub."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_diffusion.data.captions import CAPTION_FIELDS, said_in_record
from bridge_diffusion.data.pairs import Pair, UnusablePair, combined_hash
from bridge_diffusion.data.pixels import read_picture
from bridge_diffusion.errors import BridgeError

if TYPE_CHECKING:
    from datasets import Dataset

HUB_PREFIX = "hf:"
_PICTURE_FIELDS = ("image", "jpg", "png", "webp", "picture", "img")


class PairTable:
    """The rows of a Hugging Face dataset, each a picture with captions."""

    def __init__(
        self, table: "Dataset", name: str, *, fields: Sequence[str] = (), picture: str = ""
    ) -> None:
        """fields: columns of the captions; picture: column of the picture. Guessed if not given.

        BridgeError if there is no such column, or no column that is plainly meant.
        """
        from datasets import Image

        columns = table.column_names
        if missing := [
            field for field in (*fields, *filter(None, [picture])) if field not in columns
        ]:
            raise BridgeError(f"{name} has no column {missing[0]!r}; it has {', '.join(columns)}")
        features = table.features
        pictures = [column for column in columns if isinstance(features[column], Image)]
        pictures += [column for column in _PICTURE_FIELDS if column in columns]
        if not picture and not pictures:
            raise BridgeError(
                f"{name} has no column of pictures that is plainly one: name it, as in "
                f"{name},image=COLUMN; it has {', '.join(columns)}"
            )
        self._name, self._fields = name, tuple(fields)
        self._picture = picture or pictures[0]
        if isinstance(features[self._picture], Image):
            table = table.cast_column(self._picture, Image(decode=False))
        self._table = table
        try:
            anything = any(said_in_record(self._texts(row), fields).captions for row in _few(table))
        except BridgeError as error:
            raise BridgeError(f"{name}: {error}") from error
        if not anything:
            raise BridgeError(
                f"{name} has no captions in {' or '.join(fields or CAPTION_FIELDS)}: name their "
                f"columns, as in {name},captions=COLUMN; it has {', '.join(columns)}"
            )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._table[index]
        key = str(index)
        try:
            said = said_in_record(self._texts(row), self._fields)
        except BridgeError as error:
            raise UnusablePair(key, str(error)) from error
        if not said.captions:
            raise UnusablePair(key, "no caption")
        return Pair(
            image=read_picture(_opened(row[self._picture], key), key),
            captions=said.captions,
            key=key,
            english=said.english,
            languages=said.languages,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files that the rows are read from, of which rows, and of the columns."""
        hashes = []
        for entry in self._table.cache_files:
            with Path(entry["filename"]).open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        which = [] if self._table._indices is None else [self._table._fingerprint]
        return combined_hash([*self._fields, self._picture, str(len(self)), *which], hashes)

    def _texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != self._picture}


def open_table(
    place: str, *, split: str, config: str, fields: Sequence[str], picture: str
) -> PairTable:
    """Open `hf:OWNER/NAME` of the hub, a folder of `save_to_disk`, parquet files or one of them.

    split, config: of a data set that has several; "" for its only one, or "train".
    BridgeError if there is none such, or the package is not installed.
    """
    datasets = _package()
    datasets.disable_progress_bars()
    path = Path(place).expanduser()
    try:
        if place.startswith(HUB_PREFIX):
            loaded = datasets.load_dataset(place.removeprefix(HUB_PREFIX), config or None)
        elif path.is_dir() and not parquet_files(place):
            loaded = datasets.load_from_disk(str(path))
        else:
            files = [str(file) for file in parquet_files(place)]
            loaded = datasets.load_dataset("parquet", data_files={"train": files})
    except Exception as error:  # of many kinds, from pyarrow, the hub and the package itself
        line = " ".join(str(error).split())
        raise BridgeError(f"{place} cannot be opened as a data set ({line})") from error
    if isinstance(loaded, Mapping):
        splits = sorted(loaded)
        wanted = split or ("train" if "train" in splits else splits[0] if splits else "")
        if wanted not in splits or (not split and wanted != "train" and len(splits) > 1):
            raise BridgeError(
                f"{place} has the splits {', '.join(splits) or 'none'}: name one, as in "
                f"{place},split={splits[0] if splits else 'train'}"
            )
        loaded = loaded[wanted]
    if not len(loaded):
        raise BridgeError(f"{place} has no rows")
    return PairTable(loaded, place, fields=fields, picture=picture)


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def parquet_files(place: str) -> list[Path]:
    """The parquet files of a folder or pattern, or the one named; empty if it is neither."""
    path = Path(place).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    if path.suffix != ".parquet":
        return []
    if path.is_file():
        return [path]
    return sorted(path.parent.glob(path.name)) if "*" in path.name else []


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise BridgeError(
            "Hugging Face datasets need the extra `data`: pip install 'bridge-diffusion[data]'"
        ) from error
    return datasets


def _few(table: "Dataset") -> list[dict[str, Any]]:
    return list(table.select(range(min(16, len(table)))))


def _opened(value: Any, key: str) -> Any:
    """A picture as the column holds it: bytes, a path, or an object with either."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return BytesIO(value)
    if isinstance(value, str):
        return Path(value)
    raise UnusablePair(key, "no picture")
