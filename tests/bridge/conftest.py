"""The paper's release at tiny size: its saved networks in stock pipelines of today."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.text import (
    RELEASE_ENCODING,
    EnglishEmbeddings,
    NativeEmbeddings,
    NativeTextEncoder,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "case-a-sd15"
WEIGHTS = GOLDEN / "weights"


@pytest.fixture(scope="session")
def given() -> dict[str, Tensor]:
    """Inputs of the reference runs."""
    return load_file(GOLDEN / "inputs.safetensors")


@pytest.fixture(scope="session")
def expected() -> dict[str, Tensor]:
    """What the release made of them."""
    return load_file(GOLDEN / "outputs.safetensors")


@pytest.fixture
def weights(reference_weights: Path) -> Path:
    return reference_weights


@pytest.fixture
def pipe(reference_weights: Path) -> StableDiffusionPipeline:
    """The reference's own parts in a stock pipeline."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(WEIGHTS / "vae"),
        unet=UNet2DConditionModel.from_pretrained(reference_weights / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(WEIGHTS / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def text_encoder() -> NativeTextEncoder:
    return NativeTextEncoder.from_pretrained(
        WEIGHTS / "native_text_encoder", RELEASE_ENCODING, tokenizer=WEIGHTS / "native_tokenizer"
    )


@pytest.fixture
def bridge(text_encoder: NativeTextEncoder) -> Bridge:
    """The published branch with its text encoder, not attached."""
    return Bridge.from_pretrained(WEIGHTS / "controlnet", text_encoder=text_encoder)


@pytest.fixture
def attached(bridge: Bridge, pipe: StableDiffusionPipeline) -> Bridge:
    """The bridge on `pipe`, whose scheduler is the one that it expects."""
    bridge.attach(pipe)
    pipe.scheduler = bridge.scheduler_for(pipe)
    return bridge


@pytest.fixture
def packed(attached: Bridge, given: dict[str, Tensor]) -> Callable[..., dict[str, Any]]:
    """Call arguments from the reference's embeddings: `packed("b1", scale=0.6)`."""

    def native(name: str) -> NativeEmbeddings:
        hidden = given[name]
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
        return NativeEmbeddings(hidden=hidden, mask=mask, pooled=None)

    def call(batch: str, **settings: float) -> dict[str, Any]:
        english = EnglishEmbeddings(
            positive=given[f"{batch}.en_pos"],
            negative=given[f"{batch}.en_neg"],
            pooled=None,
            negative_pooled=None,
        )
        pair = native(f"{batch}.native_pos"), native(f"{batch}.native_neg")
        return attached.pack_embeddings(*pair, english, **settings)

    return call
