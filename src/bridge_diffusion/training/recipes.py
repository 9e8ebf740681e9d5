"""Named recipes for training a branch. A run is a recipe with few changes on the command line."""

from dataclasses import dataclass, replace
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import Schedule
from bridge_diffusion.training.precision import fast_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRecipe:
    """All settings of a branch's training that do not depend on the files it is given."""

    images: int
    """Length of the run, in images."""
    batch_size: int
    """Images that go through the nets at once."""
    accumulate: int = 1
    """Batches of one step of the optimiser."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    warmup_images: int = 0
    """Images over which the learning rate rises from 0."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: held, or down to 0 as a half cosine or in a line."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    ema_decay: float = 0.999
    """Decay of the weights' moving average, per step."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of the nets; auto: bf16 where the device has arithmetic for it, else fp32."""
    frozen_precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the backbone's weights, which stay as they are; bf16 saves half their memory.
    auto: as `precision`."""
    size: int | None = None
    """Side of the square training pictures in pixels; None: the size of the backbone's own."""
    limit: int | None = None
    """Only the first pairs of the data, as many; None: all."""
    cached: bool = True
    """Encode pictures and captions once, before training, and keep them on the disk."""
    caption_dropout: float = 0.1
    """Part of the images whose caption is ""."""
    english_dropout: float = 0.0
    """Part of the images whose English text is emptied while the native caption stays."""
    noise_offset: float = 0.0
    """Deviation of what is added to the noise of a whole channel; 0: nothing."""
    lora_rank: int | None = None
    """Train LoRAs of this rank in place of the weights copied from the backbone; None: all."""
    freeze: tuple[str, ...] = ()
    """Blocks and weights of the branch that stay as they are, by name or pattern."""
    min_snr_gamma: float | None = None
    """Limit of the signal-to-noise ratio in the loss; None: no weighting."""
    timestep_logit_mean: float | None = None
    """Mean of the logit of t/T, whose deviation is 1; None: timesteps are drawn uniformly."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    export_precision: Literal["fp16", "fp32"] = "fp16"
    """Precision of the exported branch."""
    sample_pictures: int = 8
    """Pictures of the sample grid, one a caption of the data; 0: no grid."""
    sample_steps: int = 20
    """Sampler steps of the sample grid."""
    sample_guidance: float = 7.5
    """Guidance scale of the sample grid."""
    probe_pictures: int = 0
    """Pictures of held-out scenes that are drawn and scored with each sample grid; 0: none."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves and samples are shown beside the run's folder: tensorboard, wandb, trackio."""
    log_every: int = 1_000
    """Images between two entries in the log."""
    sample_every: int = 20_000
    """Images between two sample grids."""
    checkpoint_every: int = 20_000
    """Images between two checkpoints."""

    def on(self, device: str) -> "BranchRecipe":
        """The recipe with what "auto" means on a device.

        BridgeError if the backbone's weights were in another format than the arithmetic.
        """
        precision = fast_precision(device) if self.precision == "auto" else self.precision
        frozen = precision if self.frozen_precision == "auto" else self.frozen_precision
        if frozen == "bf16" and precision == "fp32":
            raise BridgeError(
                "--frozen-precision bf16 needs --precision bf16, here it is fp32: give both or "
                "neither"
            )
        return replace(self, precision=precision, frozen_precision=frozen)


DEBUG = BranchRecipe(
    images=64,
    batch_size=4,
    learning_rate=1e-3,
    warmup_images=16,
    ema_decay=0.9,
    limit=16,
    min_snr_gamma=5.0,
    export_precision="fp32",
    sample_pictures=2,
    sample_steps=2,
    log_every=16,
    sample_every=32,
    checkpoint_every=32,
)
"""Seconds on one core: does the whole way work?"""

CPU = BranchRecipe(
    images=460_000,
    batch_size=64,
    learning_rate=1e-3,
    warmup_images=5_000,
    schedule="cosine",
    precision="auto",
    limit=80_000,
    timestep_logit_mean=0.5,
    sample_guidance=4.0,
)
"""The embedded world at 64 pixels on two cores; an hour."""

FULL = BranchRecipe(
    images=12_000_000,
    batch_size=512,
    learning_rate=3e-4,
    warmup_images=200_000,
    schedule="cosine",
    ema_decay=0.9995,
    precision="auto",
    limit=1_000_000,
    timestep_logit_mean=0.5,
    sample_guidance=4.0,
    log_every=20_000,
    sample_every=1_000_000,
    checkpoint_every=1_000_000,
)
"""The embedded world at 128 pixels on one GPU."""

SD15 = BranchRecipe(
    images=10_000_000,
    batch_size=32,
    accumulate=8,
    learning_rate=1e-5,
    warmup_images=100_000,
    ema_decay=0.9995,
    precision="auto",
    frozen_precision="auto",
    gradient_checkpointing=True,
    log_every=10_000,
    sample_every=200_000,
    checkpoint_every=200_000,
)
"""Stable Diffusion 1.5 with the paper's learning rate (arXiv 2309.00952, section 4), on one GPU.

The paper's batch is 3200 and its data a billion pairs: raise `accumulate` and `images` with yours.
"""

SDXL = replace(SD15, batch_size=8, accumulate=32, sample_pictures=4, sample_guidance=5.0)
"""SDXL at its own 1024 pixels, otherwise as `sd15`; the guidance is the stock pipeline's.

For one GPU of 80 GB, by arithmetic (docs/training.md); on several smaller ones give `--shard`,
which leaves each a part of the branch's weights, gradients, moments and average.
"""

RECIPES: dict[str, BranchRecipe] = {
    "debug": DEBUG,
    "cpu": CPU,
    "full": FULL,
    "sd15": SD15,
    "sdxl": SDXL,
}
