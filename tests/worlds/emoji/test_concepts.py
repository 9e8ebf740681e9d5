import re
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.concepts import (
    LANGUAGES,
    LITERAL_PROBES,
    Concept,
    all_concepts,
    english_concepts,
    find_concept,
    literal_probes,
    native_concepts,
    shipped_concepts,
    small_world,
)


def words(concepts: Iterable[Concept]) -> set[str]:
    """The words of English names; "jack-o-lantern" holds "lantern"."""
    return {word for c in concepts for word in re.findall(r"\w+", c.names["en"].lower())}


def test_counts_by_region() -> None:
    assert Counter(concept.region for concept in all_concepts()) == {
        None: 761,
        "east_asia:japan": 33,
        "east_asia:china": 14,
        "east_asia:shared": 11,
        "south_asia": 13,
        "arab_world": 13,
        "latin_america": 7,
    }
    assert len({concept.codepoints for concept in all_concepts()}) == 852


@pytest.mark.parametrize(
    ("language", "count"), [("en", 0), ("zh", 58), ("ja", 58), ("ar", 13), ("hi", 13), ("es", 7)]
)
def test_native_counts(language: str, count: int) -> None:
    assert len(native_concepts(language)) == count


def test_english_world_never_holds_a_native_concept() -> None:
    assert len(english_concepts()) == 761
    assert not any(concept.held_out for concept in english_concepts())


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_distinct_and_clean(language: str) -> None:
    names = [concept.names[language] for concept in all_concepts()]
    assert len({name.casefold() for name in names}) == 852
    assert all(name == name.strip() != "" for name in names)
    assert not any("\ufe0f" in name or "{" in name for name in names)


@pytest.mark.parametrize(
    ("emoji", "language", "name"),
    [
        ("🦙", "zh", "羊驼"),  # CLDR: 美洲鸵, a bird
        ("🧞", "zh", "灯神"),
        ("🀄", "ar", "ماجونغ"),
        ("🥟", "ja", "餃子"),
        ("🧧", "zh", "红包"),
    ],
)
def test_wrong_cldr_names_are_mended(emoji: str, language: str, name: str) -> None:
    assert find_concept(emoji).names[language] == name


@pytest.mark.parametrize("text", ["🧧", "1f9e7", "红包", " Red Envelope ", "ظرف أحمر بكتابة صينية"])
def test_find_by_emoji_code_and_name(text: str) -> None:
    assert find_concept(text).codepoints == "1F9E7"


def test_find_ignores_the_variation_selector() -> None:
    assert find_concept("⛩\ufe0f").names["en"] == "shinto shrine"


@given(st.text(max_size=8))
def test_find_takes_any_text(text: str) -> None:
    try:
        concept = find_concept(text)
    except BridgeError:
        known = {name for c in all_concepts() for name in (c.emoji, *c.names.values())}
        assert text not in known
    else:
        assert concept in all_concepts()


def test_literal_probes_are_held_out_and_known_by_their_words() -> None:
    probes = literal_probes()
    assert [probe.codepoints for probe in probes] == list(LITERAL_PROBES)
    assert all(probe.held_out and probe.literal_probe for probe in probes)
    assert sum(concept.literal_probe for concept in all_concepts()) == 6
    known = words(english_concepts())
    assert all(words([probe]) <= known for probe in probes)


def test_small_world_holds_the_native_and_the_words_of_the_probes() -> None:
    small = small_world("zh")
    assert len(small) == 245
    assert sum(concept.held_out for concept in small) == 58
    known = words(concept for concept in small if not concept.held_out)
    assert all(words([probe]) <= known for probe in literal_probes())


@pytest.mark.parametrize("language", LANGUAGES)
def test_shipped_concepts_hold_every_small_world(language: str) -> None:
    shipped = {concept.codepoints for concept in shipped_concepts()}
    assert len(shipped) == 278
    assert {concept.codepoints for concept in small_world(language)} <= shipped


@pytest.mark.parametrize("language", LANGUAGES)
def test_scored_synonyms_are_kept_out_of_training(language: str) -> None:
    names = {concept.names[language] for concept in all_concepts()}
    trained = {word for c in all_concepts() for word in c.training_synonyms(language)}
    scored = {c.scored_synonym(language) for c in all_concepts()} - {None}
    assert len(scored) > 500
    assert not scored & (names | trained)


def test_synonyms_belong_to_one_concept() -> None:
    for language in LANGUAGES:
        words = Counter(word for c in all_concepts() for word in c.synonyms[language])
        assert max(words.values()) == 1
