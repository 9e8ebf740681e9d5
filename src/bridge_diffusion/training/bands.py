"""The loss by timestep: a few bands tell what one mean over all timesteps hides.

The mean hardly moves in a long training, because most of it is the noise of timesteps that every
model predicts alike; what a branch learns shows in the bands of much noise.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

BANDS = 4
"""Bands of equal width, from little noise to much."""

# A band's mean over many batches is that of its images, of which a batch may have none: sums and
# counts are averaged apart.
_SUM, _COUNT = ":sum", ":count"


def band_name(band: int, steps: int) -> str:
    """What the curve of a band is called: "loss_by_timestep/250-499"."""
    edges = [steps * i // BANDS for i in range(BANDS + 1)]
    return f"loss_by_timestep/{edges[band]}-{edges[band + 1] - 1}"


def band_sums(
    errors: Float[Tensor, " batch"], t: Int[Tensor, " batch"], steps: int
) -> dict[str, Float[Tensor, ""]]:
    """Of each band the sum of the errors and their count, for `joined`; `t` is 0..steps-1."""
    band = torch.div(t * BANDS, steps, rounding_mode="floor")
    sums: dict[str, Tensor] = {}
    for i in range(BANDS):
        inside = band == i
        name = band_name(i, steps)
        sums[name + _SUM] = (errors.detach() * inside).sum()
        sums[name + _COUNT] = inside.sum().float()
    return sums


def joined(values: Mapping[str, float]) -> dict[str, float]:
    """Sums over counts; a band that no image fell into is left out, all else stays."""
    means = {name: value for name, value in values.items() if not name.endswith((_SUM, _COUNT))}
    for name, total in values.items():
        if name.endswith(_SUM) and (count := values[name.removesuffix(_SUM) + _COUNT]):
            means[name.removesuffix(_SUM)] = total / count
    return means
