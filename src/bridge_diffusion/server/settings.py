"""What `bdm serve` is told, and the limits that hold for every request."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST_TOKEN = 16
# Days; a page that is open shows an upload for a while before it orders with it.
_SHORTEST_KEEP, _LONGEST_KEEP = 0.01, 36_500.0
MOST_REPLICAS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that one request, one client and all clients together may ask for."""

    side: int = 2048
    """Width and height of a picture, in pixels."""
    steps: int = 150
    """Denoising steps of a picture."""
    pictures: int = 16
    """Pictures of a job."""
    text: int = 4000
    """Characters of each prompt."""
    plugins: int = 8
    """LoRAs, embeddings, and ControlNets, of a job."""
    body: int = 32 * 2**20
    """Bytes of a request's body."""
    upload_pixels: int = 16 * 2**20
    """Pixels of an uploaded picture, decoded."""
    jobs_of_client: int = 200
    """Jobs of one client address that wait or are drawn."""
    jobs: int = 2000
    """Jobs of all clients that wait or are drawn."""
    listeners: int = 200
    """Open streams of events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """What the server is started with."""

    data: Path
    """The folder of the database, the pictures and the uploads."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 7860
    """The port to listen on; 0 takes a free one."""
    token: str = ""
    """What a client must show; needed for any address but loopback."""
    models: tuple[str, ...] = ()
    """Backbones beside the emoji world: folders, single files or hub names."""
    bridges: tuple[str, ...] = ()
    """Bridges for them: folders or hub names."""
    text_encoder: str | None = None
    """The native text encoder of bridges saved without one."""
    plugins: Path | None = None
    """The folder of LoRAs, embeddings, ControlNets, IP-Adapters and autoencoders."""
    engine: Literal["local", "ray"] = "local"
    """Who draws: processes of this machine, or replicas on a Ray cluster."""
    devices: tuple[str, ...] = ("auto",)
    """Where to compute: one worker process each."""
    replicas: int | None = None
    """How many replicas on Ray; as many as it has GPUs, or one on CPUs, if not given."""
    ray_address: str | None = None
    """The Ray cluster, "auto" or HOST:PORT; one of its own, on this machine, if not given."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """The number format."""
    offload: bool = False
    """Keep on the GPU only the part that is at work."""
    safety_checker: bool = True
    """Whether to keep a model's safety checker, where it has one."""
    batch: int = 8
    """The most pictures that are drawn in one batch."""
    stall: float = 900.0
    """Seconds without a sign of life after which a worker is ended and its jobs fail."""
    keep_uploads: float = 7.0
    """Days that an upload stays after its last use, while no job and no picture mentions it."""
    limits: Limits = field(default_factory=Limits)
    """What requests may ask for."""

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.token:
            raise BridgeError(
                f"--host {self.host} can be reached from other machines, so a token is needed: "
                "set BDM_TOKEN to a long random text, or listen on 127.0.0.1"
            )
        if self.token and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii()):
            raise BridgeError(
                f"the token has {len(self.token)} characters; give at least {SHORTEST_TOKEN}, "
                "of letters, digits and signs in ASCII"
            )
        if not 0 <= self.port <= 65535:
            raise BridgeError(f"--port is {self.port}; allowed: 0 to 65535")
        if not 1 <= self.batch <= 64:
            raise BridgeError(f"--batch is {self.batch}; allowed: 1 to 64")
        if not _SHORTEST_KEEP <= self.keep_uploads <= _LONGEST_KEEP:
            raise BridgeError(
                f"--keep-uploads is {self.keep_uploads:g} days; allowed: {_SHORTEST_KEEP:g} to "
                f"{_LONGEST_KEEP:g}"
            )
        if self.plugins is not None and not self.plugins.is_dir():
            raise BridgeError(f"--plugins {self.plugins} is no folder; check the path")
        if not self.devices:
            raise BridgeError("there is no device; give --device cpu, for example")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine == "ray":
            if self.devices != ("auto",):
                raise BridgeError(
                    "--device is for processes of this machine; with --engine ray, Ray chooses: "
                    "give --replicas"
                )
            if self.replicas is not None and not 1 <= self.replicas <= MOST_REPLICAS:
                raise BridgeError(f"--replicas is {self.replicas}; allowed: 1 to {MOST_REPLICAS}")
            return
        for flag, value in (("--replicas", self.replicas), ("--ray-address", self.ray_address)):
            if value is not None:
                raise BridgeError(f"{flag} needs --engine ray")
