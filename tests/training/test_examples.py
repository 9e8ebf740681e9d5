"""Encoded at every step or once: the same numbers; a damaged picture is skipped and named."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.data.store import TensorStore
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import RELEASE_ENCODING, TextEncoding, parse_prompt
from bridge_diffusion.training.examples import (
    CachedExamples,
    Encoded,
    Examples,
    LiveExamples,
    cache_english,
    cache_pictures,
    cache_texts,
    captions_of,
    encode_pixels,
    english_of,
    literal_prompt,
)
from bridge_diffusion.training.order import Pick, ShuffledOrder

MakeColours = Callable[..., PairDataset]


def cached(
    cache: Path, dataset: PairDataset, pipe: StableDiffusionPipeline, bridge: Bridge
) -> CachedExamples:
    pictures = cache_pictures(cache, dataset, pipe.vae, size=32)
    texts = cache_texts(cache, captions_of(pictures), bridge.text_encoder)
    return CachedExamples(pictures, texts, cache_english(cache, english_of(pictures), pipe))


def encoded(examples: Examples, picks: list[Pick]) -> Encoded:
    return examples.encoded(examples.batch(picks))


def test_cached_is_what_live_gives(
    tmp_path: Path,
    pipe: StableDiffusionPipeline,
    new_bridge: Callable[[], Bridge],
    make_colours: MakeColours,
) -> None:
    bridge = new_bridge()
    live = LiveExamples(make_colours(), pipe, bridge.text_encoder, size=32)
    picks = [Pick(0, 0.0), Pick(4, 0.9), Pick(2, None)]
    a = encoded(live, picks)
    b = encoded(cached(tmp_path, make_colours(), pipe, bridge), picks)
    assert torch.allclose(a.latents, b.latents, atol=2e-3)
    assert a.english is not None
    assert b.english is not None
    assert torch.allclose(a.english, b.english, atol=2e-3)
    wanted = pipe.encode_prompt(["red", "white", ""], "cpu", 1, False)[0]
    assert torch.allclose(a.english, wanted, atol=1e-5)
    for mine, theirs, states in zip(a.mask, b.mask, range(3), strict=True):
        assert torch.allclose(a.states[states][mine], b.states[states][theirs], atol=2e-3)
    # The branch answers as to the padded text: nothing was lost with the padding.
    t = torch.tensor([10, 500, 990])
    for weight in bridge.branch.controlnet_mid_block.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    padded = bridge.branch(a.latents, t, a.states, a.mask)[1]
    trimmed = bridge.branch(a.latents, t, b.states, b.mask)[1]
    assert torch.allclose(padded, trimmed, rtol=1e-2, atol=1e-2)


def test_a_cache_of_another_model_size_or_text_is_never_used(
    tmp_path: Path,
    pipe: StableDiffusionPipeline,
    new_bridge: Callable[[], Bridge],
    make_colours: MakeColours,
) -> None:
    text = new_bridge().text_encoder

    def pictures(size: int = 32) -> TensorStore:
        return cache_pictures(tmp_path, make_colours(), pipe.vae, size=size)

    def folders() -> int:
        return len(list(tmp_path.iterdir()))

    first = pictures()[0]
    pipe.vae.register_to_config(_name_or_path="the same model in another folder")
    pictures()
    assert folders() == 1
    pictures(16)
    assert folders() == 2
    with torch.no_grad():
        next(pipe.vae.encoder.parameters()).add_(0.5)
    assert not torch.equal(pictures()[0], first)
    cache_texts(tmp_path, ["红色"], text)
    cache_texts(tmp_path, ["红色", "红色"], text)
    assert folders() == 4
    cache_texts(tmp_path, ["蓝色"], text)
    with torch.no_grad():
        next(text.model.parameters()).add_(0.5)
    cache_texts(tmp_path, ["红色"], text)
    assert folders() == 6


def test_an_unreadable_picture_is_skipped_counted_and_named(
    tmp_path: Path,
    pipe: StableDiffusionPipeline,
    new_bridge: Callable[[], Bridge],
    make_colours: MakeColours,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    bridge, colours = new_bridge(), make_colours(broken=1)
    from_disk = cached(tmp_path, colours, pipe, bridge)
    assert len(from_disk) == 4
    assert from_disk.skipped == {"green": "truncated"}
    live = LiveExamples(colours, pipe, bridge.text_encoder, size=32)
    assert live.batch([Pick(1, 0.0), Pick(1, 0.0)])["captions"] == ["蓝色", "蓝色"]
    assert live.skipped == {"green": "truncated"}
    assert caplog.text.count("green is no readable picture (truncated)") == 2


def test_values_that_are_not_finite_are_an_error(pipe: StableDiffusionPipeline) -> None:
    with torch.no_grad():
        next(pipe.vae.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(BridgeError, match="load it in float32"):
        encode_pixels(pipe.vae, torch.zeros(1, 3, 32, 32))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=r"ab红\()[]（）［］:：1.3"))
def test_captions_are_taken_literally(caption: str) -> None:
    for encoding in (TextEncoding(family="bert"), RELEASE_ENCODING):
        full_width = encoding.special_ids == "tokenizer"
        pieces = parse_prompt(literal_prompt(caption, encoding), full_width=full_width)
        assert "".join(piece.text for piece in pieces) == caption
        assert all(piece.weight == 1 for piece in pieces)


def test_every_pair_once_an_epoch_and_captions_drawn_and_dropped() -> None:
    order = ShuffledOrder(10, batch_size=4, caption_dropout=0.25, seed=3)
    picks = [pick for index in range(500) for pick in order.batch(index)]
    epochs = [[pick.index for pick in picks[i : i + 10]] for i in range(0, 2000, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert sum(pick.caption is None for pick in picks) == pytest.approx(500, abs=80)
    drawn = [pick.caption_of("ab") for pick in picks if pick.caption is not None]
    assert drawn.count("a") == pytest.approx(len(drawn) / 2, abs=100)
    assert ShuffledOrder(10, batch_size=4, caption_dropout=0.25, seed=3).batch(7) == order.batch(7)
    assert ShuffledOrder(10, batch_size=4, caption_dropout=0.25, seed=4).batch(7) != order.batch(7)
