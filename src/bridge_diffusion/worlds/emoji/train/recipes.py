"""Sizes of the emoji world: complete settings by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.precision import fast_precision
from bridge_diffusion.worlds.emoji.concepts import (
    Concept,
    all_concepts,
    english_concepts,
    small_world,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOptions:
    """How long and how fast one stage trains."""

    images: int
    """Length of the stage, in images."""
    batch_size: int
    """Images a step."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    ema_decay: float = 0.999
    """Decay of the weights' average, per step."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up."""

    def loop(
        self, run_dir: Path, *, seed: int, device: str, time_limit: float | None
    ) -> LoopConfig:
        """The loop's configuration for this stage, in the format that the device is fast in."""
        return LoopConfig(
            run_dir=run_dir,
            images=self.images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_images=min(self.images // 20, 200 * self.batch_size),
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay,
            precision=fast_precision(device),
            seed=seed,
            log_every=max(self.batch_size, self.images // 200),
            sample_every=max(self.batch_size, self.images // 10),
            checkpoint_every=max(self.batch_size, self.images // 10),
            device=device,
            time_limit=time_limit,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldRecipe:
    """One size of the emoji world: pictures, networks, and the length of each stage."""

    name: str
    """What `--recipe` calls it."""
    size: int
    """Side of the square pictures, pixels."""
    factor: int
    """Pixels a latent, along a side."""
    concepts: Literal["small", "all"]
    """All 852 concepts, or the part that trains on two cores."""
    scenes: int
    """Scenes that are encoded once and trained on again and again."""
    autoencoder_width: int
    """Channels of the autoencoder."""
    autoencoder_crop: int
    """Side of the crops that the autoencoder trains on, pixels."""
    text_width: int
    """Width of the English and of the native text encoder."""
    text_layers: int
    """Layers of each text encoder."""
    window: int = 32
    """Tokens of one window of text."""
    vocabulary: int
    """Entries of the English tokenizer."""
    patch: int
    """Side of a patch of CLIP's image tower, pixels."""
    unet_widths: tuple[int, ...]
    """Channels of the UNet's levels, finest first."""
    unet_layers: int
    """Residual blocks a level."""
    stages: dict[str, StageOptions]
    """By stage: autoencoder, clip, unet, text; the branch has recipes of its own."""

    def english(self) -> tuple[Concept, ...]:
        """What the English world's UNet is trained to draw."""
        if self.concepts == "all":
            return english_concepts()
        return tuple(concept for concept in small_world("zh") if not concept.held_out)

    def bridged(self, language: str) -> tuple[Concept, ...]:
        """What a bridge is trained to draw."""
        return all_concepts() if self.concepts == "all" else small_world(language)


DEBUG = WorldRecipe(
    name="debug",
    size=32,
    factor=4,
    concepts="small",
    scenes=64,
    autoencoder_width=8,
    autoencoder_crop=16,
    text_width=96,
    text_layers=1,
    vocabulary=700,
    patch=8,
    unet_widths=(16, 32),
    unet_layers=1,
    stages={
        "autoencoder": StageOptions(images=64, batch_size=8, learning_rate=1e-3, weight_decay=0),
        "clip": StageOptions(images=64, batch_size=16, learning_rate=1e-3),
        "unet": StageOptions(images=64, batch_size=8, learning_rate=1e-3),
        "text": StageOptions(images=64, batch_size=16, learning_rate=1e-3),
    },
)

CPU = WorldRecipe(
    name="cpu",
    size=64,
    factor=4,
    concepts="small",
    scenes=40_000,
    autoencoder_width=48,
    autoencoder_crop=32,
    text_width=192,
    text_layers=4,
    vocabulary=3000,
    patch=8,
    unet_widths=(48, 96, 160),
    unet_layers=1,
    stages={
        "autoencoder": StageOptions(
            images=100_000, batch_size=64, learning_rate=1e-3, weight_decay=0, ema_decay=0.995
        ),
        "clip": StageOptions(images=60_000, batch_size=128, learning_rate=1e-3, ema_decay=0.99),
        "unet": StageOptions(images=460_000, batch_size=64, learning_rate=1e-3),
        "text": StageOptions(images=250_000, batch_size=256, learning_rate=5e-4),
    },
)

FULL = WorldRecipe(
    name="full",
    size=128,
    factor=8,
    concepts="all",
    scenes=300_000,
    autoencoder_width=64,
    autoencoder_crop=64,
    text_width=192,
    text_layers=4,
    vocabulary=3000,
    patch=16,
    unet_widths=(48, 96, 160),
    unet_layers=1,
    stages={
        "autoencoder": StageOptions(
            images=1_500_000, batch_size=128, learning_rate=1e-3, weight_decay=0
        ),
        "clip": StageOptions(images=2_000_000, batch_size=512, learning_rate=1e-3),
        "unet": StageOptions(
            images=15_000_000, batch_size=512, learning_rate=1e-3, ema_decay=0.9995
        ),
        "text": StageOptions(images=4_000_000, batch_size=1024, learning_rate=5e-4),
    },
)

RECIPES = {recipe.name: recipe for recipe in (DEBUG, CPU, FULL)}


def find_recipe(name: str) -> WorldRecipe:
    """The recipe of this name. BridgeError if there is none."""
    if name not in RECIPES:
        raise BridgeError(f"no world recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
