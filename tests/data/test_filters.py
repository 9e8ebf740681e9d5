"""What is kept, what is dropped and why; near-duplicates against a plain comparison."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import colour_folder, png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from bridge_diffusion.data import PairFolder
from bridge_diffusion.data.filters import Filters, Measures, judge
from bridge_diffusion.data.measuring import Measurer, Scorer
from bridge_diffusion.data.near_duplicates import NearDuplicates
from bridge_diffusion.data.report import report
from bridge_diffusion.errors import BridgeError

PAIR = Measures(index=0, key="a", width=40, height=30, captions=("abc", "abcdef"))


def verdict(filters: Filters, measures: Measures = PAIR):
    (one,) = judge([measures], filters)
    return one


@pytest.mark.parametrize(
    ("filters", "reason", "detail"),
    [
        (Filters(min_side=31), "too small", "40x30"),
        (Filters(max_aspect=1.3), "too long or too wide", "40x30"),
        (Filters(min_caption=7), "caption length", "6 characters"),
        (Filters(max_caption=2), "caption length", "6 characters"),
    ],
)
def test_a_pair_is_dropped_for_a_reason(filters: Filters, reason: str, detail: str) -> None:
    one = verdict(filters)
    assert (one.reason, one.detail, one.kept) == (reason, detail, ())


def test_what_is_just_allowed_is_kept_and_a_bad_caption_is_dropped_alone() -> None:
    exact = Filters(min_side=30, max_aspect=4 / 3, min_caption=3, max_caption=6)
    assert verdict(exact).kept == (0, 1)
    assert verdict(Filters(min_caption=4)).kept == (1,)
    probable = replace(PAIR, spoken=(0.1, 0.9))
    assert verdict(Filters(spoken="zh"), probable).kept == (1,)
    scored = replace(PAIR, scores=(0.3, 0.1))
    kept = verdict(Filters(scorer=Path(), min_score=0.2), scored).kept
    assert kept == (0,)
    low = verdict(Filters(scorer=Path(), min_score=0.4), scored)
    assert (low.reason, low.detail) == ("caption scored low", "0.100")


def test_of_near_duplicates_the_first_that_is_kept_stays() -> None:
    found = [
        replace(PAIR, index=0, key="small", width=1, picture_hash=7),
        replace(PAIR, index=1, key="first", picture_hash=7),
        replace(PAIR, index=2, key="near", picture_hash=6),
        replace(PAIR, index=3, key="far", picture_hash=~7 % 2**64),
    ]
    verdicts = list(judge(found, Filters(min_side=2, near_duplicates=1)))
    assert [one.reason for one in verdicts] == ["too small", "", "near-duplicate", ""]
    assert verdicts[2].detail == "like first"


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=6)), max_size=12),
    st.integers(0, 16),
)
def test_near_hashes_are_found_as_by_comparing_all(
    centres: list[int], changes: list[tuple[int, set[int]]], distance: int
) -> None:
    values = list(centres)
    for number, bits in changes:
        values.append(centres[number % len(centres)] ^ sum(1 << bit for bit in bits))
    seen, kept = NearDuplicates(distance), list[int]()
    for value in values:
        near = any((value ^ other).bit_count() <= distance for other in kept)
        assert (seen.add(value, str(value)) is not None) == near
        if not near:
            kept.append(value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_side": -1}, "--min-side is -1"),
        ({"max_aspect": 0.5}, "--max-aspect is 0.5"),
        ({"near_duplicates": 17}, "--near-duplicates is 17 of 64 bits"),
        ({"min_score": 0.2}, "needs a --scorer"),
        ({"spoken_probability": 0.0}, "--spoken-probability is 0.0"),
    ],
)
def test_a_mistake_is_said(values: dict, words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        Filters(**values)


def test_languages_are_told_from_the_text(tmp_path: Path) -> None:
    pytest.importorskip("lingua")
    pairs = PairFolder(colour_folder(tmp_path, {"一家人在包饺子": "red", "a red picture": "blue"}))
    measured = list(Measurer(Filters(spoken="zh-Hans")).measure(pairs, range(2)))
    assert [round(one.spoken[0]) for one in measured] == [0, 1]
    with pytest.raises(BridgeError, match="--spoken xx is no language that is told"):
        Measurer(Filters(spoken="xx"))


def test_perceptual_hashes_see_through_size_and_compression(tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    random = np.random.default_rng(0)
    one, other = (
        Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((200, 160))
        for _ in range(2)
    )
    one.save(tmp_path / "a.png")
    one.resize((90, 72)).save(tmp_path / "b.jpg", quality=70)
    other.save(tmp_path / "c.png")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    filters, pairs = Filters(near_duplicates=4), PairFolder(tmp_path)
    found = list(Measurer(filters).measure(pairs, range(3)))
    assert [one.reason for one in judge(found, filters)] == ["", "near-duplicate", ""]


def clip_folder(folder: Path) -> Path:
    words = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_resize=True
    )
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_scores_are_cosines_of_the_models_own_features(tmp_path: Path) -> None:
    scorer = Scorer(clip_folder(tmp_path / "clip"))
    picture = Image.radial_gradient("L").convert("RGB")
    one = scorer.scores(picture, ["abc"])
    both = scorer.scores(picture, ["abc", "defghi"])
    assert both[0] == pytest.approx(one[0], abs=1e-5)
    assert both[0] != pytest.approx(both[1], abs=1e-4)
    assert all(-1 <= score <= 1 for score in both)
    with pytest.raises(BridgeError, match="cannot be loaded"):
        Scorer(colour_folder(tmp_path / "none"))


def test_the_report_counts_all_and_shows_what_was_dropped(tmp_path: Path) -> None:
    colour_folder(tmp_path, {"红色": "red", "<b>": "blue"})
    (tmp_path / "damaged.png").write_bytes(png("red")[:40])
    (tmp_path / "damaged.txt").write_text("x")
    (tmp_path / "alone.png").write_bytes(png("red"))
    pairs = PairFolder(tmp_path)
    filters = Filters(max_caption=2)
    found = list(Measurer(filters).measure(pairs, range(len(pairs))))
    result = report("photos", pairs, list(judge(found, filters)))
    values = json.loads(json.dumps(result.to_json()))
    assert (values["pairs"], values["kept"]) == (3, 1)
    assert values["dropped"] == {"unusable": 1, "caption length": 1}
    assert [one["key"] for one in values["dropped_pairs"]] == ["blue.png", "damaged.png"]
    assert values["left_out"] == {"alone.png": "no caption"}
    assert result.lines()[0] == "1 of 3 pairs kept, with 1 of 2 captions"
    page = result.page(pairs)
    assert page.count("data:image/jpeg;base64,") == 2
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "src=http" not in page
