"""The contract of a data set of captioned pictures."""

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

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


class PairDataset(Protocol):
    """Captioned pictures by position; the same pair at the same position every time.

    A data set may also have a `fingerprint: str` that changes whenever a picture or a caption
    does; without one, `fingerprint` below reads every pair.
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


def fingerprint(dataset: PairDataset) -> str:
    """A hash of everything in a data set: its own, or else that of every pixel and caption."""
    own = getattr(dataset, "fingerprint", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        try:
            pair = dataset[index]
        except UnreadablePicture as unreadable:
            digest.update(json.dumps([unreadable.key, unreadable.reason]).encode())
            continue
        digest.update(json.dumps([pair.key, pair.captions, pair.image.size]).encode())
        digest.update(pair.image.tobytes())
    return digest.hexdigest()
