"""What a user asks of `bdm train-text`. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import check_stall_minutes, seconds_in

NEW_TOWER = "new"
"""In place of a folder: an image tower without weights, to be trained."""

PAIRS_OF_STEP = 256
"""Where the user names no batch size, and where there are as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTrainRequest:
    """Training or adapting a native text encoder, in the user's words."""

    out: Path
    """Folder of the run; the same command continues it. The text encoder is in OUT/export."""
    data: str | None = None
    """Learn from pictures: a folder of them with .txt captions beside them, or emoji:zh."""
    image_tower: str | None = None
    """CLIP or Chinese-CLIP folder whose image tower the captions of --data are matched with; or
    new, for a small one that is trained beside the text encoder: enough for drawings, no match for
    a CLIP on photographs."""
    train_image_tower: bool = False
    """Train the image tower too, instead of leaving it as it is; a new one always is."""
    parallel: Path | None = None
    """Learn from translations: a text file, each line English (or with --bridge the bridge's own
    language), a tab, and the native text."""
    teacher: str | None = None
    """The text encoder that reads the English of --parallel, a folder or hub name: CLIP, Stable
    Diffusion's, or a BERT-like one; emoji:en and emoji:zh are the embedded world's own."""
    bridge: str | None = None
    """Speak to the branch of this bridge, which stays as it is: it shall read the native text of
    --parallel as it reads what precedes the tab. A folder, a hub name, or zh for the embedded
    world's; the result is a bridge."""
    model: str | None = None
    """Backbone that the branch of --bridge draws beside: a Stable Diffusion 1.5 folder, single file
    or hub name; the embedded world's if none is given."""
    language: str = ""
    """Language of the native text for the new bridge's model card, BCP 47; with --bridge."""
    start: str | None = None
    """Text encoder to start from: a Hugging Face folder or hub name, or an earlier export; a new
    one with its own tokenizer if none is given."""
    width: int | None = None
    """Width of a new text encoder, a multiple of 16; 256 if none is given, and with --bridge what
    its branch reads."""
    layers: int = 4
    """Layers of a new text encoder."""
    vocabulary: int = 8000
    """Entries of a new tokenizer, about."""
    window: int | None = None
    """Tokens that the encoder will read at once, start and end included; 52, or what an earlier
    export says, if none is given."""
    images: int = 500_000
    """Length of the whole run, in pairs."""
    batch_size: int | None = None
    """Pairs of a step in each process; pictures are told from all others of their step, so more is
    better. 256, or all pairs where there are fewer, if none is given."""
    lr: float | None = None
    """Peak learning rate; 5e-4 for a new text encoder and 5e-5 for another if none is given."""
    hold_out: float = 0.02
    """Part of the pairs, at most 1000, that is kept for OUT/export/retrieval.json."""
    limit: int | None = None
    """Use only the first pairs of the data, as many."""
    cached: bool = True
    """Encode what stays the same (frozen image tower, teacher) once, before training."""
    cache: Path | None = None
    """Folder of what is encoded once; `cache` beside the run's folder if none is given."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the nets."""
    export_precision: Literal["fp16", "fp32"] = "fp32"
    """Precision of the exported text encoder."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of the order, of dropout and of a new text encoder's weights."""
    minutes: float | None = None
    """Minutes after which to save, export and end; the same command goes on."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw, or adamw8bit, which keeps its moments in 8 bits (extra `8bit`): less memory."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do about a step whose gradient is not finite: stop, or skip it and say so."""
    nan_limit: int = 100
    """Steps that --on-nan skip may skip in the whole run."""
    stall_minutes: float = 15.0
    """Minutes that processes which train together wait for one that does not answer."""

    def __post_init__(self) -> None:
        pictures = (self.data is not None, self.image_tower is not None)
        teachers = (self.teacher is not None, self.bridge is not None)
        texts = (self.parallel is not None, any(teachers))
        if any(pictures) == any(texts) or not (all(pictures) or all(texts)) or all(teachers):
            raise BridgeError(
                "give either --data and --image-tower, to learn from pictures, or --parallel and "
                "--teacher, to learn from translations, or --parallel and --bridge, to speak to a "
                "bridge's branch"
            )
        if self.bridge is None and (self.model is not None or self.language):
            option = "--language" if self.model is None else "--model"
            raise BridgeError(f"{option} is for --bridge, which is missing; give both or neither")
        if self.bridge is not None and self.width is not None:
            raise BridgeError("--bridge says how wide the text encoder is: leave out --width")
        if self.image_tower == NEW_TOWER:
            object.__setattr__(self, "train_image_tower", True)
        if self.train_image_tower and not all(pictures):
            raise BridgeError("--train-image-tower needs --data and --image-tower")
        for name, allowed in (
            ("precision", ("fp32", "bf16")),
            ("export_precision", ("fp16", "fp32")),
        ):
            if getattr(self, name) not in allowed:
                raise BridgeError(
                    f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(allowed)}"
                )
        if not 0 <= self.hold_out < 1:
            raise BridgeError(f"hold_out is {self.hold_out}, it must be from 0 to below 1")
        seconds_in(self.minutes)
        check_stall_minutes(self.stall_minutes)
        for name in ("layers", "vocabulary", "limit"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise BridgeError(f"{name} is {count}, it must be 1 or more")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        if self.lr is not None:
            return self.lr
        return 5e-4 if self.start is None else 5e-5

    @property
    def largest_batch(self) -> int:
        """Pairs of a step in each process, where there are enough of them."""
        return PAIRS_OF_STEP if self.batch_size is None else self.batch_size

    @property
    def new_width(self) -> int:
        """Width of a new text encoder that no branch has to read."""
        return 256 if self.width is None else self.width

    @property
    def cache_folder(self) -> Path:
        """Where features are kept."""
        return self.cache if self.cache is not None else self.out.parent / "cache"
