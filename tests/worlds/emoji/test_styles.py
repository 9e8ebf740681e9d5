"""Styles made of the shipped pictures."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.styles import INK, STYLES, coloured, printed, style_sprites


def test_a_print_has_one_ink_on_paper_in_the_drawing_s_own_shape() -> None:
    for code in ("1F43C", "1F34E", "1F697"):
        drawing, ink = (style_sprites(style).pictures[code] for style in ("noto", "ink"))
        before, after = np.asarray(drawing), np.asarray(ink)
        assert (before[..., 3] == after[..., 3]).all()
        # Every colour lies on the line from paper to ink.
        part = (255 - after[..., :3]) / (255 - np.asarray(INK))
        assert np.ptp(part, axis=2).max() < 0.03


def test_outlines_and_dark_parts_take_ink() -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((4, 4, 27, 27), fill=(255, 240, 120, 255))
    draw.rectangle((12, 12, 19, 19), fill=(0, 0, 0, 255))
    print_ = np.asarray(printed(picture)).astype(int)
    assert abs(print_[16, 16, :3] - INK).max() <= 1  # dark
    assert print_[8, 8, :3].min() > 240  # light, away from edges
    assert abs(print_[4, 16, :3] - INK).max() <= 1  # outline


def test_comics_have_strong_colours_and_a_black_outline() -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rectangle((4, 4, 27, 27), fill=(200, 100, 100, 255))
    comic = np.asarray(coloured(picture)).astype(int)
    assert tuple(comic[3, 16]) == tuple(comic[16, 28]) == (20, 20, 20, 255)
    assert comic[2, 16, 3] == 0
    red, green, _, opacity = comic[16, 16]
    assert red > 230
    assert green < 80
    assert opacity == 255


def test_all_styles_draw_the_same_concepts() -> None:
    codes = [set(style_sprites(style).pictures) for style in STYLES]
    assert all(each == codes[0] for each in codes)
    assert len(codes[0]) == 278
    assert [style_sprites(style).vendor for style in STYLES] == list(STYLES)
    with pytest.raises(BridgeError, match="noto, twemoji, ink"):
        style_sprites("oil")
