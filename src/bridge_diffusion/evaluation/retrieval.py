"""Scores: how often the right concept is among the first, how sure that is, and backgrounds."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

_Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A share of pictures, with the 95 % interval of Wilson (1927)."""

    hits: int
    """Pictures that were right."""
    count: int
    """Pictures that were scored."""

    @property
    def share(self) -> float:
        """Part of the pictures that were right, 0..1; NaN if none was scored."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval, 0..1."""
        return wilson_interval(self.hits, self.count)

    def to_json(self) -> dict[str, float | int | list[float]]:
        low, high = self.interval
        return {
            "share": round(self.share, 4),
            "interval95": [round(low, 4), round(high, 4)],
            "hits": self.hits,
            "count": self.count,
        }


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); 0..1 if nothing was counted."""
    assert 0 <= hits <= count, f"{hits} hits of {count}"
    if not count:
        return 0.0, 1.0
    share, z = hits / count, _Z95
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At the ends the formula gives 0 and 1 but for rounding.
    low = (centre - spread) / scale if hits else 0.0
    high = (centre + spread) / scale if hits < count else 1.0
    return low, high


def ranks(
    scores: Float[Tensor, "pictures concepts"], right: Int[Tensor, "pictures"]
) -> Int[Tensor, "pictures"]:
    """How many concepts score at least as high as the right one, itself aside: 0 is found first.

    A tie counts against the picture, so that equal scores for all concepts are no success.
    """
    own = scores.gather(1, right[:, None])
    return (scores >= own).sum(dim=1) - 1


def top_k(rank: Int[Tensor, "pictures"], k: int) -> Rate:
    """How often the right concept is among the first k."""
    return Rate(hits=int((rank < k).sum()), count=len(rank))


def border_colour(picture: Image.Image, width: float = 0.03) -> tuple[float, float, float]:
    """Median colour of a frame along the edges, 0..255; `width` is a part of the side."""
    array = np.asarray(picture.convert("RGB"), dtype=np.float64)
    rows, columns = (max(1, round(side * width)) for side in array.shape[:2])
    inner = np.zeros(array.shape[:2], dtype=bool)
    inner[rows:-rows, columns:-columns] = True
    red, green, blue = np.median(array[~inner], axis=0).tolist()
    return red, green, blue


def nearest_colour(
    colour: tuple[float, float, float], palette: dict[str, tuple[int, int, int]]
) -> str:
    """The name of the palette's nearest colour, by distance in RGB."""
    return min(palette, key=lambda name: math.dist(colour, palette[name]))
