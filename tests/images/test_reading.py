"""Decoding, within a number of pixels, of whatever comes."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bridge_diffusion.images.reading import UndecodablePicture, decode_opacity, decode_rgb


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def test_a_picture_with_too_many_pixels_is_not_decoded() -> None:
    data = encoded(Image.new("1", (5000, 5000)))
    assert len(data) < 10_000
    for decode in (decode_rgb, decode_opacity):
        with pytest.raises(UndecodablePicture, match="5000x5000"):
            decode(io.BytesIO(data), most_pixels=5000 * 5000 - 1)
    assert decode_rgb(io.BytesIO(data), most_pixels=5000 * 5000).size == (5000, 5000)


def test_other_formats_can_be_left_out() -> None:
    data = encoded(Image.new("RGB", (8, 8)), "BMP")
    assert decode_rgb(io.BytesIO(data)).size == (8, 8)
    with pytest.raises(UndecodablePicture, match="no known format"):
        decode_rgb(io.BytesIO(data), formats=("PNG", "JPEG"))


def test_opacity() -> None:
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 64))
    opacity = decode_opacity(io.BytesIO(encoded(image)))
    assert opacity is not None
    assert np.asarray(opacity).tolist() == [[255, 64, 255, 255], [255] * 4]
    assert decode_opacity(io.BytesIO(encoded(Image.new("RGB", (4, 2))))) is None


@given(
    file_format=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
def test_damaged_files_are_told(file_format: str, cut: int, changes: list) -> None:
    whole = encoded(Image.linear_gradient("L").resize((24, 24)).convert("RGB"), file_format)
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data[: max(1, len(data) - cut)])
    for decode in (decode_rgb, decode_opacity):
        with contextlib.suppress(UndecodablePicture):  # and nothing else
            decode(io.BytesIO(damaged), formats=("PNG", "JPEG", "WEBP"), most_pixels=10_000)
