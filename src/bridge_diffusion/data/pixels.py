"""Pictures <=> pixels of the size that a model is trained at."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from bridge_diffusion.data.pairs import UnreadablePicture
from bridge_diffusion.images.reading import UndecodablePicture, decode_rgb

# Pillow hands others, such as EPS, to programs of the system.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def read_picture(source: Path | BinaryIO, key: str) -> Image.Image:
    """Decode a file to RGB: turned as its EXIF says, transparency on white, 16 bits made 8.

    UnreadablePicture if the file cannot be decoded to the end.
    """
    try:
        return decode_rgb(source, formats=_FORMATS)
    except UndecodablePicture as error:
        raise UnreadablePicture(key, str(error)) from error


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` pixels and cut the middle square out."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image | UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 height width"]:
    """RGB, uint8 0..255 => float -1..1."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.permute(2, 0, 1).float() / 127.5 - 1


def pixel_batch(images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
    """RGB pictures of one size, uint8 0..255 => float -1..1."""
    return torch.stack([to_pixels(image) for image in images])


def to_pictures(pixels: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Float -1..1 => RGB pictures, uint8 0..255; what lies outside is clipped."""
    rounded = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in rounded]
