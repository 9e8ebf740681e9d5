"""Where the members of a tar lie: found once, kept beside it, so that pairs can be read at random.

    shard-000.tar.index.jsonl
        {"format": 2, "size": ..., "mtime_ns": ..., "sha256": ..., "samples": ..., ...}
        ["000000012", {"jpg": [1536, 20311], "txt": [22528, 34]}]       offset and length in bytes
        ...

Members of one name up to its first dot are one sample, as in WebDataset, wherever in the tar they
are; a second member of the same name and extension begins another sample. The index is used while
the tar has the size and time that it was made at, and made anew when the content has changed.
"""

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file

_log = logging.getLogger(__name__)

_FORMAT = 2
_BLOCK = 512  # bytes: a tar is made of such blocks, and ends with two that are zero
PICTURE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")
TEXT_EXTENSIONS = ("txt", "caption", "json")

#: Offset and length of a member's content, in bytes.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """Members of one name."""

    key: str
    """Their name up to its first dot."""
    members: dict[str, Place]
    """Where each lies, by what follows that dot, in lower case."""

    @property
    def picture(self) -> str:
        """The extension of its picture."""
        return next(name for name in PICTURE_EXTENSIONS if name in self.members)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarIndex:
    """What is known of a tar without reading its members."""

    format: int = _FORMAT
    """Of the index file."""
    size: int
    """Bytes of the tar."""
    mtime_ns: int
    """When the tar was last written."""
    sha256: str
    """Of the whole tar."""
    samples: int
    """Samples with a picture and a text that are whole."""
    damage: str = ""
    """Why the tar could only be read in part, or not at all; "" if it is whole."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Samples that are no pair: why, by name."""


def index_file(tar: Path) -> Path:
    """The place of a tar's index."""
    return tar.with_name(f"{tar.name}.index.jsonl")


def open_index(tar: Path) -> TarIndex:
    """The index of a tar, made and kept beside it if there is none that fits.

    BridgeError if the tar cannot be read at all. A tar that is damaged has an index of what is
    whole. Where nothing can be written beside the tar, it is looked through at every opening.
    """
    try:
        state = tar.stat()
        kept = _kept_index(index_file(tar))
        if kept and (kept.size, kept.mtime_ns) == (state.st_size, state.st_mtime_ns):
            return kept
        with tar.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        index, samples = _look_through(tar, digest)
    except OSError as error:
        raise BridgeError(f"{tar} cannot be read ({error.strerror or error})") from error
    lines = [json.dumps(asdict(index))]
    lines += [json.dumps([one.key, one.members]) for one in samples]
    try:
        write_file(("\n".join(lines) + "\n").encode(), index_file(tar))
    except BridgeError as error:
        _log.warning("the index of %s is not kept, and is made at every opening: %s", tar, error)
    return index


def read_samples(tar: Path, index: TarIndex) -> list[Sample]:
    """The samples of a tar, in their order."""
    file = index_file(tar)
    if _kept_index(file) == index:
        try:
            rows = [json.loads(line) for line in file.read_bytes().splitlines()[1:]]
            found = [
                Sample(key, {name: _inside(place, index.size) for name, place in places.items()})
                for key, places in rows
            ]
        except (OSError, ValueError, TypeError, AttributeError):
            found = []
        if len(found) == index.samples and all(map(_has_picture, found)):
            return found
    _, samples = _look_through(tar, index.sha256)
    if len(samples) != index.samples:
        file.unlink(missing_ok=True)
        raise BridgeError(
            f"{tar} has changed while it is in use, or its index was damaged; start again"
        )
    return samples


def _inside(place: Any, size: int) -> Place:
    """Offset and length as an index file has them. ValueError if they are none in the tar."""
    offset, length = place
    if not (isinstance(offset, int) and isinstance(length, int)):
        raise ValueError(place)
    if not 0 <= offset <= offset + length <= size:
        raise ValueError(place)
    return offset, length


def _kept_index(file: Path) -> TarIndex | None:
    """What an index file begins with; None if there is none that can be read."""
    try:
        with file.open("rb") as opened:
            values: Any = json.loads(opened.readline())
        if values.keys() != {one.name for one in fields(TarIndex)} or values["format"] != _FORMAT:
            return None
        blank = TarIndex(size=0, mtime_ns=0, sha256="", samples=0)
        if any(type(value) is not type(getattr(blank, name)) for name, value in values.items()):
            return None
        return TarIndex(**values)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _look_through(tar: Path, digest: str) -> tuple[TarIndex, list[Sample]]:
    state = tar.stat()
    found: list[tuple[str, dict[str, Place]]] = []
    newest: dict[str, dict[str, Place]] = {}
    damage = ""
    try:
        for name, place in _members(tar, state.st_size):
            key, extension = _split(name)
            if not key or key.endswith("/"):
                continue  # hidden: macOS puts `._cat.jpg` before `cat.jpg`
            if key not in newest or extension in newest[key]:
                newest[key] = {}
                found.append((key, newest[key]))
            newest[key][extension] = place
    except _Damaged as error:
        damage = str(error)
    samples: list[Sample] = []
    left_out: dict[str, str] = {}
    for key, members in found:
        if not _has_picture(Sample(key, members)):
            left_out[key] = "no picture"
        elif not any(name in members for name in TEXT_EXTENSIONS):
            left_out[key] = "no caption"
        else:
            samples.append(Sample(key, members))
    index = TarIndex(
        size=state.st_size,
        mtime_ns=state.st_mtime_ns,
        sha256=digest,
        samples=len(samples),
        damage=damage,
        left_out=left_out,
    )
    return index, samples


def _has_picture(sample: Sample) -> bool:
    return any(name in sample.members for name in PICTURE_EXTENSIONS)


class _Damaged(Exception):
    """The rest of a tar cannot be read; says why."""


def _members(tar: Path, size: int) -> Iterator[tuple[str, Place]]:
    """Name and place of each file that is whole. Raises _Damaged where the reading ends early."""
    with tar.open("rb") as file:
        start = file.read(_BLOCK)
        if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start[:6] == b"\xfd7zXZ\x00":
            raise _Damaged("compressed: unpack it, random access needs a plain tar")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as opened:
                while (member := opened.next()) is not None:
                    opened.members = []  # type: ignore[attr-defined]  # kept, and many of a large tar
                    if member.offset_data + member.size > size or member.size < 0:
                        raise _Damaged(f"cut off in {member.name}")
                    if member.isreg() and not member.issparse():
                        yield member.name, (member.offset_data, member.size)
                end = opened.offset
        except _Damaged:
            raise
        except Exception as error:  # a damaged header makes tarfile raise almost anything
            raise _Damaged(str(error) or type(error).__name__) from error
        # tarfile takes a header that it cannot read for the end.
        file.seek(end)
        mark = file.read(_BLOCK)
        if len(mark) < _BLOCK or any(mark):
            raise _Damaged(f"no end mark, or a broken header, at byte {end}")


def _split(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and what follows, in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()
