"""The contract of a data set of captioned pictures."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from bridge_diffusion.errors import BridgeError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A picture and what may be said of it."""

    image: Image.Image
    """RGB, of any size."""
    captions: tuple[str, ...]
    """At least one; a training step draws one of them."""
    key: str
    """Name of the pair within its data set, for messages."""
    english: str = ""
    """What an English prompt beside the captions may say of the picture: its background, its
    style. Empty for most data: the backbone reads "" then."""
    languages: tuple[str, ...] = ()
    """BCP 47 tag of each caption, "" where none is known; empty where no caption has a tag."""
    content: str = ""
    """SHA-256 of the picture's file, where the data set's `fingerprint` is made of these."""

    def __post_init__(self) -> None:
        assert self.captions
        assert not self.languages or len(self.languages) == len(self.captions)

    def tagged(self) -> tuple[tuple[str, str], ...]:
        """Each caption's language, "" where none is known, and text."""
        return tuple(zip(self.languages or ("",) * len(self.captions), self.captions, strict=True))


@runtime_checkable
class PairDataset(Protocol):
    """Captioned pictures by position; the same pair at the same position every time.

    A data set may also have a `fingerprint: str` that changes whenever a picture or a caption
    does (without one, `pixel_hash` below reads every pair); where that needs every picture's file,
    `fingerprint_of(contents)`, the same from the files' hashes that are known already, and
    `glance: str`, which changes with the names, texts, sizes and times of the files; and
    `left_out: Mapping[str, str]`, what was found beside the pairs and is no pair of it: why, by
    name.
    """

    def __len__(self) -> int:
        """Number of positions."""

    def __getitem__(self, index: int) -> Pair:
        """The pair at 0 <= index < len. Raises UnusablePair if it is damaged or lacks a part."""


class UnusablePair(BridgeError):
    """A pair that cannot be trained on. Training skips it, counts it and names it."""

    def __init__(
        self, key: str, reason: str, message: str | None = None, *, content: str = ""
    ) -> None:
        """content: as that of a pair."""
        super().__init__(message or f"{key} cannot be used ({reason})")
        self.key = key
        self.reason = reason
        self.content = content


class UnreadablePicture(UnusablePair):
    """A picture that cannot be decoded."""

    def __init__(self, key: str, reason: str, *, content: str = "") -> None:
        super().__init__(key, reason, f"{key} is no readable picture ({reason})", content=content)


@dataclass(frozen=True, slots=True)
class FirstPairs:
    """The first pairs of a larger data set."""

    dataset: PairDataset
    """The larger one."""
    count: int
    """How many, at most all of them."""
    source: str | None = None
    """What tells the larger one from any other; None for its fingerprint."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.dataset[index]

    @property
    def left_out(self) -> Mapping[str, str]:
        return left_out(self.dataset)

    @property
    def fingerprint(self) -> str:
        return self.fingerprint_of(())

    def fingerprint_of(self, contents: Sequence[str]) -> str:
        source = self.source
        if source is None:
            source = fingerprint(self.dataset, contents)
        return f"the first {self.count} of {source}"

    @property
    def glance(self) -> str:
        source = glance(self.dataset) if self.source is None else self.source
        return f"the first {self.count} of {source}"


def left_out(dataset: PairDataset) -> Mapping[str, str]:
    """What a data set found beside its pairs that is no pair: why, by name."""
    found = getattr(dataset, "left_out", {})
    return found if isinstance(found, Mapping) else {}


def fingerprint(dataset: PairDataset, contents: Sequence[str] = ()) -> str:
    """What tells a data set from any other: its own `fingerprint`, or else `pixel_hash`.

    contents: of the first pairs, as `Pair.content`, so that their files need not be read again.
    """
    if contents and hasattr(dataset, "fingerprint_of"):
        return str(dataset.fingerprint_of(contents))
    own = getattr(dataset, "fingerprint", None)
    return own if isinstance(own, str) else pixel_hash(dataset)


def glance(dataset: PairDataset) -> str:
    """What changes when a data set does, as far as can be seen without opening every picture."""
    own = getattr(dataset, "glance", None)
    return own if isinstance(own, str) else fingerprint(dataset)


def pixel_hash(dataset: PairDataset) -> str:
    """A hash of every pixel and caption; reads every pair."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        try:
            pair = dataset[index]
        except UnusablePair as unusable:
            digest.update(json.dumps([unusable.key, unusable.reason]).encode())
            continue
        said = [pair.key, pair.captions, pair.english, pair.image.size, *pair.languages]
        digest.update(json.dumps(said).encode())
        digest.update(pair.image.tobytes())
    return digest.hexdigest()


def combined_hash(fields: Iterable[str], hashes: Iterable[str]) -> str:
    """One hash of the files that a data set is read from and of the fields that are read."""
    digest = hashlib.sha256(json.dumps(list(fields)).encode())
    for each in hashes:
        digest.update(each.encode())
    return digest.hexdigest()
