"""What a user asks of `bdm data`. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from bridge_diffusion.data.filters import Filters
from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectRequest(Filters):
    """Looking at data, and at what filters would leave of it."""

    data: tuple[str, ...]
    """Folder of captioned pictures, tars of them, a Hugging Face dataset, or emoji:zh, each as
    bdm train takes it with its options."""
    out: Path | None = None
    """Folder for report.html, with pictures of what is dropped, and report.json."""
    limit: int | None = None
    """Look at only the first pairs of each data set, as many."""
    device: str = "auto"
    """Where --scorer runs: auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        Filters.__post_init__(self)
        for spec in self.data:
            DataSpec.parse(spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareRequest(Filters):
    """Filtering data and encoding it once, into shards that `bdm train` reads."""

    data: tuple[str, ...]
    """Folder of captioned pictures, tars of them, a Hugging Face dataset, or emoji:zh, each as
    bdm train takes it with its options, weights among them."""
    out: Path
    """New folder of the shards; the same command goes on where it was interrupted."""
    model: str | None = None
    """Backbone whose autoencoder encodes the pictures; the embedded world's if none is given."""
    text_encoder: str | tuple[str, ...] | None = None
    """Native text encoder that reads the captions: a Hugging Face folder or hub name; given
    several times, they read side by side."""
    bridge: str | None = None
    """Take the native text encoder of this bridge, to train it further."""
    size: int | None = None
    """Side of the square training pictures in pixels; the backbone's own size if none is given."""
    buckets: bool = False
    """Keep the pictures' aspects: shapes of about --size by --size pixels, a batch of one shape."""
    limit: int | None = None
    """Use only the first pairs of each data set, as many."""
    device: str = "auto"
    """Where to encode: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of the embedded world's scenes."""
    engine: str = "local"
    """Who does it: local, this process; ray, a Ray cluster."""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster's head, or auto for the one that this machine belongs to; Ray is
    started on this machine if none is given."""
    replicas: int | None = None
    """How many processes of --engine ray encode at once; one a GPU, or one without GPUs, if not
    given."""

    def __post_init__(self) -> None:
        Filters.__post_init__(self)
        for spec in self.data:
            DataSpec.parse(spec)
        if self.engine not in ENGINES:
            raise BridgeError(f"--engine is {self.engine!r}; there are {' and '.join(ENGINES)}")
        for name in ("ray_address", "replicas"):
            if self.engine != "ray" and getattr(self, name) is not None:
                raise BridgeError(f"--{name.replace('_', '-')} needs --engine ray")
        if self.replicas is not None and self.replicas < 1:
            raise BridgeError(f"--replicas is {self.replicas}, it must be 1 or more")
        if self.engine == "ray" and ":" in self.device:
            raise BridgeError(
                f"--device is {self.device}; Ray itself gives each process its GPU: cuda or auto"
            )
        if (self.text_encoder is None) == (self.bridge is None):
            raise BridgeError("give either --text-encoder, or --bridge to take that of a bridge")
