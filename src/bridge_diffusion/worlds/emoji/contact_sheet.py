"""One picture of a world: each concept as every vendor draws it, the held-out ones marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from unicodedata import combining, normalize

from PIL import Image, ImageDraw, ImageFont

from bridge_diffusion.worlds.emoji.concepts import Concept
from bridge_diffusion.worlds.emoji.sprites import Sprites

SIDE = 40
"""Side of one drawing, pixels."""

_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_MARKS = {"probe": (214, 39, 40), "held_out": (240, 150, 30)}
_MARGIN = 4
_LABEL_LINES, _LABEL_HEIGHT = 2, 13
_HEADING_HEIGHT = 26


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    heading: str
    concepts: tuple[Concept, ...]


def contact_sheet(
    vendors: Sequence[Sprites], concepts: Sequence[Concept], *, side: int = SIDE, width: int = 1280
) -> Image.Image:
    """A labelled sheet, RGB.

    The literal probes come first (red frames), then the other held-out concepts by region (orange
    frames), then the shared ones. A vendor that lacks a concept leaves its place empty.

    Args:
        vendors: the drawings of each vendor, beside each other in a cell.
        concepts: what to show.
        side: side of one drawing, pixels.
        width: width of the sheet, pixels.
    """
    cell_width = len(vendors) * side + 4 * _MARGIN
    cell_height = side + _LABEL_LINES * _LABEL_HEIGHT + 4 * _MARGIN
    columns = max(1, width // cell_width)
    sections = _sections(concepts)
    rows = sum(-(-len(section.concepts) // columns) for section in sections)
    height = _HEADING_HEIGHT * (len(sections) + 1) + rows * cell_height
    sheet = Image.new("RGB", (columns * cell_width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    names = " | ".join(sprites.vendor for sprites in vendors)
    _heading(draw, 0, f"Emoji world, {len(concepts)} concepts; in each cell: {names}")
    y = _HEADING_HEIGHT
    for section in sections:
        _heading(draw, y, section.heading)
        y += _HEADING_HEIGHT
        for index, concept in enumerate(section.concepts):
            row, column = divmod(index, columns)
            cell = _cell(vendors, concept, side, (cell_width, cell_height))
            sheet.paste(cell, (column * cell_width, y + row * cell_height))
        y += -(-len(section.concepts) // columns) * cell_height
    return sheet


def _sections(concepts: Sequence[Concept]) -> list[_Section]:
    groups: dict[tuple[int, str], list[Concept]] = {}
    for concept in concepts:
        if concept.literal_probe:
            place = (
                0,
                "held out, literal probes: the English world knows each word of the name only",
            )
        elif concept.region is not None:
            place = (1, f"Held out: {concept.region.replace('_', ' ').replace(':', ', ').title()}")
        else:
            place = (2, "Known to the English world")
        groups.setdefault(place, []).append(concept)
    return [
        _Section(heading=f"{place[1]} ({len(groups[place])})", concepts=tuple(groups[place]))
        for place in sorted(groups)
    ]


def _heading(draw: ImageDraw.ImageDraw, y: int, text: str) -> None:
    draw.text((_MARGIN, y + 6), text, fill=_INK, font=ImageFont.load_default(15))


def _cell(
    vendors: Sequence[Sprites], concept: Concept, side: int, size: tuple[int, int]
) -> Image.Image:
    cell = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(cell)
    if concept.held_out:
        mark = _MARKS["probe" if concept.literal_probe else "held_out"]
        draw.rectangle((1, 1, size[0] - 2, size[1] - 2), outline=mark, width=2)
    for index, sprites in enumerate(vendors):
        if concept.codepoints in sprites.pictures:
            picture = sprites.picture(concept.codepoints, side)
            cell.paste(picture, (2 * _MARGIN + index * side, 2 * _MARGIN), picture)
    font = ImageFont.load_default(10)
    letters = max(1, int(size[0] / 5.4))
    for line, text in enumerate(wrap(_plain(concept.names["en"]), letters)[:_LABEL_LINES]):
        y = side + 2 * _MARGIN + 2 + line * _LABEL_HEIGHT
        draw.text((size[0] / 2, y), text, fill=_INK, font=font, anchor="ma")
    return cell


def _plain(name: str) -> str:
    """The name without accents, which Pillow's own font lacks."""
    return "".join(c for c in normalize("NFKD", name) if not combining(c))
