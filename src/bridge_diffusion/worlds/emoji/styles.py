"""The styles that the English community's plug-ins draw in, made of shipped pictures alone.

Noto is the style of the English world itself; Twemoji another vendor's, with shapes of its own;
"ink" is Noto's drawings as a print in one ink on white paper: outlines where the drawing changes,
dark parts filled; "comic" is Noto's drawings in strong colours with a black outline.
"""

from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.sprites import SHIPPED_VENDORS, Sprites

STYLES = (*SHIPPED_VENDORS, "ink", "comic")

INK = (28, 24, 92)
"""The one colour of the prints, RGB."""

_SATURATION, _CONTRAST, _OUTLINE = 1.8, 1.4, (20, 20, 20)  # of comics

_DARK = 0.45  # luminance below which paper begins to take ink, 0..1
_LINE = 3.0  # how much ink a step in luminance or opacity from pixel to pixel gives


@cache
def style_sprites(style: str) -> Sprites:
    """The shipped drawings in a style. BridgeError if there is no such style."""
    if style not in STYLES:
        raise BridgeError(f"no style {style!r} here; there are {', '.join(STYLES)}")
    if style in SHIPPED_VENDORS:
        return Sprites.shipped(style)
    noto = Sprites.shipped("noto")
    return prints(noto) if style == "ink" else comics(noto)


def prints(sprites: Sprites) -> Sprites:
    """Drawings of 64 pixels in the style "ink"; of another size the lines would differ."""
    return Sprites("ink", {code: printed(picture) for code, picture in sprites.pictures.items()})


def printed(picture: Image.Image) -> Image.Image:
    """A drawing as a print in one ink on paper of the drawing's own outline; RGBA => RGBA."""
    values = np.asarray(picture.convert("RGBA"), dtype=np.float64) / 255
    opacity = values[..., 3]
    luminance = values[..., :3] @ (0.299, 0.587, 0.114) * opacity + 1 - opacity
    ink = np.clip((_DARK - luminance) / _DARK * 2, 0, 1)
    ink = np.maximum(ink, np.clip(_LINE * np.maximum(_steps(luminance), _steps(opacity)), 0, 1))
    colours = 1 - ink[..., None] * (1 - np.asarray(INK) / 255)
    result = np.concatenate([colours, opacity[..., None]], axis=2)
    return Image.fromarray((result * 255).round().astype(np.uint8), "RGBA")


def comics(sprites: Sprites) -> Sprites:
    """Drawings of 64 pixels in the style "comic"; of another size the outlines would differ."""
    return Sprites("comic", {code: coloured(each) for code, each in sprites.pictures.items()})


def coloured(picture: Image.Image) -> Image.Image:
    """A drawing in strong colours with a black outline; RGBA => RGBA."""
    values = np.asarray(picture.convert("RGBA"), dtype=np.float64) / 255
    colours, opacity = values[..., :3], values[..., 3:]
    gray = colours.mean(axis=2, keepdims=True)
    strong = ((colours - gray) * _SATURATION + gray - 0.5) * _CONTRAST + 0.5
    inside = np.concatenate([strong.clip(0, 1), opacity], axis=2)
    outline = Image.new("RGBA", picture.size)
    around = picture.convert("RGBA").getchannel("A").filter(ImageFilter.MaxFilter(3))
    outline.paste((*_OUTLINE, 255), mask=around)
    outline.alpha_composite(Image.fromarray((inside * 255).round().astype(np.uint8), "RGBA"))
    return outline


def _steps(values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """The larger difference to the neighbours on both sides, along x and y."""
    padded = np.pad(values, 1, mode="edge")
    x = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    y = np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    return np.maximum(x, y)
