"""Estimates made of several means, such as ratios of effects, and how sure they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

RESAMPLES = 2_000

_UNSTABLE = 0.025  # more resamples without a value than this, and there is no interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    """The estimate itself."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""

    def to_json(self) -> dict[str, Any]:
        """NaN, which JSON lacks, becomes null."""
        value, low, high = (
            None if math.isnan(x) else round(x, 4) for x in (self.value, self.low, self.high)
        )
        return {"value": value, "interval95": [low, high]}

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "none"
        if math.isnan(self.low):
            return f"{self.value:.2f} (unsure)"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def bootstrap(
    units: Float[np.ndarray, "units columns"],
    statistic: Callable[[Float[np.ndarray, "columns samples"]], Float[np.ndarray, "samples"]],
    *,
    seed: int = 0,
) -> Estimate:
    """A statistic of the columns' means, with its percentile interval (Efron 1979).

    Units are drawn with replacement, whole: what was measured on one unit (the same prompt and
    noise in several conditions) stays together. `statistic` may give NaN; where more than a
    fortieth of the resamples do, the interval is NaN too.
    """
    if not len(units):
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    random = np.random.default_rng(seed)
    chosen = random.integers(len(units), size=(RESAMPLES, len(units)))
    value = float(statistic(units.mean(axis=0)[:, None])[0])
    samples = statistic(units[chosen].mean(axis=1).T)
    low = high = math.nan
    if np.isnan(samples).mean() <= _UNSTABLE:
        low, high = (float(x) for x in np.nanpercentile(samples, (2.5, 97.5)))
    return Estimate(value=value, low=low, high=high)


def quotient(
    numerator: Float[np.ndarray, "samples"], denominator: Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "samples"]:
    """Element by element; NaN where the denominator is not above 0."""
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )
