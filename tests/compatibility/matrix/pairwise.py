"""A small part of a product in which still every two values meet."""

from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import TypeVar

Case = TypeVar("Case", bound=tuple[Hashable, ...])
Pair = tuple[tuple[int, Hashable], tuple[int, Hashable]]


def pairs_of(case: tuple[Hashable, ...]) -> list[Pair]:
    """The two-value combinations of a case, each value with its place."""
    return list(combinations(enumerate(case), 2))


def pairwise(cases: Iterable[Case]) -> list[Case]:
    """Cases that contain every pair of values that any case contains.

    Greedy: for the first pair that is still missing, take the case that brings most missing ones;
    of several, the one whose values were taken least. The same cases always give the same choice.
    """
    missing: dict[Pair, list[Case]] = {}
    for case in cases:
        for pair in pairs_of(case):
            missing.setdefault(pair, []).append(case)
    chosen: list[Case] = []
    taken: Counter[tuple[int, Hashable]] = Counter()

    def worth(case: Case) -> tuple[int, int]:
        brings = sum(pair in missing for pair in pairs_of(case))
        return brings, -sum(taken[value] for value in enumerate(case))

    while missing:
        best = max(next(iter(missing.values())), key=worth)
        chosen.append(best)
        taken.update(enumerate(best))
        for pair in pairs_of(best):
            missing.pop(pair, None)
    return chosen
