"""Decode pictures of any kind to RGB."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class UndecodablePicture(ValueError):
    """Says why a file is no picture that can be decoded."""


class TooManyPixels(UndecodablePicture):
    """Says how many pixels a picture has, and how many are taken."""

    def __init__(self, size: tuple[int, int], most: int) -> None:
        super().__init__(f"of {size[0]}x{size[1]} pixels, and at most {most} in all are taken")
        self.most = most


def decode_rgb(
    file: Path | BinaryIO, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None
) -> Image.Image:
    """Decode to RGB: turned as its EXIF says, transparency on white, 16 bits made 8.

    Args:
        formats: Pillow's names of the formats that are tried; None for all.
        most_pixels: A picture that says it has more is not decoded.

    Raises:
        UndecodablePicture: It cannot be decoded to the end, or has too many pixels.
    """
    try:
        with Image.open(file, formats=formats) as opened:
            check_pixels(opened, most_pixels)
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
                image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except UndecodablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UndecodablePicture("of no known format, or damaged") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise UndecodablePicture(str(error) or type(error).__name__) from error


def check_pixels(image: Image.Image, most: int | None) -> None:
    """Raises `TooManyPixels` for more than `most` pixels; looks at the header alone."""
    if most is not None and image.width * image.height > most:
        raise TooManyPixels(image.size, most)


def decode_opacity(
    file: BinaryIO, *, formats: tuple[str, ...] | None = None, most_pixels: int | None = None
) -> Image.Image | None:
    """How opaque a picture is, as grey of 0..255; None where it has no transparency.

    Raises:
        UndecodablePicture: As `decode_rgb`.
    """
    try:
        with Image.open(file, formats=formats) as opened:
            check_pixels(opened, most_pixels)
            image = ImageOps.exif_transpose(opened)
            if not image.has_transparency_data:
                return None
            return image.convert("RGBA").getchannel("A")
    except UndecodablePicture:
        raise
    except Exception as error:  # as above
        raise UndecodablePicture(str(error) or type(error).__name__) from error
