"""Scores against values worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bridge_diffusion.evaluation.retrieval import (
    Rate,
    border_colour,
    nearest_colour,
    ranks,
    top_k,
    wilson_interval,
)


def test_ranks_count_the_better_ones():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert ranks(scores, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]


def test_a_tie_is_no_success():
    assert ranks(torch.zeros(1, 5), torch.tensor([0])).tolist() == [4]


def test_top_k():
    rank = torch.tensor([0, 0, 1, 4, 5])
    assert (top_k(rank, 1).hits, top_k(rank, 5).hits, top_k(rank, 5).count) == (2, 4, 5)
    assert top_k(rank, 1).share == 0.4


def test_wilson_interval_of_the_textbook():
    # 15 of 50: Newcombe (1998), method 3, table I gives such intervals; worked out by hand.
    low, high = wilson_interval(15, 50)
    assert (round(low, 4), round(high, 4)) == (0.1910, 0.4375)


def test_wilson_interval_at_the_ends():
    low, high = wilson_interval(0, 10)
    assert (low, round(high, 4)) == (0.0, 0.2775)
    low, high = wilson_interval(10, 10)
    assert (round(low, 4), high) == (0.7225, 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 2000), st.data())
def test_wilson_interval_holds_the_share(count, data):
    hits = data.draw(st.integers(0, count))
    low, high = wilson_interval(hits, count)
    assert 0 <= low <= hits / count <= high <= 1


def test_a_rate_of_nothing_is_unknown():
    assert math.isnan(Rate(hits=0, count=0).share)


@pytest.mark.parametrize("side", [64, 9])
def test_border_colour_leaves_the_middle_out(side):
    picture = Image.new("RGB", (side, side), (10, 20, 30))
    picture.paste((255, 255, 255), (side // 8 + 1, side // 8 + 1, side - 2, side - 2))
    assert border_colour(picture) == (10, 20, 30)


def test_border_colour_stands_an_object_that_touches_it():
    picture = Image.new("RGB", (64, 64), (10, 20, 30))
    picture.paste((255, 255, 255), (20, 0, 44, 64))
    assert border_colour(picture) == (10, 20, 30)


def test_nearest_colour():
    palette = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    assert nearest_colour((140, 10, 120), palette) == "red"
    assert nearest_colour((110, 10, 120), palette) == "blue"
