"""Data sets by name: the emoji world's scenes and their controls."""

from pathlib import Path

import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.opening import open_dataset
from bridge_diffusion.worlds.emoji.concepts import native_concepts


def test_the_controls_show_the_same_scenes_with_other_captions() -> None:
    native, english, shuffled = (
        open_dataset(f"emoji:zh{words}", 32, 0, limit=40) for words in ("", ":english", ":shuffled")
    )
    assert len(native) == len(english) == len(shuffled) == 40
    for index in range(40):
        # The same scene, but for the jitter: drawing a caption takes its part of the randomness.
        assert native.dataset.scene(index)[0] == english.dataset.scene(index)[0]
        assert native[index].image.tobytes() == shuffled[index].image.tobytes()
        assert english[index].captions[0].isascii() or "’" in english[index].captions[0]
        assert shuffled[index].captions == native[(index + 20) % 40].captions
    assert any(letter >= "\u4e00" for letter in native[0].captions[0])


def test_controls_are_told_apart_by_their_fingerprints() -> None:
    specs = ("emoji:zh", "emoji:zh:english", "emoji:zh:shuffled", "emoji:ja")
    prints = {getattr(open_dataset(spec, 32, 0, limit=70), "fingerprint") for spec in specs}  # noqa: B009
    assert len(prints) == len(specs)


def test_native_scenes_show_what_is_native_to_the_language_alone() -> None:
    scenes = open_dataset("emoji:ar:native", 32, 0, limit=40).dataset
    shown = [concept for index in range(40) for concept in scenes.scene(index)[0].concepts]
    assert all(concept in native_concepts("ar") for concept in shown)
    assert len({concept.codepoints for concept in shown}) > 6
    assert {concept.region for concept in shown} == {"arab_world"}
    assert not any(scenes.scene(index)[0].scored for index in range(40))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("emoji:zh:backwards", "all, native, english, shuffled"),
        ("emoji:en:native", "nothing in the emoji world is native to 'en'"),
        ("emoji:xx", "no captions in 'xx'"),
        ("nowhere", "no data at 'nowhere'"),
        ("hf:owner/name,streaming=yes", "cannot be streamed: pairs are read in any order"),
        ("photos,split=test", "is for Hugging Face datasets; this is none"),
    ],
)
def test_what_there_is_not_is_said(spec: str, said: str) -> None:
    with pytest.raises(BridgeError, match=said):
        open_dataset(spec, 32, 0)


def test_pictures_without_a_caption_are_counted_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    assert len(open_dataset(str(tmp_path), 8, 0)) == 1
    assert "2 of 3 pictures" in caplog.text
    assert "such as a.png" in caplog.text
