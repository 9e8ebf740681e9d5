"""Edges of pictures, for the ControlNet and for scoring what it draws: numpy alone.

Canny's first three steps (Canny 1986): smooth, differentiate, keep what is largest across the
edge. Of the three colour channels the steepest counts, so that an edge between two colours of one
luminance is found too; one threshold takes the place of his two.
"""

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

THRESHOLD = 0.1
"""Least step in a channel from one pixel to the next, smoothed, that is an edge; 0..1."""


def edge_map(picture: Image.Image) -> Bool[np.ndarray, "height width"]:
    """True where the picture has an edge; lines are a pixel or two wide."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    smooth = _around(values, 0, (0.25, 0.5, 0.25))
    smooth = _around(smooth, 1, (0.25, 0.5, 0.25))
    y, x = (_around(smooth, axis, (-0.5, 0.0, 0.5)) for axis in (0, 1))
    steepness = np.hypot(x, y)
    steepest = steepness.argmax(axis=2)[..., None]
    x, y, size = (np.take_along_axis(a, steepest, 2)[..., 0] for a in (x, y, steepness))
    return (size > THRESHOLD) & _largest_across(size, x, y)


def _around(
    values: Float[np.ndarray, "height width channels"], axis: int, weights: tuple[float, ...]
) -> Float[np.ndarray, "height width channels"]:
    """Three neighbours along an axis, weighted; the picture goes on as at its border."""
    widths = [(1, 1) if each == axis else (0, 0) for each in range(values.ndim)]
    padded, count = np.pad(values, widths, mode="edge"), values.shape[axis]
    parts = (np.take(padded, range(i, i + count), axis) * w for i, w in enumerate(weights))
    return np.asarray(sum(parts))


def _largest_across(
    size: Float[np.ndarray, "height width"],
    x: Float[np.ndarray, "height width"],
    y: Float[np.ndarray, "height width"],
) -> Bool[np.ndarray, "height width"]:
    """True where neither neighbour in the direction of the gradient is larger."""
    height, width = size.shape
    padded = np.pad(size, 1)
    sector = np.round(np.arctan2(y, x) / (np.pi / 4)).astype(int) % 4
    largest = np.zeros(size.shape, dtype=bool)
    for index, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        behind = padded[1 - down : 1 - down + height, 1 - right : 1 - right + width]
        largest |= (sector == index) & (size >= ahead) & (size >= behind)
    return largest


def edge_picture(edges: Bool[np.ndarray, "height width"]) -> Image.Image:
    """White lines on black, RGB: what the ControlNet is given."""
    return Image.fromarray((edges * 255).astype(np.uint8)).convert("RGB")


def edge_f1(
    found: Bool[np.ndarray, "height width"], wanted: Bool[np.ndarray, "height width"]
) -> float:
    """Harmonic mean of precision and recall of edges, each right within a pixel; 0..1.

    Precision: the part of the found edges that has a wanted one on it or beside it (in the eight
    neighbours); recall: the same the other way round. 0 where either has no edges.
    """
    if not (found.any() and wanted.any()):
        return 0.0
    precision = float(_grown(wanted)[found].mean())
    recall = float(_grown(found)[wanted].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _grown(edges: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    padded = np.pad(edges, 1)
    height, width = edges.shape
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.asarray(np.logical_or.reduce(shifted))
