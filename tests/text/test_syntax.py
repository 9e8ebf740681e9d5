import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.text.syntax import LARGEST_WEIGHT, WeightedPiece, parse_prompt

SIGNS = "()[]（）［］\\:：.,+-1234567890１３．"
prompts = st.text(st.one_of(st.sampled_from(SIGNS), st.characters(codec="utf-8")), max_size=60)


def pieces(text: str, full_width: bool = True) -> list[tuple[str, float]]:
    return [(p.text, pytest.approx(p.weight)) for p in parse_prompt(text, full_width=full_width)]


def test_the_release_splits_alike(cases):
    for case in cases["parse_only"]:
        got = [[p.text, p.weight] for p in parse_prompt(case["text"], full_width=False)]
        assert got == case["pieces"], case["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("（红包：1.3）在桌上", [("红包", 1.3), ("在桌上", 1)]),
        ("（红包:1.3)", [("红包", 1.3)]),
        ("（红包：１．３）", [("红包", 1.3)]),
        ("（红包： －.5 ）", [("红包", -0.5)]),
        ("［模糊］", [("模糊", 1 / 1.1)]),
        ("（（红））包", [("红", 1.21), ("包", 1)]),
        ("\\（红\\）", [("（红）", 1)]),
        ("红：包", [("红：包", 1)]),
        ("(ظرف:١.٥)", [("ظرف", 1.5)]),
    ],
)
def test_native_prompts_may_use_full_width_signs(text, expected):
    assert pieces(text) == expected


def test_full_width_signs_are_text_where_not_asked_for():
    assert pieces("（红包：1.3）", full_width=False) == [("（红包：1.3）", 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("", 1)]),
        ("()", [("", 1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1), (" c", 0.5)]),
        ("(a:1.3", [("a:1.3", 1.1)]),
        ("a:1.3) b", [("a:1.3) b", 1)]),
        ("(a: 1.3 )", [("a", 1.3)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("\\m/ \\\\", [("\\m/ \\", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(a) (b:0)", [("a", 1.1), (" ", 1), ("b", 0)]),
        ("((a] b", [("a] b", 1.21)]),
    ],
)
def test_corner_cases(text, expected):
    assert pieces(text, full_width=False) == expected


@given(prompts, st.booleans())
def test_every_string_is_read(text, full_width):
    found = parse_prompt(text, full_width=full_width)
    assert found
    assert all(math.isfinite(piece.weight) for piece in found)
    assert all(piece.text for piece in found) or found == [WeightedPiece("", 1.0)]
    assert all(a.weight != b.weight for a, b in pairwise(found))


@given(st.text(st.characters(exclude_characters="()[]（）［］\\"), max_size=60), st.booleans())
def test_text_without_brackets_stays_as_it_is(text, full_width):
    assert parse_prompt(text, full_width=full_width) == [WeightedPiece(text, 1.0)]


@given(prompts)
def test_escaped_text_stays_as_it_is(text):
    escaped = re.sub(r"([\\()\[\]（）［］])", r"\\\1", text)
    assert parse_prompt(escaped, full_width=True) == [WeightedPiece(text, 1.0)]


def test_weights_never_reach_infinity():
    nested = "(" * 60 + "a" + ":99999999999)" * 60
    assert pieces(nested) == [("a", LARGEST_WEIGHT)]
    assert pieces("(a:" + "9" * 400 + ")") == [("a", LARGEST_WEIGHT)]
