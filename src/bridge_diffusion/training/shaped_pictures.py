"""Pictures => latents, each in the shape that suits its aspect."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bridge_diffusion.data.buckets import Shape, fit_shape, nearest_shape
from bridge_diffusion.data.pairs import Pair, PairDataset, UnusablePair
from bridge_diffusion.data.pixels import to_pixels
from bridge_diffusion.data.store import Item

_log = logging.getLogger(__name__)

Net: TypeAlias = Callable[
    [Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch channels h w"]
]


@dataclass(frozen=True, slots=True)
class Shaped:
    """A picture of a training shape, with what is kept of its pair."""

    picture: UInt8[np.ndarray, "height width 3"]
    """RGB, 0..255."""
    note: dict[str, Any]
    """As `encode_shaped` gives it, but for the latents' shape."""


def shape_pair(pair: Pair, shapes: Sequence[Shape]) -> Shaped:
    """Scale and cut a pair's picture to the shape that suits its aspect."""
    fitted = fit_shape(pair.image, nearest_shape(shapes, pair.image.size))
    note = _note(pair) | {"crop": list(fitted.crop)}
    return Shaped(np.asarray(fitted.image, dtype=np.uint8), note)


def encode_pictures_of_shapes(pictures: Sequence[Shaped], net: Net) -> list[Item]:
    """Items of a store, as `encode_shaped`; pictures of one shape go through the net together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(pictures):
        by_shape.setdefault(one.picture.shape, []).append(place)
    items: list[Item | None] = [None] * len(pictures)
    for places in by_shape.values():
        pixels = torch.stack([to_pixels(pictures[place].picture) for place in places])
        for place, one in zip(places, net(pixels).half().cpu(), strict=True):
            note = pictures[place].note | {"shape": list(one.shape)}
            items[place] = Item(one.flatten(), note)
    return [item for item in items if item is not None]


def encode_shaped(
    dataset: PairDataset,
    indices: Sequence[int],
    shapes: Sequence[Shape],
    net: Net,
) -> list[Item]:
    """Items of a store: the numbers of a picture's latents in one row, float16, with its texts.

    The note has the latents' shape, [channels, height, width]; the picture's size and crop, in
    pixels, [height, width] and [top, left], as SDXL is told them; and a hash of the picture. A pair
    that is unusable is an item without rows, whose note says why.
    """
    items: list[Item | None] = []
    pictures: list[Shaped] = []
    for index in indices:
        try:
            pictures.append(shape_pair(dataset[index], shapes))
            items.append(None)
        except UnusablePair as unusable:
            _log.info("skipped: %s", unusable)
            note = {"key": unusable.key, "unreadable": unusable.reason}
            items.append(Item(torch.zeros(0, dtype=torch.float16), note))
    encoded = iter(encode_pictures_of_shapes(pictures, net))
    return [next(encoded) if item is None else item for item in items]


def _note(pair: Pair) -> dict[str, Any]:
    digest = hashlib.sha256(repr(pair.image.size).encode())
    digest.update(pair.image.tobytes())
    note = {
        "key": pair.key,
        "captions": list(pair.captions),
        "english": pair.english,
        "size": [pair.image.height, pair.image.width],
        "sha256": digest.hexdigest(),
    }
    return {name: value for name, value in note.items() if value != ""}
