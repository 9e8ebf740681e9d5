"""What is made of finished and of uploaded pictures: thumbnails, and what their files say."""

import io
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from bridge_diffusion.images.infotext import parse_infotext
from bridge_diffusion.images.metadata import encode_image, read_metadata
from bridge_diffusion.server.orders import Order
from bridge_diffusion.server.views import InfoView

_THUMBNAIL = 256  # pixels a side
_QUALITY = 85


def thumbnail(file: Path) -> bytes:
    """A picture of ours, made small, as the bytes of a WebP."""
    buffer = io.BytesIO()
    with Image.open(file) as image:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        image.convert("RGB").save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()


def in_format(file: Path, suffix: str) -> bytes:
    """A picture of ours as the bytes of a file of another format, with its metadata."""
    data = file.read_bytes()
    if suffix == ".png":
        return data
    with Image.open(io.BytesIO(data)) as image:
        return encode_image(image.convert("RGB"), suffix, read_metadata(io.BytesIO(data)))


def picture_info(data: bytes, most_pixels: int) -> InfoView:
    """What a client's picture says. Raises `BridgeError` for what is no picture, or too large."""
    metadata = read_metadata(io.BytesIO(data), most_pixels=most_pixels, name="the picture")
    parsed = None if metadata.infotext is None else parse_infotext(metadata.infotext)
    return InfoView(
        infotext=metadata.infotext,
        prompt=None if parsed is None else parsed.prompt,
        negative_prompt=None if parsed is None else parsed.negative_prompt,
        parameters={} if parsed is None else dict(parsed.parameters),
        order=recorded_order(metadata.record),
    )


def recorded_order(record: object) -> Order | None:
    """The order that a record of ours holds; None where there is none that can be read.

    A picture of `bdm generate` names paths: models and pictures among them are left out.
    """
    request = record.get("request") if isinstance(record, dict) else None
    if not isinstance(request, dict):
        return None
    fields = {name: request[name] for name in Order.model_fields if name in request}
    for _ in range(2):
        try:
            return Order.model_validate(fields)
        except ValidationError as error:
            for problem in error.errors():
                fields.pop(str(problem["loc"][0]), None)
    return None
