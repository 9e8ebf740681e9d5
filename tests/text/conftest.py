"""Tiny text encoders and pipelines: those of the reference cases, and random ones."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from tiny_models import save_bert
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from bridge_diffusion.text import RELEASE_ENCODING, NativeTextEncoder

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = GOLDEN / "case-a-sd15" / "weights"
CASE_B = GOLDEN / "case-b-prompts"


@pytest.fixture(scope="session")
def cases() -> dict:
    return json.loads((CASE_B / "prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def expected() -> dict[str, torch.Tensor]:
    return load_file(CASE_B / "outputs.safetensors")


@pytest.fixture(scope="session")
def release_encoder(chinese_clip_folder) -> NativeTextEncoder:
    return NativeTextEncoder.from_pretrained(chinese_clip_folder, RELEASE_ENCODING)


@pytest.fixture(scope="session")
def encoder(chinese_clip_folder) -> NativeTextEncoder:
    """The same weights, encoded our way."""
    return NativeTextEncoder.from_pretrained(chinese_clip_folder)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), [*"红包狐狸雪地", "fox", "snow"], layers=2)


@pytest.fixture(scope="session")
def xlm_roberta_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xlm-roberta")
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"ثعلبظرفأحم▁fox", "<mask>"]
    pieces = [(word, -float(i)) for i, word in enumerate(dict.fromkeys(words))]
    raw = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    config = XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    XLMRobertaModel(config, add_pooling_layer=True).save_pretrained(folder)
    XLMRobertaTokenizer(tokenizer_object=raw, vocab=pieces).save_pretrained(folder)
    return folder


@pytest.fixture
def sd_pipe() -> StableDiffusionPipeline:
    """The text half of the reference cases' pipeline; the rest is not needed here."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"),
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture
def sdxl_pipe() -> StableDiffusionXLPipeline:
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    tokenizer_2 = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", pad_token="!")
    config = CLIPTextConfig(
        vocab_size=880,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=24,
        bos_token_id=878,
        eos_token_id=879,
    )
    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=None,
        scheduler=None,
    )
