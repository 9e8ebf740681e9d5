"""WebDataset shards: tars in which each picture's texts stand beside it, read at random."""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import accumulate
from pathlib import Path

from bridge_diffusion.data.captions import Said, said_in_record, said_in_text
from bridge_diffusion.data.pairs import Pair, UnusablePair, combined_hash
from bridge_diffusion.data.pixels import read_picture
from bridge_diffusion.data.tar_index import Sample, TarIndex, open_index, read_samples
from bridge_diffusion.errors import BridgeError

_OPEN_SHARDS = 64  # whose samples are kept in memory
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LONGEST_TEXT = 1 << 20  # bytes
_MOST_SHARDS = 1_000_000


class TarShards:
    """The pairs of tars, in the order of the tars and of their members.

    A sample is a picture with a text of the same name: `.txt` or `.caption` with a caption a line,
    or `.json` as img2dataset writes it. Where each lies is found once and kept beside the tar.
    A damaged tar gives what is whole of it, and is named in `left_out`.
    """

    def __init__(self, files: Sequence[Path], *, fields: Sequence[str] = ()) -> None:
        """fields: of the JSON, in which captions stand; see `said_in_record`.

        BridgeError if no tar holds a pair.
        """
        self._files, self._fields = tuple(files), tuple(fields)
        self._indexes: list[TarIndex] = []
        self.left_out: dict[str, str] = {}
        """Samples and tars that are not whole: why, by name."""
        for file in files:
            index = open_index(file)
            self._indexes.append(index)
            if index.damage:
                self.left_out[file.name] = f"{index.damage}; {index.samples} pairs before it"
            for name, reason in index.left_out.items():
                self.left_out[f"{file.name}/{name}"] = reason
        self._ends = list(accumulate(index.samples for index in self._indexes))
        if not self._ends or not self._ends[-1]:
            why = next(iter(self.left_out.items()), None)
            said = f" ({why[0]}: {why[1]})" if why else ""
            raise BridgeError(
                f"no pictures with captions in {len(self._files)} tars{said}: put NAME.txt or "
                "NAME.json beside each NAME.jpg in them"
            )
        self._samples = lru_cache(maxsize=_OPEN_SHARDS)(self._read_samples)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        sample, tar = self._samples(shard)[index - first], self._files[shard]
        key = f"{tar.name}/{sample.key}"
        try:
            said = self._said(tar, sample)
        except (BridgeError, ValueError) as error:
            raise UnusablePair(key, f"its text cannot be read: {error}") from error
        if not said.captions:
            raise UnusablePair(key, "no caption")
        picture = _read(tar, sample, sample.picture)
        return Pair(
            image=read_picture(BytesIO(picture), key),
            captions=said.captions,
            key=key,
            english=said.english,
            languages=said.languages,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the tars' contents and of where captions are looked for."""
        return combined_hash(self._fields, (index.sha256 for index in self._indexes))

    def _read_samples(self, shard: int) -> list[Sample]:
        return read_samples(self._files[shard], self._indexes[shard])

    def _said(self, tar: Path, sample: Sample) -> Said:
        said, english = Said(), ""
        for name in ("txt", "caption") if not self._fields else ():
            if name in sample.members and not said.captions:
                said = said_in_text(_read(tar, sample, name).decode("utf-8-sig"))
        if "json" in sample.members and not said.captions:
            record = json.loads(_read(tar, sample, "json"))
            if not isinstance(record, dict):
                raise BridgeError(f"its JSON is a {type(record).__name__}, no object")
            said = said_in_record(record, self._fields)
        if "en.txt" in sample.members:
            english = " ".join(_read(tar, sample, "en.txt").decode("utf-8-sig").split())
        return Said(said.captions, said.languages, english or said.english)


def tars_at(place: str) -> list[Path]:
    """The tars of a folder, of a pattern such as `shard-{000..009}.tar` or `*.tar`, or one tar.

    Empty if the place is nothing of that. BridgeError where a tar of a pattern is missing.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.suffix != ".tar":
        return []
    if _RANGE.search(place):
        files = [Path(name).expanduser() for name in _expand(place)]
        if missing := [file for file in files if not file.is_file()]:
            raise BridgeError(
                f"{len(missing)} of the {len(files)} tars of {place} are missing, such as "
                f"{missing[0]}"
            )
        return files
    if path.is_file():
        return [path]
    return sorted(path.parent.glob(path.name)) if "*" in path.name else []


def _expand(pattern: str) -> Iterator[str]:
    """`a-{08..10}` => a-08, a-09, a-10."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + _MOST_SHARDS:
        raise BridgeError(
            f"{found[0]} in {pattern} counts no shards: write the first number, two dots, the last"
        )
    for number in range(first, last + 1):
        text = str(number).zfill(len(found[1]))
        yield from _expand(pattern[: found.start()] + text + pattern[found.end() :])


def _read(tar: Path, sample: Sample, name: str) -> bytes:
    offset, length = sample.members[name]
    if name in ("txt", "caption", "json", "en.txt") and length > _LONGEST_TEXT:
        raise BridgeError(f"{length} bytes of text, of which at most {_LONGEST_TEXT} are read")
    with tar.open("rb") as file:
        file.seek(offset)
        content = file.read(length)
    if len(content) < length:
        raise UnusablePair(f"{tar.name}/{sample.key}", "the tar ends before its picture does")
    return content
