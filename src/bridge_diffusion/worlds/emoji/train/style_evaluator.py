"""Training of the evaluator of styles: in whose style is a picture drawn? On drawings alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bridge_diffusion.evaluation.evaluator import EvaluatorConfig, ImageTextEvaluator
from bridge_diffusion.evaluation.renderings import Renderings
from bridge_diffusion.evaluation.self_test import measure_styles
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.worlds.emoji.concepts import shipped_concepts
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.styles import STYLES, style_sprites
from bridge_diffusion.worlds.emoji.train.evaluator import EvaluatorTask

_KEPT_OUT = 5  # every fifth concept is kept for measuring: it must know styles, not drawings


class StyleEvaluatorTask(EvaluatorTask):
    """Pictures against the names of all styles; every fifth concept is absent."""

    def __init__(
        self,
        model: ImageTextEvaluator,
        styles: Sequence[Sprites],
        *,
        batch_size: int,
        seed: int,
        details: dict[str, Any],
    ):
        codepoints = [concept.codepoints for concept in shipped_concepts()]
        self.kept_out = codepoints[::_KEPT_OUT]
        trained = [code for code in codepoints if code not in self.kept_out]
        self.model, self.vendors = model, styles
        self.renderings = Renderings(styles, trained, label="vendor")
        self.batch_size, self.seed, self.details = batch_size, seed, details

    def measure(self) -> dict[str, Any]:
        return measure_styles(self.model, self.vendors, self.kept_out)


def new_style_evaluator() -> ImageTextEvaluator:
    """Untrained, a quarter of a MiB in float16."""
    return ImageTextEvaluator(
        EvaluatorConfig(
            concepts=STYLES,
            feature_width=32,
            stem_width=16,
            widths=(24, 40, 64),
            depths=(1, 1, 1),
        )
    )


def train_style_evaluator(
    run_dir: Path,
    *,
    images: int = 60_000,
    device: str = "cpu",
    seed: int = 0,
    time_limit: float | None = None,
) -> TrainResult:
    """Train the shipped evaluator of styles, on the shipped drawings.

    Raises:
        BridgeError: the run folder holds another run.
    """
    config = LoopConfig(
        run_dir=run_dir,
        images=images,
        batch_size=64,
        learning_rate=3e-3,
        warmup_images=min(2_000, images // 10),
        schedule="cosine",
        weight_decay=0.02,
        ema_decay=0.99,
        precision="bf16",
        seed=seed,
        log_every=3_200,
        checkpoint_every=12_800,
        device=device,
        time_limit=time_limit,
    )
    details = {
        "trained_on": "shipped drawings of Noto Color Emoji and Twemoji, and the former as prints "
        "in one ink, changed at random, every fifth concept left out; no generated picture and no "
        "part of a generator",
        "images": images,
        "licence": "Apache-2.0; the drawings: OFL-1.1 (Noto), CC-BY-4.0 (Twemoji)",
    }
    torch.manual_seed(seed)
    task = StyleEvaluatorTask(
        new_style_evaluator(),
        [style_sprites(style) for style in STYLES],
        batch_size=config.batch_size,
        seed=seed,
        details=details,
    )
    return train(task, config, {"evaluator": details})
