import sys

import numpy as np
import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji import artwork
from bridge_diffusion.worlds.emoji.artwork import NoPicture, crop_to_square, draw_emoji, draw_svg


def test_crop_to_square_centres_the_opaque_box() -> None:
    pixels = np.zeros((100, 100, 4), np.uint8)
    pixels[10:30, 50:90] = (10, 200, 30, 255)  # 40 wide, 20 high, off centre
    square = np.asarray(crop_to_square(Image.fromarray(pixels), 40))
    assert square.shape == (40, 40, 4)
    assert (square[10:30] == (10, 200, 30, 255)).all()
    assert square[:10, :, 3].max() == square[30:, :, 3].max() == 0


def test_empty_drawing_is_an_error() -> None:
    with pytest.raises(BridgeError, match="drawing is empty"):
        crop_to_square(Image.new("RGBA", (8, 8)), 8)


def test_unknown_vendor() -> None:
    with pytest.raises(BridgeError, match="unknown vendor 'apple'; there are noto, noto_mono, twe"):
        draw_emoji("apple", "1F9E7", 16)


@pytest.mark.usefixtures("world_extra")
@pytest.mark.parametrize("vendor", ["noto", "twemoji"])
def test_what_a_vendor_lacks(vendor: str) -> None:
    with pytest.raises(NoPicture):
        draw_emoji(vendor, "E000", 16)


@pytest.mark.usefixtures("world_extra")
def test_vendors_draw_differently() -> None:
    noto, twemoji = (
        np.asarray(draw_emoji(vendor, "1F9E7", 32)).astype(int) for vendor in ("noto", "twemoji")
    )
    assert noto.shape == twemoji.shape == (32, 32, 4)
    assert np.abs(noto - twemoji).mean() > 5
    for picture in (noto, twemoji):
        red, green, blue, alpha = picture.mean(axis=(0, 1))
        assert red > 1.5 * max(green, blue)
        assert 100 < alpha < 255


@pytest.mark.usefixtures("world_extra")
def test_damaged_svg() -> None:
    with pytest.raises(BridgeError, match="damaged"):
        draw_svg(16, text="<svg")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artwork, "find_spec", lambda name: None)
    with pytest.raises(BridgeError, match=r'run: pip install "bridge-diffusion\[world\]"'):
        draw_emoji("twemoji", "1F9E7", 16)
    artwork._noto_mono.cache_clear()
    with pytest.raises(BridgeError, match="run: pip install manimgx-fonts=="):
        draw_emoji("noto_mono", "1F9E7", 16)


def test_missing_renderer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(BridgeError, match=r'resvg_py .* run: pip install "bridge-diff'):
        draw_svg(16, text="<svg/>")
