import itertools

import pytest

from bridge_diffusion.worlds.emoji.captions import (
    KINDS,
    PAIR_KINDS,
    UNSEEN_SINGLE,
    background_phrase,
    caption,
    colour_rgb,
    default_colours,
    half_caption,
    templates,
)
from bridge_diffusion.worlds.emoji.concepts import LANGUAGES

COLOURS = tuple(templates()["colors"])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [*KINDS, "unseen_single"])
def test_no_template_leaves_anything_over(language: str, kind: str) -> None:
    pair = kind in PAIR_KINDS
    seen = set()
    for colours in itertools.permutations(COLOURS, 2):
        text = caption(language, kind, ("@A", "@B") if pair else ("@A",), colours)
        assert "@A" in text
        assert ("@B" in text) == pair
        assert not set(text) & set("{}")
        assert text == text.strip()
        seen.add(text)
    # Every colour, and for a gradient every ordered pair, is told apart.
    expected = 12 * 11 if kind == "gradient_top_bottom" else 12
    assert len(seen) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_half_captions_name_one_of_a_pair(language: str) -> None:
    for kind, second in itertools.product(PAIR_KINDS, (False, True)):
        text = half_caption(language, kind, "@X", second, "blue")
        assert "@X" in text
        assert not set(text) & set("{}")


@pytest.mark.parametrize("language", LANGUAGES)
def test_unseen_word_order_is_not_a_training_caption(language: str) -> None:
    trained = {
        caption(language, kind, ("@A", "@B"), (colour, colour))
        for kind in KINDS
        for colour in COLOURS
    }
    unseen = {caption(language, "unseen_single", ("@A",), (colour,)) for colour in COLOURS}
    assert language in UNSEEN_SINGLE
    assert not trained & unseen


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", "red envelope on an orange background"), ("zh", "橙色背景上的红包")],
)
def test_known_captions(language: str, text: str) -> None:
    name = {"en": "red envelope", "zh": "红包"}[language]
    assert caption(language, "single", (name,), ("orange",)) == text


def test_default_colours_can_be_told_apart() -> None:
    assert len(default_colours()) == 8
    assert "yellow" not in default_colours()
    for one, other in itertools.combinations(map(colour_rgb, default_colours()), 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 40**2
    assert background_phrase("en", "orange").startswith("an ")
