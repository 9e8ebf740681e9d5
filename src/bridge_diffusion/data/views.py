"""Data sets made of others: captions of some languages, and several sets as one."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from bridge_diffusion.data.captions import Said, in_language
from bridge_diffusion.data.pairs import (
    Pair,
    PairDataset,
    UnusablePair,
    combined_hash,
    fingerprint,
    glance,
    left_out,
)


@dataclass(frozen=True, slots=True)
class InLanguages:
    """Only the captions of some languages; a pair that has none is unusable."""

    dataset: PairDataset
    """The whole."""
    languages: tuple[str, ...]
    """BCP 47 tags; a caption without a tag counts as in the first."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        pair = self.dataset[index]
        said = in_language(Said(pair.captions, pair.languages), self.languages)
        if not said.captions:
            spoken = ", ".join(dict.fromkeys(pair.languages))
            raise UnusablePair(
                pair.key,
                f"no caption in {' or '.join(self.languages)}, only in {spoken}",
                content=pair.content,
            )
        return replace(pair, captions=said.captions, languages=said.languages)

    @property
    def left_out(self) -> Mapping[str, str]:
        return left_out(self.dataset)

    @property
    def fingerprint(self) -> str:
        return self.fingerprint_of(())

    def fingerprint_of(self, contents: Sequence[str]) -> str:
        return combined_hash(self.languages, [fingerprint(self.dataset, contents)])

    @property
    def glance(self) -> str:
        return combined_hash(self.languages, [glance(self.dataset)])


@dataclass(frozen=True, slots=True)
class Source:
    """One of the data sets that a mixture is made of."""

    name: str
    """Where it is, as the user named it."""
    dataset: PairDataset
    """Its pairs."""
    weight: float | None
    """Its share of what is drawn, among the weights of all; None for all of them: each pair of the
    mixture is drawn as often as any other."""


class MixedPairs:
    """Several data sets one after the other; how often each is drawn is the order's business."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._ends = list(accumulate(len(source.dataset) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self.source_of(index)
        source, first = self.sources[number], self._ends[number - 1] if number else 0
        try:
            pair = source.dataset[index - first]
        except UnusablePair as unusable:
            key = f"{source.name}: {unusable.key}"
            raise UnusablePair(key, unusable.reason, content=unusable.content) from unusable
        return replace(pair, key=f"{source.name}: {pair.key}")

    @property
    def weights(self) -> list[float] | None:
        """The shares of the sources, if they have any."""
        weights = [source.weight for source in self.sources if source.weight is not None]
        return weights or None

    def source_of(self, index: int) -> int:
        """Number of the data set that a pair is from."""
        return bisect_right(self._ends, index)

    @property
    def left_out(self) -> dict[str, str]:
        return {
            f"{source.name}: {name}": reason
            for source in self.sources
            for name, reason in left_out(source.dataset).items()
        }

    @cached_property
    def fingerprint(self) -> str:
        return self.fingerprint_of(())

    def fingerprint_of(self, contents: Sequence[str]) -> str:
        firsts = [0, *self._ends]
        hashes = [
            fingerprint(source.dataset, contents[first:end])
            for source, first, end in zip(self.sources, firsts, self._ends, strict=False)
        ]
        return combined_hash([], hashes)

    @property
    def glance(self) -> str:
        return combined_hash([], [glance(source.dataset) for source in self.sources])
