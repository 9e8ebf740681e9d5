"""What is kept of a data set, and why the rest is not. Imports no torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from bridge_diffusion.data.near_duplicates import NearDuplicates
from bridge_diffusion.errors import BridgeError

UNUSABLE, SMALL, ASPECT = "unusable", "too small", "too long or too wide"
LENGTH, LANGUAGE, SCORE, DUPLICATE = (
    "caption length",
    "caption in another language",
    "caption scored low",
    "near-duplicate",
)
REASONS = (UNUSABLE, SMALL, ASPECT, LENGTH, LANGUAGE, SCORE, DUPLICATE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which pairs are kept; as they stand here, all of them."""

    min_side: int = 0
    """Drop pictures whose shorter side has fewer pixels."""
    max_aspect: float | None = None
    """Drop pictures whose longer side is more than this many times the shorter one."""
    min_caption: int = 0
    """Drop captions of fewer characters."""
    max_caption: int | None = None
    """Drop captions of more characters."""
    spoken: str = ""
    """Drop captions that do not read like one of these languages, joined by "+", as in zh+ja."""
    spoken_probability: float = 0.2
    """Least probability that a caption is in one of the languages of --spoken."""
    near_duplicates: int | None = None
    """Drop a picture whose perceptual hash differs from an earlier one's in at most so many of its
    64 bits; 4 is a usual number."""
    scorer: Path | None = None
    """Folder of a CLIP or Chinese-CLIP model that scores how well a caption fits its picture."""
    min_score: float | None = None
    """Drop captions whose cosine similarity with their picture is lower, as --scorer sees it."""

    def __post_init__(self) -> None:
        for name in ("min_side", "min_caption", "max_caption", "near_duplicates"):
            if (count := getattr(self, name)) is not None and count < 0:
                raise BridgeError(f"--{name.replace('_', '-')} is {count}, it must be 0 or more")
        if self.near_duplicates is not None and self.near_duplicates > 16:
            raise BridgeError(
                f"--near-duplicates is {self.near_duplicates} of 64 bits; above 16, pictures that "
                "have nothing in common count as alike"
            )
        if self.max_aspect is not None and not 1 <= self.max_aspect < math.inf:
            raise BridgeError(f"--max-aspect is {self.max_aspect}, it must be 1 or more")
        if not 0 < self.spoken_probability <= 1:
            raise BridgeError(
                f"--spoken-probability is {self.spoken_probability}, it must be above 0, at most 1"
            )
        if self.min_score is not None and (self.scorer is None or not -1 <= self.min_score <= 1):
            raise BridgeError("--min-score is from -1 to 1, and needs a --scorer")

    @classmethod
    def of(cls, request: "Filters") -> Self:
        """The filters alone of a request that has them among its options."""
        return cls(**{field.name: getattr(request, field.name) for field in fields(Filters)})

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(filter(None, self.spoken.split("+")))

    @property
    def need_pictures(self) -> bool:
        """Whether anything has to be known of a pair before it is encoded."""
        return Filters.of(self) != Filters()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """What the filters look at of one pair. Plain JSON values."""

    index: int
    """Its position."""
    key: str
    """Its name."""
    unusable: str = ""
    """Why it cannot be used; nothing else is known then."""
    width: int = 0
    """Of the picture, pixels."""
    height: int = 0
    """Of the picture, pixels."""
    captions: tuple[str, ...] = ()
    """All of them."""
    tags: tuple[str, ...] = ()
    """Language tag of each caption, if the data has any."""
    spoken: tuple[float, ...] = ()
    """Probability that a caption is in one of the wanted languages, where that is asked."""
    scores: tuple[float, ...] = ()
    """Cosine similarity of each caption with the picture, where that is asked."""
    picture_hash: int | None = None
    """Perceptual hash, 64 bits, where that is asked."""
    content: str = ""
    """SHA-256 of the picture's file, as that of a `Pair`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What becomes of a pair."""

    measures: Measures
    """What it is judged by."""
    kept: tuple[int, ...] = ()
    """The captions that are kept, by position; none if the pair is dropped."""
    reason: str = ""
    """One of `REASONS` if it is dropped."""
    detail: str = ""
    """The number, or the name, that decided it."""


def judge(found: Sequence[Measures], filters: Filters) -> Iterator[Verdict]:
    """A verdict on each pair, in their order: of near-duplicates the first that is kept stays.

    A caption that fails is dropped alone; a pair is dropped with its last caption, for the reason
    that this caption failed for.
    """
    earlier: NearDuplicates | None = None
    if filters.near_duplicates is not None:
        earlier = NearDuplicates(filters.near_duplicates)
    for measures in found:
        verdict = judge_alone(measures, filters)
        if verdict.kept and earlier is not None:
            assert measures.picture_hash is not None
            like = earlier.add(measures.picture_hash, measures.key)
            if like is not None:
                detail = f"like {like}"
                verdict = Verdict(measures=measures, reason=DUPLICATE, detail=detail)
        yield verdict


def judge_alone(one: Measures, filters: Filters) -> Verdict:
    """A verdict on a pair before others are looked at: it may yet be a near-duplicate."""

    def dropped(reason: str, detail: Any) -> Verdict:
        return Verdict(measures=one, reason=reason, detail=str(detail))

    if one.unusable:
        return dropped(UNUSABLE, one.unusable)
    short, long = sorted((one.width, one.height))
    if short < filters.min_side:
        return dropped(SMALL, f"{one.width}x{one.height}")
    if filters.max_aspect is not None and long > filters.max_aspect * short:
        return dropped(ASPECT, f"{one.width}x{one.height}")
    kept, reason, detail = [], "", ""
    for number, caption in enumerate(one.captions):
        failed = _failed(one, number, caption, filters)
        if failed is None:
            kept.append(number)
        else:
            reason, detail = failed
    if not kept:
        return dropped(reason, detail)
    return Verdict(measures=one, kept=tuple(kept))


def _failed(one: Measures, number: int, caption: str, filters: Filters) -> tuple[str, str] | None:
    """Why a caption is dropped; None if it is kept."""
    longest = math.inf if filters.max_caption is None else filters.max_caption
    if not filters.min_caption <= len(caption) <= longest:
        return LENGTH, f"{len(caption)} characters"
    if filters.languages and one.spoken[number] < filters.spoken_probability:
        return LANGUAGE, f"{one.spoken[number]:.0%} {' or '.join(filters.languages)}"
    if filters.min_score is not None and one.scores[number] < filters.min_score:
        return SCORE, f"{one.scores[number]:.3f}"
    return None
