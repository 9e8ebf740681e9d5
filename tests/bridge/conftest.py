"""The paper's release at tiny size: its saved networks in stock pipelines of today."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.text import (
    RELEASE_ENCODING,
    EnglishEmbeddings,
    NativeEmbeddings,
    NativeTextEncoder,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "case-a-sd15"


@pytest.fixture(scope="session")
def given() -> dict[str, Tensor]:
    """Inputs of the reference runs."""
    return load_file(GOLDEN / "inputs.safetensors")


@pytest.fixture(scope="session")
def expected() -> dict[str, Tensor]:
    """What the release made of them."""
    return load_file(GOLDEN / "outputs.safetensors")


@pytest.fixture
def text_encoder(reference_weights: Path) -> NativeTextEncoder:
    """Its tokenizer lies in a folder of its own, as in the release."""
    return NativeTextEncoder.from_pretrained(
        reference_weights / "native_text_encoder",
        RELEASE_ENCODING,
        tokenizer=reference_weights / "native_tokenizer",
    )


@pytest.fixture
def bridge(reference_weights: Path, text_encoder: NativeTextEncoder) -> Bridge:
    """The published branch with its text encoder, not attached."""
    return Bridge.from_pretrained(reference_weights / "controlnet", text_encoder=text_encoder)


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
