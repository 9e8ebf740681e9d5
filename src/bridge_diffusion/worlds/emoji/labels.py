"""Labelled grids of pictures, with a font that has the Chinese characters of the world.

The font is a part of Noto Sans SC (OFL-1.1), cut to the characters of the world's Chinese names,
so that labels need no font on the machine.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _FRAME = (30, 30, 30), (250, 250, 248), (222, 222, 218)


@cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """The world's label font at `size` pixels."""
    return ImageFont.truetype(Path(__file__).parent / "fonts" / "NotoSansSC-subset.otf", size)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks a label into lines of at most `width` pixels: at spaces, or between characters."""
    words = text.split(" ") if " " in text else list(text)
    joint = " " if " " in text else ""
    lines = [words[0]]
    for word in words[1:]:
        longer = lines[-1] + joint + word
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def labelled_grid(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    side: int = 128,
    blocks: int = 1,
) -> Image.Image:
    """A table of pictures: a heading over each column, a label before each row.

    Args:
        columns: headings, as many as each row has pictures.
        rows: label and pictures; a line break in the label is kept.
        side: width and height of each picture on the sheet, pixels.
        blocks: stand the rows in this many blocks side by side.
    """
    text, small = label_font(15), label_font(13)
    gap, label_width, head = 8, 170, 46
    per_block = -(-len(rows) // blocks)
    block_width = label_width + len(columns) * (side + gap) + 2 * gap
    sheet = Image.new("RGB", (blocks * block_width, head + per_block * (side + gap) + gap), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for block in range(blocks):
        for column, heading in enumerate(columns):
            x = block * block_width + label_width + column * (side + gap)
            for line, part in enumerate(wrap(heading, small, side)[:2]):
                draw.text((x + side / 2, 6 + 17 * line), part, _INK, small, anchor="ma")
    for index, (label, images) in enumerate(rows):
        left, y = index // per_block * block_width, head + index % per_block * (side + gap)
        lines = [part for line in label.split("\n") for part in wrap(line, text, label_width - 14)]
        top = y + (side - 20 * len(lines)) / 2
        for line, part in enumerate(lines):
            draw.text((left + gap, top + 20 * line), part, _INK, text)
        for column, image in enumerate(images):
            x = left + label_width + column * (side + gap)
            sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=_FRAME)
    return sheet
