"""The options of a training run. Progress is counted in images, everywhere."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, get_args

from bridge_diffusion.errors import BridgeError

Schedule = Literal["constant", "cosine", "linear"]
SCHEDULES = get_args(Schedule)
TRACKERS = ("tensorboard", "wandb", "trackio")

#: What may differ when a run is continued; everything else decides the weights and is fixed.
FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "images",
        "time_limit",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep_checkpoints",
        "device",
        "progress",
        "trackers",
        # Their product alone decides the weights: `images_per_step`.
        "batch_size",
        "accumulate",
        "processes",
        "shard",
        "on_nan",
        "nan_limit",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """What the training loop needs to know; what is trained, and on what, is the task's."""

    run_dir: Path
    """Folder of the run: config.json, checkpoints/, samples/, tensorboard/, export/."""
    images: int
    """Length of the whole run, in images; resuming with a larger number goes on."""
    batch_size: int
    """Images of one `task.batch(index)`, which one process takes at once."""
    accumulate: int = 1
    """Batches of each process whose gradients are averaged into one step of the optimiser."""
    processes: int = 1
    """Processes that train together. A run may go on with other numbers of images at once, batches
    and processes, as long as their product stays the same."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    warmup_images: int = 0
    """Images over which the learning rate rises linearly from 0 to its peak."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: held, or down to 0 at `images`, a half cosine or a line."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW with moments in float32 (torch's fused one), or in 8 bits (that of bitsandbytes)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of matrices and kernels; biases and norms get none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments, per step."""
    grad_clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 switches clipping off."""
    ema_decay: float = 0.999
    """Decay of the weights' moving average, per step, after its warm-up; 0 switches it off."""
    shard: bool = False
    """Split weights, gradients, moments and average over the processes (FSDP), for branches that do
    not fit otherwise; not with adamw8bit. Checkpoints are whole all the same."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the loss; the trained weights and their average stay float32."""
    channels_last: bool = True
    """Keep convolution weights in channels-last memory order, which is faster for UNets; not with
    adamw8bit, which cannot."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do about a step whose gradient is not finite: end the run, or leave the step out."""
    nan_limit: int = 100
    """Steps that may be left out in the whole run before it ends nonetheless."""
    seed: int = 0
    """Seed of the noise, of dropout, and (by the task) of the batches."""
    log_every: int = 1_000
    """Images between two entries in the log; 0 is never."""
    sample_every: int = 0
    """Images between two sample grids; 0 is never (the last grid, at the end, excepted)."""
    checkpoint_every: int = 20_000
    """Images between two checkpoints; 0 is only at the end or when interrupted."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept; older ones are deleted."""
    time_limit: float | None = None
    """Seconds after which this call saves, exports and returns; None is no limit."""
    device: str = "cpu"
    """Torch device of the trained weights and the batches."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """What shows curves and samples beside run_dir/curves.jsonl: tensorboard, wandb, trackio."""
    progress: bool = True
    """Show progress on the terminal (a bar), or in a plain log (a line every 30 seconds)."""

    def __post_init__(self) -> None:
        at_least = {
            "images": 1,
            "batch_size": 1,
            "accumulate": 1,
            "processes": 1,
            "nan_limit": 0,
            "warmup_images": 0,
            "weight_decay": 0,
            "grad_clip": 0,
            "seed": 0,
            "log_every": 0,
            "sample_every": 0,
            "checkpoint_every": 0,
            "keep_checkpoints": 1,
        }
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise BridgeError(f"{name} is {getattr(self, name)}, it must be {least} or more")
        if not 0 < self.learning_rate < math.inf:
            raise BridgeError(f"learning_rate is {self.learning_rate}, it must be above 0")
        if not 0 <= self.ema_decay < 1:
            raise BridgeError(f"ema_decay is {self.ema_decay}, it must be from 0 (off) to below 1")
        if self.time_limit is not None and not self.time_limit > 0:
            raise BridgeError(f"time_limit is {self.time_limit} s, it must be above 0, or None")
        for name, allowed in (
            ("precision", ("fp32", "bf16")),
            ("schedule", SCHEDULES),
            ("on_nan", ("stop", "skip")),
            ("optimizer", ("adamw", "adamw8bit")),
        ):
            if getattr(self, name) not in allowed:
                raise BridgeError(
                    f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(allowed)}"
                )
        if unknown := [name for name in self.trackers if name not in TRACKERS]:
            raise BridgeError(f"no tracker {unknown[0]!r}; choose of {', '.join(TRACKERS)}")
        if self.shard and self.processes == 1:
            raise BridgeError(
                "there is nothing to shard in one process: start several with torchrun or "
                "accelerate launch, or leave --shard out"
            )
        if self.shard and self.optimizer != "adamw":
            raise BridgeError(f"--shard does not go with {self.optimizer}; take adamw")

    @property
    def images_per_step(self) -> int:
        """Images of one step of the optimiser, of all processes together: the global batch."""
        return self.batch_size * self.accumulate * self.processes

    def learning_rate_at(self, images: int) -> float:
        """Learning rate of the step that starts after `images` images."""
        done = images + self.images_per_step
        if done < self.warmup_images:
            return self.learning_rate * done / self.warmup_images
        if self.schedule == "constant":
            return self.learning_rate
        span = max(1, self.images - self.warmup_images)
        progress = min(1.0, max(0.0, (images - self.warmup_images) / span))
        if self.schedule == "linear":
            return self.learning_rate * (1 - progress)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json; the run's own folder is left out, so it may be moved."""
        values = dataclasses.asdict(self)
        del values["run_dir"]
        values["betas"] = list(self.betas)
        values["images_per_step"] = self.images_per_step
        return values


def seconds_in(minutes: float | None) -> float | None:
    """What `--minutes` comes to. BridgeError if that is no time."""
    if minutes is not None and not minutes > 0:
        raise BridgeError(f"--minutes is {minutes:g}, it must be above 0")
    return None if minutes is None else 60 * minutes


def check_stall_minutes(minutes: float) -> None:
    """BridgeError unless `--stall-minutes` is a time."""
    if not 0 < minutes < math.inf:
        raise BridgeError(f"--stall-minutes is {minutes:g}, it must be above 0")
