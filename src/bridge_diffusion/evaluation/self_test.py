"""How well the evaluator itself retrieves: held-out renderings of each vendor's drawings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bridge_diffusion.evaluation.evaluator import ImageTextEvaluator
from bridge_diffusion.evaluation.plan import scored_singles
from bridge_diffusion.evaluation.renderings import Damage, Renderings
from bridge_diffusion.evaluation.retrieval import ranks, top_k
from bridge_diffusion.training.seeds import stream_generator
from bridge_diffusion.worlds.emoji.concepts import all_concepts
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
            rows[name] = _changed(model, renderings, damage)
        result[sprites.vendor] = {
            name: {"top1": top_k(rank, 1).to_json(), "top5": top_k(rank, 5).to_json()}
            for name, rank in rows.items()
        }
    return result


def _clean(model: ImageTextEvaluator, sprites: Sprites) -> Int[Tensor, "pictures"]:
    scenes = [
        scene
        for concept in all_concepts()
        if concept.codepoints in model.row
        for scene in scored_singles(concept)
    ]
    pictures = [
        scene.render(sprites, 64, np.random.default_rng((_SEED, i)))
        for i, scene in enumerate(scenes)
    ]
    right = torch.tensor([model.row[scene.concepts[0].codepoints] for scene in scenes])
    return ranks(model.scores(pictures), right)


def _changed(
    model: ImageTextEvaluator, renderings: Renderings, damage: Damage
) -> Int[Tensor, "pictures"]:
    found = []
    for index in range(_BATCHES):
        generator = stream_generator(_SEED, index)
        pixels, labels = renderings.batch(_BATCH, generator, damage)
        with torch.no_grad():
            scores = model(pixels.to(model.texts.device)).cpu()
        found.append(ranks(scores, labels))
    return torch.cat(found)
