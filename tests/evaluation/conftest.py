"""A pipeline and a bridge of the reference cases' tiny size, a small evaluator, real drawings."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.evaluation.evaluator import (
    EvaluatorConfig,
    ImageTextEvaluator,
    LoadedEvaluator,
)
from bridge_diffusion.evaluation.world import shipped_drawings
from bridge_diffusion.text import RELEASE_ENCODING, NativeTextEncoder
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept
from bridge_diffusion.worlds.emoji.sprites import Sprites

WEIGHTS = Path(__file__).parents[1] / "golden" / "case-a-sd15" / "weights"


@pytest.fixture
def pipe(reference_weights: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(WEIGHTS / "vae"),
        unet=UNet2DConditionModel.from_pretrained(reference_weights / "unet"),
        text_encoder=CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(WEIGHTS / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture
def make_bridge() -> Callable[[], Bridge]:
    """A published branch with its text encoder, anew at each call, not attached."""

    def make() -> Bridge:
        encoder = NativeTextEncoder.from_pretrained(
            WEIGHTS / "native_text_encoder",
            RELEASE_ENCODING,
            tokenizer=WEIGHTS / "native_tokenizer",
        )
        return Bridge.from_pretrained(WEIGHTS / "controlnet", text_encoder=encoder)

    return make


@pytest.fixture
def bridge(make_bridge: Callable[[], Bridge]) -> Bridge:
    return make_bridge()


@pytest.fixture(scope="session")
def drawings() -> Sprites:
    return shipped_drawings()


@pytest.fixture
def untrained() -> Callable[[Sequence[Concept]], LoadedEvaluator]:
    """An evaluator of some concepts, with drawn weights."""

    def make(concepts: Sequence[Concept]) -> LoadedEvaluator:
        torch.manual_seed(0)
        config = EvaluatorConfig(
            concepts=tuple(concept.codepoints for concept in concepts),
            feature_width=8,
            stem_width=4,
            widths=(4, 8),
            depths=(1, 1),
        )
        return LoadedEvaluator(model=ImageTextEvaluator(config).eval(), accuracy={})

    return make


@pytest.fixture(scope="session")
def concepts() -> tuple[Concept, ...]:
    """Two literal probes, the second without a Chinese synonym, and two shared concepts."""
    return tuple(find_concept(name) for name in ("red envelope", "white flower", "dog", "lime"))
