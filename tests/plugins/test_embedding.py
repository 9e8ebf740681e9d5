"""Textual Inversion files of every layout become words of the English prompt, or are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.plugins.embedding import load_embedding
from bridge_diffusion.text import encode_english

from .conftest import Trap, draw, frozen, same

Pipe = Any
WIDTH = 32


def vectors(count: int, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(3))


def a1111(tensor: Tensor, name: str = "another name") -> dict:
    """What the web UI saves (`textual_inversion.py`)."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(tensor)},
        "name": name,
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


def rows_of(pipe: Pipe, words: list[str], suffix: str = "") -> Tensor:
    tokenizer, encoder = getattr(pipe, f"tokenizer{suffix}"), getattr(pipe, f"text_encoder{suffix}")
    ids = [tokenizer.convert_tokens_to_ids(word) for word in words]
    return encoder.get_input_embeddings().weight.detach()[ids]


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("layout", ["safetensors", "pt", "bin"])
def test_one_vector_or_several_in_every_layout(
    pipe: Pipe, tmp_path: Path, layout: str, count: int | None
) -> None:
    """[w], [1, w] and [3, w]."""
    rows = vectors(count or 1)
    tensor = rows[0] if count is None else rows
    path = tmp_path / f"mood.{layout}"
    if layout == "safetensors":
        save_file({"emb_params": tensor.contiguous()}, path)
    else:
        torch.save(a1111(tensor) if layout == "pt" else {"<mood>": tensor}, path)
    report = load_embedding(pipe, path)
    token = "<mood>" if layout == "bin" else "mood"  # diffusers writes the word into the file
    assert (report.token, report.vectors) == (token, len(rows))
    words = [token, *(f"{token}_{i}" for i in range(1, len(rows)))]
    assert torch.equal(rows_of(pipe, words), rows)
    assert not np.array_equal(draw(pipe, prompt=f"fox {token}"), draw(pipe, prompt="fox"))


def test_a_width_that_only_real_models_have(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "real.safetensors"
    save_file({"<cat-toy>": vectors(1, 768)[0]}, path)
    with pytest.raises(
        BridgeError, match="vectors of width 768, the model's text encoder reads 32"
    ):
        load_embedding(pipe, path)


def test_words_with_capitals_and_inside_longer_words(pipe: Pipe, tmp_path: Path) -> None:
    """Every vector is read: the tokenizer takes capitals away, and "bad-hands" begins as "bad"."""
    rows = vectors(6)
    for name, two in (("calm", rows[:2]), ("Easy", rows[:2]), ("bad-hands", rows[2:4]),
                      ("bad", rows[4:]), ("still", rows[2:4])):  # fmt: skip
        save_file({"emb_params": two.contiguous()}, tmp_path / f"{name}.safetensors")
        load_embedding(pipe, tmp_path / f"{name}.safetensors")

    def encoded(text: str) -> Tensor:
        return encode_english(pipe, [text], None).positive

    stock = pipe.encode_prompt("calm", "cpu", 1, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(encoded("calm"), stock)
    for text in ("Easy", "easy", "EASY"):
        assert torch.equal(encoded(text), encoded("calm"))
    assert torch.equal(encoded("(Easy:1.2) fox"), encoded("(calm:1.2) fox"))
    assert torch.equal(encoded("bad, bad-hands"), encoded("bad, still"))


@pytest.mark.parametrize("attached_first", [True, False])
def test_with_a_bridge(
    pipe: Pipe,
    new_release_bridge: Callable[[], Bridge],
    tmp_path: Path,
    attached_first: bool,
) -> None:
    """It acts on the English prompt and its negative, weighted or not, and on nothing else."""
    save_file({"emb_params": vectors(2)}, tmp_path / "mood.safetensors")
    bridge = new_release_bridge()
    branch, text = frozen(bridge.branch), frozen(bridge.text_encoder.model)
    if attached_first:
        bridge.attach(pipe)
    load_embedding(pipe, tmp_path / "mood.safetensors")
    if not attached_first:
        bridge.attach(pipe)
    drawn = {
        draw(pipe, **bridge.prompt("狐狸", **english)).tobytes()
        for english in (
            {},
            {"english": "mood"},
            {"english": "(mood:1.3)"},
            {"negative_english": "mood"},
            {"english": "mood mood"},
        )
    }
    assert len(drawn) == 5
    assert same(frozen(bridge.branch), branch)
    assert same(frozen(bridge.text_encoder.model), text)


def test_sdxl_has_a_pair(xl_pipe: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    pair = {"clip_l": vectors(2, 16), "clip_g": -vectors(2, 16)}
    save_file(pair, tmp_path / "mood.safetensors")
    assert load_embedding(xl_pipe, tmp_path / "mood.safetensors").vectors == 2
    assert torch.equal(rows_of(xl_pipe, ["mood", "mood_1"]), pair["clip_l"])
    assert torch.equal(rows_of(xl_pipe, ["mood", "mood_1"], "_2"), pair["clip_g"])
    assert not np.array_equal(draw(xl_pipe, prompt="mood"), draw(xl_pipe, prompt="fox"))
    numbered = {"text_encoders_0": vectors(1, 16), "text_encoders_1": vectors(1, 16)}
    save_file(numbered, tmp_path / "calm.safetensors")  # diffusers' newer training script
    assert load_embedding(xl_pipe, tmp_path / "calm.safetensors").token == "calm"
    assert torch.equal(rows_of(xl_pipe, ["calm"], "_2"), numbered["text_encoders_1"])


def refusal(pipe: Pipe, path: Path) -> str:
    before, words = frozen(pipe.text_encoder), len(pipe.tokenizer)
    with pytest.raises(BridgeError) as error:
        load_embedding(pipe, path)
    assert same(frozen(pipe.text_encoder), before)
    assert len(pipe.tokenizer) == words
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_family(pipe: Pipe, xl_pipe: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    path = tmp_path / "mood.safetensors"
    save_file({"clip_l": vectors(1), "clip_g": vectors(1)}, path)
    assert "made for SDXL, but the model is Stable Diffusion 1.5" in refusal(pipe, path)
    save_file({"clip_l": vectors(1, 16), "clip_g": vectors(2, 16)}, path)
    assert "differ in their number" in refusal(xl_pipe, path)
    save_file({"emb_params": vectors(1, 16)}, path)
    assert "SDXL, which has two text encoders" in refusal(xl_pipe, path)
    save_file({"emb_params": vectors(1, 1024)}, path)
    assert "made for Stable Diffusion 2" in refusal(pipe, path)


def test_files_that_are_none(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "mood.safetensors"
    assert "check the path" in refusal(pipe, path)
    assert "is a folder of unknown content, not a textual inversion" in refusal(pipe, tmp_path)
    save_file({"something.weight": vectors(2)}, path)
    assert "is a file of tensors of no known kind, not" in refusal(pipe, path)
    save_file({"lora_unet_x.lora_up.weight": vectors(2)}, path)
    assert "give it with --lora" in refusal(pipe, path)
    save_file({"emb_params": torch.zeros(1, 2, WIDTH)}, path)
    assert "shape (1, 2, 32)" in refusal(pipe, path)
    save_file({"emb_params": torch.zeros(2, WIDTH, dtype=torch.int64)}, path)
    assert "one vector, or a row of them" in refusal(pipe, path)
    save_file({"emb_params": vectors(2) / 0}, path)
    assert "holds NaN or infinity" in refusal(pipe, path)
    save_file({"emb_params": vectors(1), "more": vectors(1)}, path)
    assert "holds 2 tensors" in refusal(pipe, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "cut short" in refusal(pipe, path)


def test_a_pickle_with_code_is_not_executed(pipe: Pipe, tmp_path: Path) -> None:
    for number, content in enumerate(
        (Trap(tmp_path / "sprung"), a1111(vectors(1)) | {"name": Trap(tmp_path / "sprung")})
    ):
        torch.save(content, tmp_path / f"x{number}.pt")
        assert "was not executed" in refusal(pipe, tmp_path / f"x{number}.pt")
    assert not (tmp_path / "sprung").exists()


def test_words_that_cannot_be(pipe: Pipe, tmp_path: Path) -> None:
    """Taken by the model, or split by the prompt's own syntax."""
    known = next(w for w in pipe.tokenizer.get_vocab() if w.isalpha() and len(w) > 1)
    for name, words in ((known, "already knows"), ("a b", "no word"), ("x(1)", "no word")):
        path = tmp_path / f"{name}.safetensors"
        save_file({"emb_params": vectors(1)}, path)
        message = refusal(pipe, path)
        assert words in message or "cannot be a word" in message
    path = tmp_path / "mood.safetensors"
    save_file({"emb_params": vectors(1)}, path)
    load_embedding(pipe, path)
    assert "already knows the word 'mood'" in refusal(pipe, path)
