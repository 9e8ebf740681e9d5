"""Training of the emoji world's independent evaluator, on vendors' drawings alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bridge_diffusion.evaluation.evaluator import EvaluatorConfig, ImageTextEvaluator
from bridge_diffusion.evaluation.renderings import Damage, Renderings
from bridge_diffusion.evaluation.self_test import measure_evaluator
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.precision import fast_precision
from bridge_diffusion.training.seeds import stream_generator
from bridge_diffusion.training.task import Batch
from bridge_diffusion.worlds.emoji.concepts import all_concepts
from bridge_diffusion.worlds.emoji.sprites import Sprites

_TRAINING, _CALIBRATION = 2, 3  # positions of the random streams of a seed; the loop has 0 and 1
_CALIBRATION_BATCHES = 40  # for the batch norms' statistics under the averaged weights


class EvaluatorTask:
    """Pictures against the texts of all concepts, softmax cross-entropy (CLIP's, all classes)."""

    damage = Damage()

    def __init__(
        self,
        model: ImageTextEvaluator,
        vendors: Sequence[Sprites],
        *,
        batch_size: int,
        seed: int,
        details: dict[str, Any],
    ):
        self.model, self.vendors = model, vendors
        self.renderings = Renderings(vendors, model.config.concepts)
        self.batch_size, self.seed, self.details = batch_size, seed, details

    @property
    def module(self) -> nn.Module:
        return self.model

    def batch(self, index: int) -> Batch:
        generator = stream_generator(self.seed, _TRAINING, index)
        pixels, labels = self.renderings.batch(self.batch_size, generator, self.damage)
        return {"pixels": pixels.to(memory_format=torch.channels_last), "labels": labels}

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        logits = self.model(batch["pixels"]).float()
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=0.05)
        return {"loss": loss, "top1": (logits.argmax(dim=1) == batch["labels"]).float().mean()}

    def samples(self) -> Image.Image | None:
        return None

    def export(self, folder: Path) -> None:
        self._calibrate()
        self.model.save(folder, {**self.details, "accuracy": self.measure()})

    def measure(self) -> dict[str, Any]:
        """What the evaluator gets right of renderings that it was not trained on."""
        return measure_evaluator(self.model, self.vendors)

    def _calibrate(self) -> None:
        """Re-estimate the batch norms' statistics: the loop averages weights, not buffers."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        kept = [(norm, norm.momentum) for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self.model.train()
        device = self.model.texts.device
        for index in range(_CALIBRATION_BATCHES):
            generator = stream_generator(self.seed, _CALIBRATION, index)
            self.model(self.renderings.batch(self.batch_size, generator, self.damage)[0].to(device))
        self.model.eval()
        for norm, momentum in kept:
            norm.momentum = momentum


def train_evaluator(run_dir: Path, *, images: int = 500_000, device: str = "cpu") -> TrainResult:
    """Train the shipped evaluator: all 852 concepts, drawings of Noto and Twemoji.

    Raises:
        BridgeError: the artwork packages are not installed, or the run folder holds another run.
    """
    codepoints = tuple(concept.codepoints for concept in all_concepts())
    vendors = [Sprites.draw(vendor, codepoints, 96) for vendor in ("noto", "twemoji")]
    config = LoopConfig(
        run_dir=run_dir,
        images=images,
        batch_size=128,
        learning_rate=3e-3,
        warmup_images=5_000,
        schedule="cosine",
        weight_decay=0.02,
        ema_decay=0.99,
        precision=fast_precision(device),
        log_every=5_120,
        checkpoint_every=25_600,
        device=device,
    )
    details = {
        "trained_on": "drawings of Noto Color Emoji and Twemoji, changed at random; no generated "
        "picture and no part of a generator",
        "images": images,
        "languages": ["en"],
        "licence": "Apache-2.0; the drawings: OFL-1.1 (Noto), CC-BY-4.0 (Twemoji)",
    }
    torch.manual_seed(config.seed)
    task = EvaluatorTask(
        ImageTextEvaluator(EvaluatorConfig(concepts=codepoints)),
        vendors,
        batch_size=config.batch_size,
        seed=config.seed,
        details=details,
    )
    return train(task, config, {"evaluator": details})
