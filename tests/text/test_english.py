import logging

import pytest
import torch
from diffusers import AnimateDiffSDXLPipeline
from peft import LoraConfig

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import encode_english

ENGLISH_CASES = ["e01_plain", "e02_weights", "e03_two_chunks_weights", "e05_empty"]
ENCODERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
LONG = "a red fox in the snow, " * 12


def close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ENGLISH_CASES)
def test_the_release_encodes_alike(sd_pipe, cases, expected, name):
    got = encode_english(sd_pipe, cases[name]["prompts"], cases[name]["negative_prompts"])
    for side, tensor in (("pos", got.positive), ("neg", got.negative)):
        wanted = expected[f"{name}.{side}"]
        assert tensor.shape == wanted.shape
        assert (tensor - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert got.pooled is None


@pytest.mark.parametrize("negatives", [None, ["", "low quality"]])
@pytest.mark.parametrize("pipe_name", ["sd_pipe", "sdxl_pipe"])
def test_plain_prompts_are_the_stock_ones_bit_for_bit(pipe_name, negatives, request):
    pipe = request.getfixturevalue(pipe_name)
    prompts = ["a red fox", "snow, no brackets here"]
    got = encode_english(pipe, prompts, negatives)
    with torch.no_grad():
        stock = pipe.encode_prompt(
            prompt=prompts,
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=negatives,
        )
    ours = (got.positive, got.negative, got.pooled, got.negative_pooled)
    for tensor, wanted in zip(ours, stock, strict=False):
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("pipe_name", ["sd_pipe", "sdxl_pipe"])
def test_windows_agree_with_stock_where_nothing_is_weighted(pipe_name, request):
    pipe = request.getfixturevalue(pipe_name)
    stock = encode_english(pipe, ["a red fox"], ["snow"])
    in_windows = encode_english(pipe, ["a red fox", "(fox:1.3)"], ["snow", ""])
    assert close(in_windows.positive[:1], stock.positive)
    assert close(in_windows.negative[:1], stock.negative)
    if stock.pooled is not None:
        assert close(in_windows.pooled[:1], stock.pooled)
        assert close(in_windows.negative_pooled[:1], stock.negative_pooled)


def test_a_pipeline_of_videos_encodes_the_same(sdxl_pipe):
    """AnimateDiff's of SDXL, which names the number of videos instead."""
    parts = {name: getattr(sdxl_pipe, name) for name in ENCODERS}
    video = AnimateDiffSDXLPipeline(
        **parts, vae=None, unet=None, scheduler=None, motion_adapter=None
    )
    got = encode_english(video, ["a red fox"], ["snow"])
    wanted = encode_english(sdxl_pipe, ["a red fox"], ["snow"])
    assert torch.equal(got.positive, wanted.positive)
    assert torch.equal(got.negative_pooled, wanted.negative_pooled)


def test_sdxl_zeros_stay_zeros_beside_weights(sdxl_pipe):
    got = encode_english(sdxl_pipe, ["a (fox:1.3)"], None)
    assert got.positive.shape == got.negative.shape == (1, 77, 32)
    assert not got.negative.any()
    assert not got.negative_pooled.any()
    assert got.pooled.any()
    assert encode_english(sdxl_pipe, ["a (fox:1.3)"], [""]).negative.any()


@pytest.mark.parametrize("pipe_name", ["sd_pipe", "sdxl_pipe"])
def test_a_long_prompt_makes_both_sides_equally_long(pipe_name, request):
    pipe = request.getfixturevalue(pipe_name)
    got = encode_english(pipe, [LONG, "fox"], ["", "low quality"])
    assert got.positive.shape == got.negative.shape == (2, 152, 32)
    first = encode_english(pipe, ["fox"], ["low quality"])
    assert close(got.positive[1, :76], first.positive[0, :76])
    if got.pooled is not None:
        assert close(got.pooled[1:], first.pooled)


def test_a_prompt_beyond_the_last_window_is_cut_with_a_warning(sd_pipe, caplog):
    with caplog.at_level(logging.WARNING):
        got = encode_english(sd_pipe, [LONG], [""], max_windows=1)
    assert got.positive.shape[1] == 77
    assert "at most 75 are read" in caplog.text


def test_escaped_brackets_are_plain_text(sd_pipe):
    got = encode_english(sd_pipe, ["fox \\(close up\\)"], [""])
    with torch.no_grad():
        stock, _ = sd_pipe.encode_prompt("fox (close up)", torch.device("cpu"), 1, True)
    assert torch.equal(got.positive, stock)


@pytest.fixture
def inverted_pipe(sd_pipe):
    """With a style of three vectors, and the same vectors as styles of one vector each."""
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    sd_pipe.load_textual_inversion(vectors, token="<style>")
    for name, vector in zip("xyz", vectors, strict=True):
        sd_pipe.load_textual_inversion(vector[None], token=f"<{name}>")
    return sd_pipe


@pytest.mark.parametrize("template", ["a fox, {}", "a fox, {}, " + "snow, " * 80, "a ({}:1.4)"])
def test_every_vector_of_a_textual_inversion_acts(inverted_pipe, template):
    prompt, spelled_out = template.format("<style>"), template.format("<x> <y> <z>")
    got = encode_english(inverted_pipe, [prompt, "fox"], ["", prompt])
    wanted = encode_english(inverted_pipe, [spelled_out, "fox"], ["", spelled_out])
    assert torch.equal(got.positive, wanted.positive)
    assert torch.equal(got.negative, wanted.negative)
    one_vector = encode_english(inverted_pipe, [template.format("<x>"), "fox"], ["", prompt])
    assert not close(got.positive, one_vector.positive)


@pytest.mark.parametrize("prompt", ["a red fox", "a (red:1.2) fox"])
def test_a_lora_on_the_text_encoder_acts_and_can_be_scaled(sd_pipe, prompt):
    plain = encode_english(sd_pipe, [prompt], [""]).positive
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    sd_pipe.text_encoder.add_adapter(config)
    full = encode_english(sd_pipe, [prompt], [""]).positive
    half = encode_english(sd_pipe, [prompt], [""], lora_scale=0.5).positive
    none = encode_english(sd_pipe, [prompt], [""], lora_scale=1e-9).positive
    assert not close(full, plain)
    assert not close(half, plain)
    assert not close(half, full)
    assert close(none, plain)
    assert torch.equal(encode_english(sd_pipe, [prompt], [""]).positive, full)


@pytest.mark.parametrize("pipe_name", ["sd_pipe", "sdxl_pipe"])
def test_clip_skip(pipe_name, request):
    pipe = request.getfixturevalue(pipe_name)
    none = encode_english(pipe, ["a fox"], [""])
    zero = encode_english(pipe, ["a fox"], [""], clip_skip=0)
    one = encode_english(pipe, ["a fox"], [""], clip_skip=1)
    assert close(zero.positive, none.positive)
    assert one.positive.shape == none.positive.shape
    assert not close(one.positive, none.positive)


def test_clip_skip_drops_the_last_layer(sd_pipe):
    skipped = encode_english(sd_pipe, ["a fox"], [""], clip_skip=1)
    del sd_pipe.text_encoder.encoder.layers[-1]
    assert close(skipped.positive, encode_english(sd_pipe, ["a fox"], [""]).positive)


def test_mistakes(sd_pipe):
    with pytest.raises(BridgeError, match="2 prompts and 1 negative prompts"):
        encode_english(sd_pipe, ["a", "b"], [""])
    with pytest.raises(BridgeError, match="non-empty list"):
        encode_english(sd_pipe, "a fox", [""])
    with pytest.raises(BridgeError, match=r"clip_skip is 7.*0 to 1"):
        encode_english(sd_pipe, ["a fox"], [""], clip_skip=7)
    sd_pipe.text_encoder = None
    with pytest.raises(BridgeError, match="has no text encoder"):
        encode_english(sd_pipe, ["a fox"], [""])
