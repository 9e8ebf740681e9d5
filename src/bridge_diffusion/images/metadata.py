"""The metadata inside a picture: an infotext for everyone, and an exact record for ourselves.

PNG holds them in the text chunks `parameters` (as AUTOMATIC1111's web UI does) and
`bridge_diffusion`; JPEG and WebP in the EXIF fields UserComment and MakerNote.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.reading import TooManyPixels, check_pixels

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = {"JPEG": 95, "WEBP": 95}
_INFOTEXT_CHUNK = "parameters"
_RECORD_CHUNK = "bridge_diffusion"
# EXIF 2.32, table 9: the first 8 bytes of UserComment name the code of the rest.
_UNICODE = b"UNICODE\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMetadata:
    """What a picture says about how it was made."""

    infotext: str | None = None
    """AUTOMATIC1111's infotext; None where the picture has none."""
    record: Mapping[str, Any] | None = None
    """Our own exact record, as JSON; None where the picture has none."""


def encode_image(image: Image.Image, suffix: str, metadata: ImageMetadata) -> bytes:
    """A picture and its metadata as the bytes of a file.

    Args:
        suffix: ".png", ".jpg", ".jpeg" or ".webp". Only PNG keeps every pixel as it is.

    Raises:
        BridgeError: The suffix is another.
    """
    file_format = FORMATS.get(suffix.lower())
    if file_format is None:
        raise BridgeError(f"cannot write {suffix!r} pictures; allowed: {', '.join(FORMATS)}")
    buffer = io.BytesIO()
    record = json.dumps(metadata.record) if metadata.record is not None else None
    if file_format == "PNG":
        chunks = PngInfo()
        if metadata.infotext is not None:
            chunks.add_text(_INFOTEXT_CHUNK, metadata.infotext)
        if record is not None:
            chunks.add_text(_RECORD_CHUNK, record)
        image.save(buffer, "PNG", pnginfo=chunks)
    else:
        exif = Image.Exif()
        fields = exif.get_ifd(ExifTags.IFD.Exif)
        if metadata.infotext is not None:
            fields[ExifTags.Base.UserComment] = _UNICODE + metadata.infotext.encode("utf-16-be")
        if record is not None:
            fields[ExifTags.Base.MakerNote] = record.encode("ascii")
        image.save(buffer, file_format, exif=exif, quality=_QUALITY[file_format])
    return buffer.getvalue()


def read_metadata(
    path: Path | BinaryIO, *, most_pixels: int | None = None, name: str = ""
) -> ImageMetadata:
    """The metadata of a picture, ours or another program's.

    Args:
        most_pixels: A picture that says it has more is not decoded.
        name: What a message calls the picture; its path where none is given.

    Raises:
        BridgeError: The file is missing or is no picture.
    """
    name = name or str(path)
    try:
        with Image.open(path, formats=tuple(set(FORMATS.values()))) as image:
            check_pixels(image, most_pixels)
            if image.format == "PNG":
                image.load()  # text chunks may follow the pixels
                text = getattr(image, "text", {})
                infotext, record = text.get(_INFOTEXT_CHUNK), _record(text.get(_RECORD_CHUNK))
            else:
                fields = image.getexif().get_ifd(ExifTags.IFD.Exif)
                record = _record(fields.get(ExifTags.Base.MakerNote))
                infotext = _comment(fields.get(ExifTags.Base.UserComment), ours=record is not None)
    except FileNotFoundError:
        raise BridgeError(f"no picture at {name}; check the path") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        line = f"{name} cannot be read as a picture ({reason}); give a PNG, JPEG or WebP"
        if isinstance(error, TooManyPixels):
            raise BridgeError(line, "too_many_pixels", most=error.most) from error
        raise BridgeError(line, "unreadable_picture") from error
    return ImageMetadata(infotext=infotext, record=record)


def _comment(value: object, *, ours: bool) -> str | None:
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else None
    if value.startswith(_UNICODE):
        # Ours, and piexif's, is big-endian; of other programs the zero bytes tell.
        body = value[len(_UNICODE) :]
        little = not ours and body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", errors="replace")
    return value.removeprefix(b"ASCII\0\0\0").decode("utf-8", errors="replace")


def _record(value: object) -> dict[str, Any] | None:
    """Our record, or None: a camera's MakerNote and another program's chunk are not ours."""
    if not isinstance(value, str | bytes):
        return None
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
