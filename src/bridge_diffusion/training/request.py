"""What a user asks of `bdm train`, and the recipe that it comes to. Imports no torch."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import seconds_in
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
    """Backbone: a Stable Diffusion 1.5 folder, single file or hub name; the embedded world's if
    none is given."""
    text_encoder: str | None = None
    """Native text encoder: a Hugging Face folder or hub name, such as a Chinese-CLIP."""
    bridge: str | None = None
    """Start from the branch and the text encoder of this bridge instead of from the backbone."""
    recipe: str = "cpu"
    """Settings to start from: debug, cpu (two cores, embedded world), full (the same on a GPU), or
    sd15 (real Stable Diffusion 1.5 on a GPU)."""
    images: int | None = None
    """Length of the whole run, in images."""
    batch_size: int | None = None
    """Images that go through the nets at once."""
    accumulate: int | None = None
    """Batches of one step of the optimiser."""
    lr: float | None = None
    """Peak learning rate."""
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
    """Arithmetic of the nets: fp32 or bf16."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of the order, the noise and whatever starts fresh."""
    minutes: float | None = None
    """Minutes after which to save, export and end; the same command goes on."""
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
        if self.precision not in (None, "fp32", "bf16"):
            raise BridgeError(f"--precision is {self.precision!r}; choose fp32 or bf16")
        if (self.text_encoder is None) == (self.bridge is None):
            raise BridgeError(
                "give either --text-encoder, to start a new bridge, or --bridge, to train one "
                "further with its own text encoder"
            )
        if self.buckets and not self.cached:
            raise BridgeError(
                "--buckets needs pictures that are encoded once: leave --no-cached out"
            )
        for name in ("images", "batch_size", "accumulate", "limit"):
            if (count := getattr(self, name)) is not None and count < 1:
                flag = name.replace("_", "-")
                raise BridgeError(f"--{flag} is {count}, it must be 1 or more")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise BridgeError(f"--lr is {self.lr}, it must be above 0")
        seconds_in(self.minutes)

    def resolved(self) -> BranchRecipe:
        """The recipe with what the user changed. BridgeError for a value that is not allowed."""
        changes: dict[str, Any] = {
            "images": self.images,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "learning_rate": self.lr,
            "size": self.size,
            "limit": self.limit,
            "precision": self.precision,
            "cached": None if self.cached else False,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        recipe = dataclasses.replace(RECIPES[self.recipe], **given)
        if recipe.size is not None and recipe.size < 8:
            raise BridgeError(f"--size is {recipe.size}, it must be 8 or more")
        return recipe

    @property
    def data_specs(self) -> tuple[str, ...]:
        """The data sets, one or several."""
        return (self.data,) if isinstance(self.data, str) else self.data

    @property
    def cache_folder(self) -> Path:
        return self.cache if self.cache is not None else self.out.parent / "cache"
