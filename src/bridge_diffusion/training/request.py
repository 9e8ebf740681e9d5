"""What a user asks of `bdm train`, and the recipe that it comes to. Imports no torch."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import (
    SCHEDULES,
    TRACKERS,
    check_stall_minutes,
    seconds_in,
)
from bridge_diffusion.training.recipes import RECIPES, BranchRecipe


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """A training run in the user's words."""

    data: str | tuple[str, ...]
    """Folder of pictures with .txt captions beside them, tars of them, a Hugging Face dataset, a
    folder that bdm data prepare wrote, or emoji:zh for the embedded world's scenes in a language.
    Given several times, they are mixed; ",weight=0.7" after each says its share."""
    out: Path
    """Folder of the run; the same command continues it."""
    model: str | None = None
    """Backbone: a Stable Diffusion 1.5 or SDXL folder, single file or hub name; the embedded
    world's if none is given."""
    text_encoder: str | tuple[str, ...] | None = None
    """Native text encoder: a Hugging Face folder or hub name, such as a Chinese-CLIP, or emoji:zh
    for the embedded world's; given several times, they read side by side, the first one's pooled
    vector going to SDXL."""
    bridge: str | None = None
    """Start from the branch of this bridge instead of from the backbone, and with its text encoder;
    with --text-encoder, from the branch alone, for another language."""
    recipe: str = "cpu"
    """Settings to start from: debug, cpu (two cores, embedded world), full (the same on a GPU),
    sd15 (real Stable Diffusion 1.5 on a GPU), or sdxl (real SDXL on a GPU of 80 GB)."""
    images: int | None = None
    """Length of the whole run, in images."""
    batch_size: int | None = None
    """Images that go through the nets at once, in each process."""
    accumulate: int | None = None
    """Batches of each process that make one step of the optimiser."""
    lr: float | None = None
    """Peak learning rate."""
    warmup_images: int | None = None
    """Images over which the learning rate rises from 0."""
    schedule: str | None = None
    """Learning rate after the warm-up: constant, cosine or linear."""
    caption_dropout: float | None = None
    """Part of the images whose caption is emptied, for guidance."""
    english_dropout: float | None = None
    """Part of the images whose English text is emptied while the native caption stays."""
    min_snr_gamma: float | None = None
    """Limit of the signal-to-noise ratio in the loss (5 is usual); no weights if none is given."""
    noise_offset: float | None = None
    """Deviation of what is added to the noise of a whole channel (0.05 is usual)."""
    lora_rank: int | None = None
    """Train LoRAs of this rank on the branch, merged in the export, instead of all its weights."""
    freeze: str = ""
    """Blocks of the branch that stay as they are, such as down_blocks.0,*.resnets.*"""
    size: int | None = None
    """Side of the square training pictures in pixels; the backbone's own size if none is given."""
    buckets: bool = False
    """Keep the pictures' aspects: shapes of about --size by --size pixels, a batch of one shape."""
    limit: int | None = None
    """Use only the first pairs of the data, as many."""
    cached: bool = True
    """Encode pictures and captions once, before training."""
    cache: Path | None = None
    """Folder of what is encoded once; `cache` beside the run's folder if none is given."""
    precision: str | None = None
    """Arithmetic of the nets: fp32, bf16, or auto: bf16 where the device has arithmetic for it."""
    frozen_precision: str | None = None
    """Precision of the backbone's weights while the branch trains: fp32, bf16, or auto: that of
    --precision."""
    log: str | None = None
    """Where curves are shown, separated by commas: tensorboard, wandb, trackio, or none; the run's
    folder always has them, and a report."""
    sample_prompt: tuple[str, ...] = ()
    """Native prompt of the sample grid, drawn from fixed seeds; may be repeated; captions of the
    data if none is given."""
    probe: int | None = None
    """Held-out scenes that are drawn and scored with each sample grid, where the data is emoji:…"""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of the order, the noise and whatever starts fresh."""
    minutes: float | None = None
    """Minutes after which to save, export and end; the same command goes on."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw, or adamw8bit, which keeps its moments in 8 bits (extra `8bit`): less memory."""
    shard: bool = False
    """Split weights, gradients and moments over the processes (FSDP), for large branches."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do about a step whose gradient is not finite: stop, or skip it and say so."""
    nan_limit: int = 100
    """Steps that --on-nan skip may skip in the whole run."""
    stall_minutes: float = 15.0
    """Minutes that processes which train together wait for one that does not answer."""
    language: str = ""
    """Languages of the captions for the model card, BCP 47, separated by commas."""
    licence: str = ""
    """Licence of the weights for the model card; that of --bridge, or unknown, if none is given."""
    training_data: str = ""
    """What the data is, for the model card; its name and size if nothing is given, after what
    --bridge says of its own."""

    def __post_init__(self) -> None:
        if not self.data:
            raise BridgeError("--data is missing; give a folder of pictures and .txt files")
        for spec in self.data_specs:
            DataSpec.parse(spec)
        if self.recipe not in RECIPES:
            raise BridgeError(
                f"there is no recipe {self.recipe!r}; choose one of {', '.join(RECIPES)}"
            )
        for flag, value in (
            ("precision", self.precision),
            ("frozen-precision", self.frozen_precision),
        ):
            if value not in (None, "fp32", "bf16", "auto"):
                raise BridgeError(f"--{flag} is {value!r}; choose fp32, bf16 or auto")
        if self.text_encoder is None and self.bridge is None:
            raise BridgeError(
                "give either --text-encoder, to start a new bridge, or --bridge, to train one "
                "further with its own text encoder, or both, to start from its branch alone"
            )
        if self.schedule not in (None, *SCHEDULES):
            raise BridgeError(f"--schedule is {self.schedule!r}; choose {', '.join(SCHEDULES)}")
        if unknown := [name for name in self.trackers or () if name not in TRACKERS]:
            raise BridgeError(
                f"--log has {unknown[0]!r}; choose of {', '.join(TRACKERS)}, with commas between, "
                "or none"
            )
        if self.buckets and not self.cached:
            raise BridgeError(
                "--buckets needs pictures that are encoded once: leave --no-cached out"
            )
        for name in ("images", "batch_size", "accumulate", "limit", "lora_rank", "probe"):
            if (count := getattr(self, name)) is not None and count < 1:
                flag = name.replace("_", "-")
                raise BridgeError(f"--{flag} is {count}, it must be 1 or more")
        parts = {"caption_dropout": 0.99, "english_dropout": 1.0, "noise_offset": 0.99}
        for name, most in parts.items():
            if (part := getattr(self, name)) is not None and not 0 <= part <= most:
                flag = name.replace("_", "-")
                raise BridgeError(f"--{flag} is {part:g}, it must be from 0 to {most:g}")
        if self.min_snr_gamma is not None and not 0 < self.min_snr_gamma < math.inf:
            raise BridgeError(f"--min-snr-gamma is {self.min_snr_gamma}, it must be above 0")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise BridgeError(f"--lr is {self.lr}, it must be above 0")
        if self.shard and (self.lora_rank or self.freeze):
            raise BridgeError(
                "--shard splits a whole branch over the processes; leave out --lora-rank and "
                "--freeze, whose few weights need no splitting"
            )
        seconds_in(self.minutes)
        check_stall_minutes(self.stall_minutes)

    def resolved(self) -> BranchRecipe:
        """The recipe with what the user changed. BridgeError for a value that is not allowed."""
        changes: dict[str, Any] = {
            "images": self.images,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "learning_rate": self.lr,
            "warmup_images": self.warmup_images,
            "schedule": self.schedule,
            "caption_dropout": self.caption_dropout,
            "english_dropout": self.english_dropout,
            "min_snr_gamma": self.min_snr_gamma,
            "noise_offset": self.noise_offset,
            "lora_rank": self.lora_rank,
            "freeze": _listed(self.freeze) or None,
            "probe_pictures": self.probe,
            "trackers": self.trackers,
            "size": self.size,
            "limit": self.limit,
            "precision": self.precision,
            "frozen_precision": self.frozen_precision,
            "cached": None if self.cached else False,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        recipe = dataclasses.replace(RECIPES[self.recipe], **given)
        if recipe.size is not None and recipe.size < 8:
            raise BridgeError(f"--size is {recipe.size}, it must be 8 or more")
        return recipe

    @property
    def trackers(self) -> tuple[str, ...] | None:
        """What --log names; nothing for "none", and None if it was not given."""
        return None if self.log is None else () if self.log == "none" else _listed(self.log)

    @property
    def data_specs(self) -> tuple[str, ...]:
        """The data sets, one or several."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @property
    def world_data(self) -> str | None:
        """The data if it is scenes of the emoji world alone, else None."""
        one = self.data_specs[0] if len(self.data_specs) == 1 else ""
        return one if one.startswith("emoji:") and "," not in one else None

    @property
    def cache_folder(self) -> Path:
        return self.cache if self.cache is not None else self.out.parent / "cache"


def _listed(text: str) -> tuple[str, ...]:
    """The words between the commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
