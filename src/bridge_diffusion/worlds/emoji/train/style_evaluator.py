"""Training of the evaluator of styles: in whose style is a picture drawn? On drawings alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bridge_diffusion.evaluation.evaluator import EvaluatorConfig, ImageTextEvaluator
from bridge_diffusion.evaluation.renderings import Damage, Renderings
from bridge_diffusion.evaluation.self_test import measure_styles
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.precision import fast_precision
from bridge_diffusion.worlds.emoji.concepts import all_concepts, shipped_concepts
from bridge_diffusion.worlds.emoji.sprites import SHIPPED_VENDORS, Sprites
from bridge_diffusion.worlds.emoji.styles import STYLES, comics, prints
from bridge_diffusion.worlds.emoji.train.evaluator import EvaluatorTask

_UNSEEN = 5  # every fifth of the other concepts is measured too: are styles known, or drawings?
_SIDE = 64  # pixels of the drawings, as of the shipped ones


class StyleEvaluatorTask(EvaluatorTask):
    """Pictures against the names of all styles."""

    damage = Damage(strength=0.5, softest=32, blur=0.9, jpeg_quality=50)

    def __init__(
        self,
        model: ImageTextEvaluator,
        styles: Sequence[Sprites],
        *,
        known: Sequence[str],
        unseen: Sequence[str],
        batch_size: int,
        seed: int,
        details: dict[str, Any],
    ):
        """`known`: code points of the concepts to train on; `unseen`: of others, for measuring."""
        self.model, self.vendors = model, styles
        self.known, self.unseen = known, unseen
        self.renderings = Renderings(styles, known, label="vendor")
        self.batch_size, self.seed, self.details = batch_size, seed, details

    def measure(self) -> dict[str, Any]:
        return {
            "known drawings": measure_styles(self.model, self.vendors, self.known),
            "unseen drawings": measure_styles(self.model, self.vendors, self.unseen),
        }


def new_style_evaluator() -> ImageTextEvaluator:
    """Untrained; less than half a MiB in float16."""
    return ImageTextEvaluator(
        EvaluatorConfig(
            concepts=STYLES,
            feature_width=32,
            stem_width=16,
            widths=(32, 64, 80),
            depths=(1, 1, 1),
        )
    )


def train_style_evaluator(
    run_dir: Path,
    *,
    images: int = 250_000,
    device: str = "cpu",
    seed: int = 0,
    time_limit: float | None = None,
) -> TrainResult:
    """Train the shipped evaluator of styles, on the concepts whose scenes are scored.

    Raises:
        BridgeError: the artwork packages are not installed, or the run folder holds another run.
    """
    known = [concept.codepoints for concept in shipped_concepts()]
    unseen = [c.codepoints for c in all_concepts() if c.codepoints not in known][::_UNSEEN]
    noto, twemoji = (Sprites.draw(vendor, known + unseen, _SIDE) for vendor in SHIPPED_VENDORS)
    config = LoopConfig(
        run_dir=run_dir,
        images=images,
        batch_size=64,
        learning_rate=3e-3,
        warmup_images=min(2_000, images // 10),
        schedule="cosine",
        weight_decay=0.02,
        ema_decay=0.99,
        precision=fast_precision(device),
        seed=seed,
        log_every=3_200,
        checkpoint_every=12_800,
        device=device,
        time_limit=time_limit,
    )
    details = {
        "trained_on": "drawings of Noto Color Emoji and Twemoji, and the former as prints in one "
        "ink and as comics, changed at random; no generated picture and no part of a generator",
        "images": images,
        "licence": "Apache-2.0; the drawings: OFL-1.1 (Noto), CC-BY-4.0 (Twemoji)",
    }
    torch.manual_seed(seed)
    task = StyleEvaluatorTask(
        new_style_evaluator(),
        [noto, twemoji, prints(noto), comics(noto)],
        known=known,
        unseen=unseen,
        batch_size=config.batch_size,
        seed=seed,
        details=details,
    )
    return train(task, config, {"evaluator": details})
