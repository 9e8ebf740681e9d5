"""Pairs that cannot be used are skipped, counted and named, whoever reads them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bridge_diffusion.data.pairs import Pair, PairDataset, UnusablePair
from bridge_diffusion.data.pixels import fit_square, to_pixels
from bridge_diffusion.data.store import Item, TensorStore
from bridge_diffusion.errors import BridgeError

_log = logging.getLogger(__name__)


class ReadablePairs:
    """A data set that is read at every step, an unusable pair replaced by the next one."""

    def __init__(self, dataset: PairDataset) -> None:
        self._dataset = dataset
        self.skipped: dict[str, str] = {}
        """Unusable pairs met so far: why, by name."""

    def pair(self, index: int) -> Pair | None:
        """The pair at `index`; None if it cannot be used, noted in `skipped`."""
        try:
            return self._dataset[index]
        except UnusablePair as unusable:
            if unusable.key not in self.skipped:
                _log.info("skipped: %s", unusable)
                self.skipped[unusable.key] = unusable.reason
            return None

    def pair_among(self, indices: Sequence[int], place: int) -> Pair:
        """The pair at `indices[place]`, or the first readable one after it, round about.

        BridgeError if none can be read.
        """
        for offset in range(len(indices)):
            pair = self.pair(indices[(place + offset) % len(indices)])
            if pair is not None:
                return pair
        first = next(iter(self.skipped))
        raise BridgeError(f"none of the {len(indices)} pictures can be read; look at {first}")


def encode_pictures(
    dataset: PairDataset,
    indices: Sequence[int],
    size: int,
    net: Callable[[Float[Tensor, "batch 3 size size"]], Shaped[Tensor, "batch ..."]],
) -> list[Item]:
    """Items of a store: a row each, what `net` makes of the pixels (-1..1), with the texts.

    An unusable pair is an item without rows, whose note says why.
    """
    notes: list[dict[str, Any]] = []
    pixels = []
    for index in indices:
        try:
            pair = dataset[index]
        except UnusablePair as unusable:
            _log.info("skipped: %s", unusable)
            notes.append({"key": unusable.key, "unreadable": unusable.reason})
            continue
        note = {"key": pair.key, "captions": list(pair.captions)}
        notes.append(note | {"english": pair.english} if pair.english else note)
        pixels.append(to_pixels(fit_square(pair.image, size)))
    rows = net(torch.stack(pixels)).cpu() if pixels else torch.zeros(0)
    nothing, remaining = rows[:0], iter(rows.split(1))
    return [Item(nothing if "unreadable" in note else next(remaining), note) for note in notes]


def readable(store: TensorStore) -> list[int]:
    """Positions of the pictures that could be read. BridgeError if there is none."""
    found = [i for i, note in enumerate(store.notes) if "unreadable" not in note]
    if not found:
        raise BridgeError(f"none of the {len(store)} pictures can be read")
    return found


def unreadable(store: TensorStore) -> dict[str, str]:
    """The pictures that could not be read: why, by name."""
    return {note["key"]: note["unreadable"] for note in store.notes if "unreadable" in note}
