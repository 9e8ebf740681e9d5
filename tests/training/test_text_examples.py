import logging
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from bridge_diffusion.data.pairs import FirstPairs
from bridge_diffusion.data.pixels import to_pixels
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.text_examples import (
    CachedTargets,
    LivePictures,
    cache_image_features,
    cache_teacher_features,
    read_parallel_text,
)
from bridge_diffusion.training.text_towers import ImageTower, TeacherTower

PAIRS = [(f"{name} fox", f"{word}狐狸") for name, word in (("red", "红"), ("blue", "蓝"))]


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
    config = CLIPConfig(vision_config={**vision, "patch_size": 4, "projection_dim": 6})
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(config.vision_config).eval()
    return ImageTower(model, [0.5] * 3, [0.5] * 3).requires_grad_(False)


def features_by_caption(targets: CachedTargets, batches: int) -> dict[str, torch.Tensor]:
    found = {}
    for index in range(batches):
        features, captions = targets(index)
        found |= dict(zip(captions, features, strict=True))
    return found


def test_cached_features_are_those_of_the_pictures(make_colours, tower, tmp_path):
    colours = make_colours(size=8)
    store = cache_image_features(tmp_path, colours, tower)
    found = features_by_caption(CachedTargets(store, batch_size=5, seed=0), 8)
    assert len(found) == 10
    for index in range(5):
        pair = colours[index]
        wanted = tower(to_pixels(pair.image)[None])[0]
        for caption in pair.captions:
            torch.testing.assert_close(found[caption], wanted)


def test_a_batch_is_a_function_of_seed_and_index(make_colours, tower, tmp_path):
    store = cache_image_features(tmp_path, make_colours(size=8), tower)
    first, second = (CachedTargets(store, batch_size=3, seed=1) for _ in range(2))
    second(7)
    assert torch.equal(first(2)[0], second(2)[0])
    assert first(2)[1] == second(2)[1]
    assert [CachedTargets(store, batch_size=3, seed=2)(i)[1] for i in range(4)] != [
        first(i)[1] for i in range(4)
    ]


def test_held_out_pairs_are_never_trained_on(make_colours, tower, tmp_path):
    colours = make_colours(size=8)
    store = cache_image_features(tmp_path, colours, tower)
    cached = CachedTargets(store, batch_size=3, seed=0, hold_out=0.4)
    live = LivePictures(colours, size=8, batch_size=3, seed=0, hold_out=0.4)
    for source in (cached, live):
        assert len(source.held_out.captions) == len(source.held_out.targets) == 2
        seen = {caption for index in range(10) for caption in source(index)[1]}
        assert seen == set(source.captions())
        assert len(seen) == 6
        assert not seen & set(source.held_out.captions)
    assert live.held_out.captions == cached.held_out.captions
    torch.testing.assert_close(tower(live.held_out.targets), cached.held_out.targets)
    assert CachedTargets(store, batch_size=3, seed=0).held_out is None


@pytest.mark.parametrize("cached", [True, False])
def test_unreadable_pictures_are_skipped_and_named(make_colours, tower, tmp_path, cached, caplog):
    colours = make_colours(size=8, broken=2)
    with caplog.at_level(logging.INFO):
        if cached:
            store = cache_image_features(tmp_path, colours, tower)
            source = CachedTargets(store, batch_size=4, seed=0)
        else:
            source = LivePictures(colours, size=8, batch_size=4, seed=0)
        seen = {caption for index in range(10) for caption in source(index)[1]}
    assert len(seen) == 8
    assert source.skipped == {"blue": "truncated"}
    assert caplog.text.count("skipped: blue") == 1


def test_pictures_none_of_which_can_be_read(make_colours):
    pictures = LivePictures(FirstPairs(make_colours(broken=0), 1), size=8, batch_size=1, seed=0)
    with pytest.raises(BridgeError, match="none of the 1 pictures can be read; look at "):
        pictures.captions()


def test_a_batch_larger_than_the_data(make_colours):
    with pytest.raises(BridgeError, match="a batch of 6 is more than the 5 pairs"):
        LivePictures(make_colours(), size=8, batch_size=6, seed=0)


def test_features_that_are_not_finite(make_colours, tower, tmp_path):
    class Broken(ImageTower):
        def forward(self, pixels):
            return super().forward(pixels) * torch.inf

    broken = Broken(tower.model, [0.5] * 3, [0.5] * 3)
    with pytest.raises(BridgeError, match="image tower gave features that are not finite"):
        cache_image_features(tmp_path, make_colours(size=8), broken)


def test_teacher_features_belong_to_the_translations(chinese_clip_folder, tmp_path):
    teacher = TeacherTower.from_folder(chinese_clip_folder)
    store = cache_teacher_features(tmp_path, PAIRS, teacher)
    found = features_by_caption(CachedTargets(store, batch_size=2, seed=0), 1)
    for english, native in PAIRS:
        torch.testing.assert_close(found[native], teacher([english])[0])


def test_parallel_text(tmp_path: Path):
    file = tmp_path / "text.tsv"
    file.write_text("red fox\t红狐狸\n\n a \t 甲 \r\n", encoding="utf-8-sig")
    assert read_parallel_text(file) == [("red fox", "红狐狸"), ("a", "甲")]


def test_letters_of_parallel_text_are_composed(tmp_path: Path):
    (tmp_path / "text.tsv").write_text(unicodedata.normalize("NFD", "star\t별"), encoding="utf-8")
    assert read_parallel_text(tmp_path / "text.tsv") == [("star", "별")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red fox\n", "line 1: write English"),
        (b"a\tb\nc\td\te\n", "line 2: write English"),
        (b"a\t \n", "line 1"),
        (b"\n", "holds no pair"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        ("a\tb\n".encode("utf-16-le"), "is not UTF-8 text; save it as UTF-8"),
        ("a\tb\u2028c\nd\n".encode(), "line 2"),
    ],
)
def test_parallel_text_of_another_form(tmp_path: Path, content, message):
    (tmp_path / "text.tsv").write_bytes(content)
    with pytest.raises(BridgeError, match=message):
        read_parallel_text(tmp_path / "text.tsv")


def test_parallel_text_that_is_not_there(tmp_path: Path):
    with pytest.raises(BridgeError, match="cannot be read"):
        read_parallel_text(tmp_path / "none.tsv")


@given(st.binary(max_size=80))
def test_any_bytes_are_pairs_or_one_clear_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.tsv"
    file.write_bytes(content)
    try:
        pairs = read_parallel_text(file)
    except BridgeError:
        return
    assert pairs
    assert all(english.strip() and native.strip() for english, native in pairs)
