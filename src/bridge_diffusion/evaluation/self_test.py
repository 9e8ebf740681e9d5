"""How well the evaluator itself retrieves: held-out renderings of each vendor's drawings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from bridge_diffusion.evaluation.evaluator import ImageTextEvaluator
from bridge_diffusion.evaluation.plan import scored_singles
from bridge_diffusion.evaluation.renderings import Damage, Renderings
from bridge_diffusion.evaluation.retrieval import ranks, top_k
from bridge_diffusion.training.seeds import stream_generator
from bridge_diffusion.worlds.emoji.concepts import all_concepts
from bridge_diffusion.worlds.emoji.scenes import Scene
from bridge_diffusion.worlds.emoji.sprites import Sprites

_SEED = 20_260_711  # of no training stream
_BATCHES, _BATCH = 12, 142  # 1,704 changed renderings, two of each concept on average

#: As in training; and one stronger than anything in training.
DAMAGES = {
    "degraded": Damage(),
    "strongly_degraded": Damage(strength=1.7, softest=14, blur=2.0, jpeg_quality=10),
}


def measure_evaluator(model: ImageTextEvaluator, vendors: Sequence[Sprites]) -> dict[str, Any]:
    """Top-1 and top-5 among all the evaluator's concepts, by vendor and by damage.

    "clean" are the world's own scored scenes of one emoji, drawn without any change.
    """
    result: dict[str, Any] = {}
    for sprites in vendors:
        rows = {"clean": _clean(model, sprites)}
        renderings = Renderings([sprites], model.config.concepts)
        for name, damage in DAMAGES.items():
            rows[name] = ranks(*_changed(model, renderings, damage))
        result[sprites.vendor] = {
            name: {"top1": top_k(rank, 1).to_json(), "top5": top_k(rank, 5).to_json()}
            for name, rank in rows.items()
        }
    return result


def measure_styles(
    model: ImageTextEvaluator, styles: Sequence[Sprites], codepoints: Sequence[str]
) -> dict[str, Any]:
    """How often the evaluator of styles is right, by style and by damage.

    Args:
        codepoints: concepts whose drawings it was not trained on.
    """
    result: dict[str, Any] = {}
    concepts = [concept for concept in all_concepts() if concept.codepoints in codepoints]
    for sprites in styles:
        row = model.row[sprites.vendor]
        scenes = [scene for concept in concepts for scene in scored_singles(concept)]
        scores = {"clean": model.scores(_drawn(scenes, sprites))}
        renderings = Renderings([sprites], codepoints)
        for name, damage in DAMAGES.items():
            scores[name] = _changed(model, renderings, damage)[0]
        result[sprites.vendor] = {
            name: top_k(ranks(each, torch.full((len(each),), row)), 1).to_json()
            for name, each in scores.items()
        }
    return result


def _drawn(scenes: Sequence[Scene], sprites: Sprites) -> list[Image.Image]:
    return [
        scene.render(sprites, 64, np.random.default_rng((_SEED, i)))
        for i, scene in enumerate(scenes)
    ]


def _clean(model: ImageTextEvaluator, sprites: Sprites) -> Int[Tensor, "pictures"]:
    scenes = [
        scene
        for concept in all_concepts()
        if concept.codepoints in model.row
        for scene in scored_singles(concept)
    ]
    right = torch.tensor([model.row[scene.concepts[0].codepoints] for scene in scenes])
    return ranks(model.scores(_drawn(scenes, sprites)), right)


def _changed(
    model: ImageTextEvaluator, renderings: Renderings, damage: Damage
) -> tuple[Float[Tensor, "pictures names"], Int[Tensor, "pictures"]]:
    """Scores of changed renderings, and their labels."""
    scores, labels = [], []
    for index in range(_BATCHES):
        generator = stream_generator(_SEED, index)
        pixels, label = renderings.batch(_BATCH, generator, damage)
        with torch.no_grad():
            scores.append(model(pixels.to(model.texts.device)).cpu())
        labels.append(label)
    return torch.cat(scores), torch.cat(labels)
