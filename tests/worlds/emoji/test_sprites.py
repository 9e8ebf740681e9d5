from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.artwork import draw_emoji
from bridge_diffusion.worlds.emoji.concepts import shipped_concepts
from bridge_diffusion.worlds.emoji.sprites import SHIPPED_VENDORS, Sprites


def premultiplied(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGBa")).astype(int)


@pytest.mark.parametrize("vendor", SHIPPED_VENDORS)
def test_shipped_pictures_are_whole(vendor: str) -> None:
    sprites = Sprites.shipped(vendor)
    assert set(sprites.pictures) == {concept.codepoints for concept in shipped_concepts()}
    for picture in sprites.pictures.values():
        assert (picture.mode, picture.size) == ("RGBA", (64, 64))
        alpha = np.asarray(picture)[..., 3]
        assert alpha.max() == 255
        # Cropped to the opaque box, so it reaches both edges of its longer side.
        rows, columns = np.nonzero(alpha > 8)
        assert max(np.ptp(rows), np.ptp(columns)) >= 61


@pytest.mark.usefixtures("world_extra")
@pytest.mark.parametrize("vendor", SHIPPED_VENDORS)
def test_shipped_pictures_are_what_the_packages_draw(vendor: str) -> None:
    sprites = Sprites.shipped(vendor)
    for concept in shipped_concepts()[::6]:
        fresh = premultiplied(draw_emoji(vendor, concept.codepoints, 64))
        shipped = premultiplied(sprites.pictures[concept.codepoints])
        assert np.abs(fresh - shipped).max() <= 3, concept.emoji


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_save_and_load_change_nothing(
    tmp_path: Path, noto: Sprites, suffix: Literal[".png", ".webp"]
) -> None:
    few = Sprites("noto", dict(list(noto.pictures.items())[:3]))
    few.save(tmp_path, suffix)
    loaded = Sprites.load(tmp_path, "noto")
    assert loaded.pictures.keys() == few.pictures.keys()
    for code, picture in few.pictures.items():
        assert loaded.pictures[code].tobytes() == picture.tobytes()


def test_resizing_bleeds_no_colour_from_clear_pixels() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 1] = 255  # clear green
    pixels[16:48, 16:48] = (255, 0, 0, 255)
    sprites = Sprites("made", {"1": Image.fromarray(pixels)})
    resized = premultiplied(sprites.picture("1", 20))
    assert resized[..., 1].max() == 0
    assert resized[10, 10].tolist() == [255, 0, 0, 255]


def test_unshipped_vendor() -> None:
    with pytest.raises(BridgeError, match="no openmoji pictures are shipped, only noto and twemoj"):
        Sprites.shipped("openmoji")


def test_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"no noto pictures in .*bdm world data"):
        Sprites.load(tmp_path, "noto")


def test_damaged_picture(tmp_path: Path, noto: Sprites) -> None:
    Sprites("noto", {"1F9E7": noto.pictures["1F9E7"]}).save(tmp_path)
    path = tmp_path / "noto/1F9E7.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BridgeError, match=r"1F9E7.png is no readable picture"):
        Sprites.load(tmp_path, "noto")


def test_picture_that_is_not_there(noto: Sprites) -> None:
    with pytest.raises(BridgeError, match="no noto picture of 1F98A9 among these 278"):
        noto.picture("1F98A9", 20)
