"""Shapes of one area: little is cut off, and a picture goes to the nearest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bridge_diffusion.data.buckets import bucket_shapes, fit_shape, nearest_shape


def test_the_shapes_of_512_pixels() -> None:
    shapes = bucket_shapes(512, 64)
    assert (512, 512) in shapes
    assert {(384, 640), (640, 384), (448, 576), (576, 448)} <= set(shapes)
    assert set(shapes) == {(height, width) for width, height in shapes}


@given(st.integers(1, 12), st.sampled_from([8, 16, 64]))
def test_shapes_are_multiples_of_at_most_the_area(times: int, step: int) -> None:
    size = times * step
    shapes = bucket_shapes(size, step)
    assert (size, size) in shapes
    for width, height in shapes:
        assert width % step == height % step == 0
        assert width * height <= size * size
        assert max(width, height) <= 2 * min(width, height)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((100, 100), (512, 512)), ((1000, 600), (640, 384)), ((60, 100), (384, 640))],
)
def test_the_nearest_aspect_is_chosen(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert nearest_shape(bucket_shapes(512, 64), size) == shape


def test_the_crop_is_what_was_cut_off_after_scaling() -> None:
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    fitted = fit_shape(image, (40, 40))
    assert fitted.crop == (0, 40)
    assert fitted.image.size == (40, 40)
    assert fitted.image.getpixel((20, 20)) == (255, 255, 255)
    assert fit_shape(image, (60, 20)).crop == (0, 0)
