"""Edges: where they are, how thick, and what a pixel's shift costs."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bridge_diffusion.worlds.emoji.edges import edge_f1, edge_map, edge_picture


@pytest.fixture
def square() -> Image.Image:
    picture = Image.new("RGB", (32, 32), (40, 90, 200))
    ImageDraw.Draw(picture).rectangle((8, 10, 23, 21), fill=(230, 40, 30))
    return picture


def test_edges_are_at_the_outline_alone_and_thin(square: Image.Image) -> None:
    edges = edge_map(square)
    ys, xs = np.nonzero(edges)
    assert {ys.min(), ys.max()} <= {9, 10, 21, 22}
    assert {xs.min(), xs.max()} <= {7, 8, 23, 24}
    assert not edges[12:20, 11:21].any()
    assert edges[15].sum() <= 4  # two lines, each at most two pixels wide
    assert edges[15].sum() >= 2


def test_an_edge_between_colours_of_one_luminance_is_found() -> None:
    picture = Image.new("RGB", (16, 16), (200, 0, 0))
    ImageDraw.Draw(picture).rectangle((8, 0, 15, 15), fill=(0, 102, 0))  # 0.299 R = 0.587 G
    assert edge_map(picture)[8, 6:10].any()


def test_a_flat_picture_and_faint_noise_have_no_edges() -> None:
    noise = np.random.default_rng(0).integers(100, 106, (32, 32, 3)).astype(np.uint8)
    assert not edge_map(Image.fromarray(noise)).any()


def test_f1_forgives_one_pixel_and_no_more(square: Image.Image) -> None:
    edges = edge_map(square)
    assert edge_f1(edges, edges) == 1
    assert edge_f1(np.roll(edges, 1, axis=1), edges) == 1
    assert 0.2 < edge_f1(np.roll(edges, 4, axis=1), edges) < 0.8
    assert edge_f1(np.roll(edges, 16, axis=(0, 1)), edges) < 0.2
    assert edge_f1(edges & False, edges) == 0


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    wanted = np.zeros((12, 12), dtype=bool)
    wanted[0] = wanted[8] = True
    found = np.zeros((12, 12), dtype=bool)
    found[0] = True
    assert edge_f1(found, wanted) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert edge_f1(wanted, found) == pytest.approx(2 / 3)


def test_the_control_picture_is_white_on_black(square: Image.Image) -> None:
    edges = edge_map(square)
    drawn = np.asarray(edge_picture(edges))
    assert drawn.shape == (32, 32, 3)
    assert set(np.unique(drawn[edges])) == {255}
    assert set(np.unique(drawn[~edges])) == {0}
