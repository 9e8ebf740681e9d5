"""A folder of pictures with text files: what is read, what is left out, what is damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bridge_diffusion.data import PairFolder, UnreadablePicture
from bridge_diffusion.data.pairs import fingerprint
from bridge_diffusion.data.pixels import fit_square, read_picture, to_pixels
from bridge_diffusion.errors import BridgeError


def put(folder: Path, name: str, caption: str | None, colour: str = "red") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return file


def test_pairs_come_by_path_with_a_caption_a_line(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "红包\n\n 一个红包 \n")
    put(tmp_path, "a/c.jpg", "\ufeff月饼")
    data = PairFolder(tmp_path)
    assert [(pair.key, pair.captions) for pair in (data[0], data[1])] == [
        ("a/c.jpg", ("月饼",)),
        ("b.png", ("红包", "一个红包")),
    ]
    assert (data[1].image.mode, data[1].image.size) == ("RGB", (40, 30))


def test_english_beside_a_caption_is_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "红包")
    put(tmp_path, "b.png", "月饼")
    before = PairFolder(tmp_path).fingerprint
    (tmp_path / "b.en.txt").write_text("on a beach\n", encoding="utf-8")
    data = PairFolder(tmp_path)
    assert [data[0].english, data[1].english] == ["", "on a beach"]
    assert data[1].captions == ("月饼",)
    assert data.fingerprint != before
    (tmp_path / "b.en.txt").write_text("on a beach\nwatercolor", encoding="utf-8")
    with pytest.raises(BridgeError, match=r"b\.en\.txt has 2 lines; write the English text on one"):
        PairFolder(tmp_path)


def test_pictures_without_a_caption_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "红包")
    put(tmp_path, "b.png", None)
    put(tmp_path, "c.png", " \n")
    (tmp_path / "d.txt").write_text("no picture")
    data = PairFolder(tmp_path)
    assert len(data) == 1
    assert data.without_caption == ("b.png", "c.png")


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"\0" * 40, lambda b: b""])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif"])
def test_a_damaged_picture_is_named(tmp_path: Path, name: str, spoil) -> None:
    file = put(tmp_path, name, "红包")
    noise = Image.effect_noise((64, 64), 90)
    noise.save(file)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(UnreadablePicture, match=rf"^{name} is no readable picture \(.+\)$"):
        PairFolder(tmp_path)[0]


def test_clear_pixels_become_white_and_exif_turns(tmp_path: Path) -> None:
    file = put(tmp_path, "a.png", "红包")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(file)
    assert PairFolder(tmp_path)[0].image.getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(file, exif=exif)
    assert PairFolder(tmp_path)[0].image.size == (4, 8)


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(shades).save(tmp_path / f"grey.{suffix}")
        picture = read_picture(tmp_path / f"grey.{suffix}", "grey")
        assert [picture.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_the_fingerprint_changes_with_any_content(tmp_path: Path) -> None:
    file = put(tmp_path, "a.png", "红包")
    first = fingerprint(PairFolder(tmp_path))
    assert fingerprint(PairFolder(tmp_path)) == first
    file.with_suffix(".txt").write_text("月饼", encoding="utf-8")
    second = fingerprint(PairFolder(tmp_path))
    put(tmp_path, "a.png", "月饼", "blue")
    third = fingerprint(PairFolder(tmp_path))
    put(tmp_path, "b.png", "月饼", "blue")
    fourth = fingerprint(PairFolder(tmp_path))
    assert len({first, second, third, fourth}) == 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [("missing", "is no folder"), ("empty", "holds no picture with a caption"), ("bad", "UTF-8")],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, spec: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "bad/a.png", "x").with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BridgeError, match=words):
        PairFolder(tmp_path / spec)


def test_pixels_are_the_middle_square_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    pixels = to_pixels(fit_square(image, 20))
    assert torch.equal(pixels, torch.ones(3, 20, 20))
    assert to_pixels(Image.new("RGB", (1, 1))).min() == -1


def test_only_the_formats_of_pictures_are_tried(tmp_path: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    put(tmp_path, "a.png", "红").write_bytes(postscript)
    with pytest.raises(UnreadablePicture, match="of no known format, or damaged"):
        PairFolder(tmp_path)[0]
