"""A data set in the user's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError


def test_options_follow_the_place() -> None:
    spec = DataSpec.parse("hf:a/b,split=test,captions=zh+caption,language=zh+ja,weight=0.5")
    assert (spec.place, spec.split, spec.weight) == ("hf:a/b", "test", 0.5)
    assert spec.caption_fields == ("zh", "caption")
    assert spec.languages == ("zh", "ja")
    assert DataSpec.parse("my,photos=1").place == "my,photos=1"
    assert DataSpec.parse("my,photos,weight=2") == DataSpec(place="my,photos", weight=2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no data"),
        (",weight=1", "names no data"),
        ("a,weight=0", "weight=0; a number above 0"),
        ("a,weight=x", "weight=x; a number above 0"),
        ("a,weight=inf", "weight=inf; a number above 0"),
        ("a,weight=1,weight=2", "says weight twice"),
        ("a,weight=1,colour=red", "no option 'colour=red'"),
        ("a,streaming=1", "streaming=1; write yes or no"),
    ],
)
def test_a_mistake_is_said(text: str, words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        DataSpec.parse(text)


@given(st.text(alphabet="ab,=/ 1weight:", max_size=20))
def test_any_text_is_a_place_or_an_error(text: str) -> None:
    try:
        spec = DataSpec.parse(text)
    except BridgeError:
        return
    assert text.startswith(spec.place)
