"""Shapes of training pictures: about one area, several aspects, so that little is cut off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

#: Width and height in pixels.
Shape = tuple[int, int]

_LONGEST = 2.0  # longer side by shorter side, of any shape


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture of a training shape."""

    image: Image.Image
    """RGB, of the shape."""
    crop: tuple[int, int]
    """Pixels cut off above and left of it, after scaling; SDXL is told these in training."""


def bucket_shapes(size: int, step: int) -> tuple[Shape, ...]:
    """The shapes of at most size * size pixels whose sides are multiples of `step`.

    Of each width the tallest; the longer side is at most twice the shorter one. The square is
    among them if `size` is a multiple of `step`. By width.
    """
    shapes = set()
    for width in range(step, int(size * math.sqrt(_LONGEST)) + 1, step):
        height = size * size // width // step * step
        if height and max(width, height) <= _LONGEST * min(width, height):
            shapes.add((width, height))
    # Of each height the widest alone, so that a shape and its transpose are there together.
    shapes |= {(height, width) for width, height in shapes}
    return tuple(sorted(shapes))


def nearest_shape(shapes: Sequence[Shape], size: tuple[int, int]) -> Shape:
    """The shape whose aspect is nearest to a picture's of `size`; of equal ones the largest."""
    aspect = math.log(size[0] / size[1])
    return min(
        shapes,
        key=lambda shape: (
            round(abs(math.log(shape[0] / shape[1]) - aspect), 9),
            -shape[0] * shape[1],
        ),
    )


def fit_shape(image: Image.Image, shape: Shape) -> Fitted:
    """Scale a picture to cover the shape and cut the middle out."""
    width, height = image.size
    scale = max(shape[0] / width, shape[1] / height)
    top, left = (
        max(0, round(side * scale) - wanted) // 2
        for side, wanted in ((height, shape[1]), (width, shape[0]))
    )
    if image.size == shape:
        return Fitted(image, (0, 0))
    return Fitted(ImageOps.fit(image, shape, Image.Resampling.LANCZOS), (top, left))
