"""Pictures => latents, each in the shape that suits its aspect."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bridge_diffusion.data.buckets import Shape, fit_shape, nearest_shape
from bridge_diffusion.data.pairs import Pair, PairDataset, UnusablePair
from bridge_diffusion.data.pixels import to_pixels
from bridge_diffusion.data.store import Item

_log = logging.getLogger(__name__)


def encode_shaped(
    dataset: PairDataset,
    indices: Sequence[int],
    shapes: Sequence[Shape],
    net: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch channels h w"]],
) -> list[Item]:
    """Items of a store: the numbers of a picture's latents in one row, float16, with its texts.

    The note has the latents' shape, [channels, height, width]; the picture's size and crop, in
    pixels, [height, width] and [top, left], as SDXL is told them; and a hash of the picture. A pair
    that is unusable is an item without rows, whose note says why.
    """
    notes: list[dict[str, Any]] = []
    by_shape: dict[Shape, list[tuple[int, Tensor]]] = {}
    for index in indices:
        try:
            pair = dataset[index]
        except UnusablePair as unusable:
            _log.info("skipped: %s", unusable)
            notes.append({"key": unusable.key, "unreadable": unusable.reason})
            continue
        shape = nearest_shape(shapes, pair.image.size)
        fitted = fit_shape(pair.image, shape)
        by_shape.setdefault(shape, []).append((len(notes), to_pixels(fitted.image)))
        notes.append(_note(pair) | {"crop": list(fitted.crop)})
    rows = [torch.zeros(0, dtype=torch.float16)] * len(notes)
    for places in by_shape.values():
        latents = net(torch.stack([pixels for _, pixels in places])).half().cpu()
        for (place, _), one in zip(places, latents, strict=True):
            rows[place] = one.flatten()
            notes[place]["shape"] = list(one.shape)
    return [Item(row, note) for row, note in zip(rows, notes, strict=True)]


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
