"""Which pair each place of each batch gets, where pairs are of several kinds.

Kinds are the sources of a mixture, which are drawn by weight, and the shapes of pictures, of which
a batch has one. A batch is a function of the seed and its index alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridge_diffusion.training.order import Pick
from bridge_diffusion.training.seeds import stream_seed

_DRAW, _MIX, _GROUP, _ENGLISH = 2, 3, 4, 5  # positions of the random streams of a seed


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs that are drawn as often as each other and may stand in one batch."""

    indices: np.ndarray
    """Their positions."""
    count: int
    """How many of them, counted again when drawn again, an epoch has."""
    shape: int = 0
    """Number of their pictures' shape; a batch has one shape."""


def weighted_groups(
    sources: np.ndarray, weights: Sequence[float] | None, shapes: np.ndarray
) -> list[Group]:
    """Groups by source and shape.

    sources, shapes: those of each position. weights: of each source; an epoch is as long as it
    takes to draw every pair at least once with these shares, so that pairs of other sources come
    several times. None: every pair comes once.
    """
    sizes = np.bincount(sources, minlength=len(weights or ()))
    times = np.ones(len(sizes))
    if weights is not None:
        often = np.array(weights) / np.maximum(sizes, 1)
        times = often / often[sizes > 0].min()
    groups = []
    for source, size in enumerate(sizes):
        mine = np.flatnonzero(sources == source)
        for shape in np.unique(shapes[mine]) if size else ():
            indices = mine[shapes[mine] == shape]
            count = max(1, round(len(indices) * times[source]))
            groups.append(Group(indices, count, int(shape)))
    return groups


class GroupedOrder:
    """Every group's pairs in turn, each round of them in another order."""

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        batch_size: int,
        caption_dropout: float,
        seed: int,
        english_dropout: float = 0.0,
    ) -> None:
        self._groups, self._batch_size = tuple(groups), batch_size
        self._caption_dropout, self._seed = caption_dropout, seed
        self._english_dropout = english_dropout
        counts: dict[int, int] = {}
        for group in self._groups:
            counts[group.shape] = counts.get(group.shape, 0) + group.count
        self._shapes = sorted(counts)
        self._batches = sum(math.ceil(count / batch_size) for count in counts.values())
        self._epoch, self._order = -1, np.empty((0, batch_size), dtype=np.int64)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every pair comes at least once."""
        return self._batches

    def batch(self, index: int) -> list[Pick]:
        """What the index-th batch is made of: pairs of one shape."""
        epoch, place = divmod(index, self._batches)
        if epoch != self._epoch:
            self._order, self._epoch = self._order_of(epoch), epoch
        random = np.random.default_rng(stream_seed(self._seed, _DRAW, index))
        english = np.random.default_rng(stream_seed(self._seed, _ENGLISH, index))
        picks = []
        for position in self._order[place]:
            drop, draw = random.random(2)
            caption = None if drop < self._caption_dropout else float(draw)
            reads_english = bool(english.random() >= self._english_dropout)
            picks.append(Pick(int(position), caption, reads_english))
        return picks

    def _order_of(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, [batches, batch size]."""
        random = np.random.default_rng(stream_seed(self._seed, _MIX, epoch))
        batches = []
        for shape in self._shapes:
            drawn = np.concatenate(
                [
                    self._drawn(number, epoch * group.count, group.count)
                    for number, group in enumerate(self._groups)
                    if group.shape == shape
                ]
            )
            random.shuffle(drawn)
            # The last batch of a shape is filled with the first pairs of it again.
            whole = math.ceil(len(drawn) / self._batch_size) * self._batch_size
            batches.append(np.resize(drawn, whole).reshape(-1, self._batch_size))
        together = np.concatenate(batches)
        random.shuffle(together)
        return together

    def _drawn(self, number: int, first: int, count: int) -> np.ndarray:
        """Draws first..first+count-1 of a group: its pairs round and round, each time shuffled."""
        indices, draws = self._groups[number].indices, []
        turn, start = divmod(first, len(indices))
        while count > 0:
            random = np.random.default_rng(stream_seed(self._seed, _GROUP, number, turn))
            some = random.permutation(indices)[start : start + count]
            draws.append(some)
            turn, start, count = turn + 1, 0, count - len(some)
        return np.concatenate(draws)
