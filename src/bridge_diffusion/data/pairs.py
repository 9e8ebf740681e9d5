"""The contract of a data set of captioned pictures."""

import hashlib
import json
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


@runtime_checkable
class PairDataset(Protocol):
    """Captioned pictures by position; the same pair at the same position every time.

    A data set may also have a `fingerprint: str` that changes whenever a picture or a caption
    does; without one, `pixel_hash` below reads every pair.
    """

    def __len__(self) -> int:
        """Number of positions."""

    def __getitem__(self, index: int) -> Pair:
        """The pair at 0 <= index < len. Raises UnreadablePicture if its picture is damaged."""


class UnreadablePicture(BridgeError):
    """A picture that cannot be decoded. Training skips it, counts it and names it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} is no readable picture ({reason})")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FirstPairs:
    """The first pairs of a larger data set."""

    dataset: PairDataset
    """The larger one."""
    count: int
    """How many, at most all of them."""
    source: str
    """Fingerprint of the larger one."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.dataset[index]

    @property
    def fingerprint(self) -> str:
        return f"the first {self.count} of {self.source}"


def fingerprint(dataset: PairDataset) -> str:
    """What tells a data set from any other: its own `fingerprint`, or else `pixel_hash`."""
    own = getattr(dataset, "fingerprint", None)
    return own if isinstance(own, str) else pixel_hash(dataset)


def pixel_hash(dataset: PairDataset) -> str:
    """A hash of every pixel and caption; reads every pair."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        try:
            pair = dataset[index]
        except UnreadablePicture as unreadable:
            digest.update(json.dumps([unreadable.key, unreadable.reason]).encode())
            continue
        said = [pair.key, pair.captions, pair.english, pair.image.size]
        digest.update(json.dumps(said).encode())
        digest.update(pair.image.tobytes())
    return digest.hexdigest()
