"""Pictures side by side."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_LABEL_HEIGHT = 14  # pixels


def numbered_grid(pictures: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """At least one picture, all of one size, in rows, each with its number from 1 above it.

    Numbers, because the font that ships with Pillow has no letters beyond the Latin ones: the
    prompts in their order stand in the run's config.json, as "sample_prompts".
    """
    columns = min(columns, len(pictures))
    width, height = pictures[0].width, pictures[0].height + _LABEL_HEIGHT
    rows = math.ceil(len(pictures) / columns)
    grid = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(_LABEL_HEIGHT - 4)
    for i, picture in enumerate(pictures):
        x, y = i % columns * width, i // columns * height
        draw.text((x + 2, y), str(i + 1), "black", font)
        grid.paste(picture, (x, y + _LABEL_HEIGHT))
    return grid
