"""The reference case's bridge, a small evaluator, real drawings."""

from collections.abc import Callable, Sequence

import pytest
import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.evaluation.evaluator import (
    EvaluatorConfig,
    ImageTextEvaluator,
    LoadedEvaluator,
)
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept
from bridge_diffusion.worlds.emoji.sprites import Sprites


@pytest.fixture
def bridge(new_release_bridge: Callable[[], Bridge]) -> Bridge:
    return new_release_bridge()


@pytest.fixture(scope="session")
def drawings() -> Sprites:
    return Sprites.shipped("noto")


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
