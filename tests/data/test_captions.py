"""Captions from JSON objects and rows, as the world's tools write them."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_diffusion.data.captions import (
    Said,
    in_language,
    said_in_record,
    said_in_text,
    speaks,
)
from bridge_diffusion.errors import BridgeError


@pytest.mark.parametrize(
    ("record", "tagged"),
    [
        ({"captions": ["红", " ", "红包"]}, [("", "红"), ("", "红包")]),
        ({"caption": "a\n b", "url": "u", "width": 3}, [("", "a b")]),
        ({"captions": None, "text": "红"}, [("", "红")]),
        ({"captions": {"zh": "红", "zh_Hant": ["紅"]}}, [("zh", "红"), ("zh-Hant", "紅")]),
        ({"zh": "红", "en": "red"}, [("zh", "红"), ("en", "red")]),
        ({"url": "u", "key": "0", "width": 3}, []),
        ({"caption": None, "label": 3}, []),
        ({}, []),
    ],
)
def test_captions_are_found(record: dict, tagged: list) -> None:
    said = said_in_record(record)
    languages = said.languages or ("",) * len(said.captions)
    assert list(zip(languages, said.captions, strict=True)) == tagged


def test_named_fields_alone_count() -> None:
    record = {"caption": "no", "title": "a", "alt": ["b", "c"]}
    assert said_in_record(record, ["title", "alt"]).captions == ("a", "b", "c")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"caption": 3}, "caption holds a value of type int"),
        ({"captions": [["a"]]}, "captions holds a list with a list"),
        ({"captions": {"Chinese!": "a"}}, "has a key 'Chinese!'; language tags"),
        ({"caption": "a", "english": ["b"]}, "'english' holds a list; write one text"),
    ],
)
def test_what_is_no_caption_is_said(record: dict, words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        said_in_record(record)


def test_a_language_takes_its_variants_and_what_has_no_tag() -> None:
    said = Said(("a", "b", "c", "d"), ("zh", "zh-Hant", "en", ""), "e")
    assert in_language(said, ["zh"]) == Said(("a", "b", "d"), ("zh", "zh-Hant", "zh"), "e")
    assert in_language(Said(("a",)), ["ja", "zh"]).languages == ("ja",)
    assert speaks("ZH_hant", "zh-Hant")
    assert not speaks("zho", "zh")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["caption", "captions", "text", "zh", "english"]), JSON))
def test_any_json_gives_texts_or_an_error(record: dict) -> None:
    try:
        said = said_in_record(record)
    except BridgeError:
        return
    assert all(text.strip() == text != "" for text in said.captions)
    assert not said.languages or len(said.languages) == len(said.captions)


def test_letters_are_composed() -> None:
    apart = unicodedata.normalize("NFD", "빨간 별")
    assert apart != "빨간 별"
    assert said_in_text(apart).captions == ("빨간 별",)
    assert said_in_record({"caption": apart}).captions == ("빨간 별",)
