import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.metadata import FORMATS, ImageMetadata, encode_image, read_metadata

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture() -> Image.Image:
    return Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


@pytest.mark.parametrize("suffix", FORMATS)
@in_one_folder
@given(infotext=ANY_TEXT, prompt=ANY_TEXT)
@example(infotext="Ā", prompt="x")  # looks like little-endian text
def test_what_is_written_is_read(tmp_path: Path, suffix: str, infotext: str, prompt: str) -> None:
    metadata = ImageMetadata(infotext=infotext, record={"request": {"prompt": prompt}})
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encode_image(picture(), suffix, metadata))
    assert read_metadata(path) == metadata


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode_image(picture(), ".png", ImageMetadata(infotext="x")))
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))


def test_the_web_ui_finds_the_infotext(tmp_path: Path) -> None:
    """It reads the chunk `parameters`, and UserComment as piexif does: a mark, then UTF-16."""
    path = tmp_path / "picture.png"
    path.write_bytes(encode_image(picture(), ".png", ImageMetadata(infotext="红包")))
    with Image.open(path) as image:
        assert image.info["parameters"] == "红包"
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode_image(picture(), ".jpg", ImageMetadata(infotext="红包")))
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + "红包".encode("utf-16-be")


def test_pictures_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    picture().save(path)
    assert read_metadata(path) == ImageMetadata()
    chunks = PngInfo()
    chunks.add_text("parameters", "a fox")
    chunks.add_text("bridge_diffusion", "[" * 100_000)
    picture().save(path, pnginfo=chunks)
    assert read_metadata(path) == ImageMetadata(infotext="a fox")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a fox".encode("utf-16-le")
    exif.get_ifd(0x8769)[0x927C] = b"Nikon\0\x02\x10"
    path = tmp_path / "picture.jpg"
    picture().save(path, exif=exif)
    assert read_metadata(path) == ImageMetadata(infotext="a fox")


@in_one_folder
@given(data=st.binary(max_size=200), cut=st.integers(min_value=1, max_value=200))
def test_damaged_files_are_a_clear_error_or_read(tmp_path: Path, data: bytes, cut: int) -> None:
    whole = encode_image(picture(), ".png", ImageMetadata(infotext="x" * 50, record={"a": 1}))
    path = tmp_path / "picture.png"
    for content in (data, whole[:-cut], whole[:cut] + data + whole[cut:]):
        path.write_bytes(content)
        with contextlib.suppress(BridgeError):  # anything else is a failure
            read_metadata(path)


def test_a_missing_file_and_another_format(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="no picture at"):
        read_metadata(tmp_path / "none.png")
    with pytest.raises(BridgeError, match=r"\.png"):
        encode_image(picture(), ".gif", ImageMetadata())
