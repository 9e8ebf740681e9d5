"""A page of results made of sections, each replaced alone, and what stands in them."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.retrieval import Rate
from bridge_diffusion.images.writing import write_file

_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_GAP, _LABEL = 2, 13
_QUALITY = 50  # of lossy pictures: labels stay readable, and nothing is measured on them


def check_folder(folder: Path) -> None:
    """Before hours of drawing: can the report be written there?

    Raises:
        BridgeError: the folder, or the nearest one above it that is there, cannot be written.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise BridgeError(f"cannot write to {folder}: choose another place with --out")


def replace_section(page: str, name: str, section: str) -> str:
    """The page with the section between its two marks replaced, or added at the end.

    Raises:
        BridgeError: one of the marks is missing.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    marked = f"{begin}\n{section.strip()}\n{end}"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{marked}\n" if page.strip() else f"# Results\n\n{marked}\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise BridgeError(f"the page has only one of the marks {begin} and {end}; put both back")
    return pattern.sub(lambda _: marked, page, count=1)


def read_page(page: Path) -> str:
    """The page as it is; "" if there is none. BridgeError if it is not readable."""
    try:
        return page.read_text(encoding="utf-8") if page.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeError(f"{page} is not readable as UTF-8 text: {error}") from error


def write_results(
    folder: Path,
    name: str,
    language: str,
    values: Mapping[str, Any],
    section: str,
    sheet: Image.Image | None,
) -> list[Path]:
    """Write `NAME-LANGUAGE.json`, `pictures/NAME-LANGUAGE.webp` and the section of `results.md`.

    Args:
        name: what was measured, in words joined by "-": "two-languages".
        sheet: its picture; None leaves it out.

    Raises:
        BridgeError: the folder cannot be written, or the disk is full.
    """
    text = json.dumps(values, ensure_ascii=False, indent=1)
    page = folder / "results.md"
    replaced = replace_section(read_page(page), f"{name.replace('-', ' ')} {language}", section)
    written = [write_file(f"{text}\n".encode(), folder / f"{name}-{language}.json")]
    if sheet is not None:
        written.append(write_file(webp_bytes(sheet), folder / sheet_path(name, language)))
    return [*written, write_file(replaced.encode(), page)]


def sheet_path(name: str, language: str) -> str:
    """Where the picture of a measurement lies, relative to the page."""
    return f"pictures/{name}-{language}.webp"


def percent(rate: Rate) -> str:
    """A share with its 95 % interval in brackets."""
    low, high = rate.interval
    return f"{100 * rate.share:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def webp_bytes(picture: Image.Image) -> bytes:
    """The picture for a page, as a lossy WebP file: a quarter of a PNG's size."""
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=6)
    return stream.getvalue()


def labelled_rows(rows: Mapping[str, Sequence[Image.Image]], side: int) -> Image.Image:
    """Rows of small pictures, each under its label; ASCII alone, for Pillow's own font."""
    columns = max((len(pictures) for pictures in rows.values()), default=1)
    height = side + _LABEL + _GAP
    sheet = Image.new("RGB", (columns * (side + _GAP), max(1, len(rows) * height)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for row, (label, pictures) in enumerate(rows.items()):
        draw.text((0, row * height), label, fill=_INK, font=font)
        for column, picture in enumerate(pictures):
            resized = picture.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(resized, (column * (side + _GAP), row * height + _LABEL))
    return sheet
