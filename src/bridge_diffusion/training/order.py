"""Which pair of a data set, and which of its captions, each place of each batch gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bridge_diffusion.training.seeds import stream_seed

_SHUFFLE, _DRAW, _ENGLISH = 0, 1, 2  # positions of the random streams of a seed


@dataclass(frozen=True, slots=True)
class Pick:
    """One place of a batch."""

    index: int
    """Position of the pair."""
    caption: float | None
    """0 <= draw < 1 among the pair's captions; None if the place has no caption."""
    english: bool = True
    """Whether the backbone reads the pair's English text, if it has one."""

    def caption_of(self, captions: Sequence[str]) -> str:
        """The drawn caption; the empty one if it was dropped."""
        return "" if self.caption is None else captions[int(self.caption * len(captions))]

    def english_of(self, english: str) -> str:
        """What the backbone reads: nothing where the caption was dropped, as when drawing."""
        return english if self.english and self.caption is not None else ""


class Order(Protocol):
    """What each batch is made of: a function of its index alone."""

    def batch(self, index: int) -> list[Pick]:
        """The places of the index-th batch."""


class ShuffledOrder:
    """Every pair once an epoch, each epoch in another order. A function of the seed alone."""

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        caption_dropout: float,
        seed: int,
        english_dropout: float = 0.0,
    ) -> None:
        self._count, self._batch_size = count, batch_size
        self._caption_dropout, self._seed = caption_dropout, seed
        self._english_dropout = english_dropout
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def batch(self, index: int) -> list[Pick]:
        """What the index-th batch is made of; the last one of an epoch reaches into the next."""
        picks = []
        for place in range(index * self._batch_size, (index + 1) * self._batch_size):
            epoch, position = divmod(place, self._count)
            # Drawn by place, not by batch, so that another size of batch draws the same.
            drop, draw = np.random.default_rng(stream_seed(self._seed, _DRAW, place)).random(2)
            caption = None if drop < self._caption_dropout else float(draw)
            picks.append(Pick(int(self._order_of(epoch)[position]), caption, self._english(place)))
        return picks

    def _english(self, place: int) -> bool:
        if not self._english_dropout:
            return True
        random = np.random.default_rng(stream_seed(self._seed, _ENGLISH, place))
        return bool(random.random() >= self._english_dropout)

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            random = np.random.default_rng(stream_seed(self._seed, _SHUFFLE, epoch))
            self._permutation = random.permutation(self._count)
            self._epoch = epoch
        return self._permutation
