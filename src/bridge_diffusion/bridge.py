"""A bridge: a branch and its native text encoder, attached to a stock diffusers pipeline."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.backbone import BackboneHooks
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.models.config import (
    FAMILY_NAMES,
    BridgeConfig,
    Family,
    family_of,
    model_card,
    published_config,
)
from bridge_diffusion.models.convert import read_branch
from bridge_diffusion.models.folder import (
    BRANCH_FOLDER,
    BRIDGE_FILE,
    CARD_FILE,
    TEXT_FOLDER,
    bridge_folder,
    published_branch_folder,
)
from bridge_diffusion.models.pack import Segment
from bridge_diffusion.prompting import (
    EncodedPart,
    PromptPart,
    Texts,
    pack_together,
    prompt_together,
)
from bridge_diffusion.reading import read_json
from bridge_diffusion.text import EnglishEmbeddings, NativeEmbeddings, NativeTextEncoder
from bridge_diffusion.text.families import model_folders
from bridge_diffusion.writing import clear_write_errors

__all__ = [
    "BRANCH_FOLDER",
    "BRIDGE_FILE",
    "Bridge",
    "BridgeConfig",
    "bridge_folder",
    "published_branch_folder",
]

# Settings of the UNet that a branch shares with every backbone that it fits.
_ARCHITECTURE = (
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "transformer_layers_per_block",
    "use_linear_projection",
)
# And of SDXL's: the branch reads the backbone's size numbers.
_ADDED = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")


class Bridge:
    """Native-language prompts for a stock pipeline.

        bridge = Bridge.from_pretrained(folder)
        bridge.attach(pipe)
        image = pipe(**bridge.prompt("红包", english="watercolor")).images[0]

    While attached, plain prompts give exactly the pictures of the stock pipeline. The bridge owns
    its networks: they are no part of the pipeline's components.
    """

    def __init__(
        self, branch: BridgeBranch, text_encoder: NativeTextEncoder, config: BridgeConfig
    ) -> None:
        """Raises `BridgeError` where the three do not belong together."""
        for width, whose in (
            (text_encoder.width, "text encoder"),
            (config.native_width, "configuration"),
        ):
            if width != branch.native_width:
                raise BridgeError(
                    f"the branch reads text of width {branch.native_width}, the {whose} says "
                    f"{width}: give the text encoder that the bridge was trained with"
                )
        if text_encoder.encoding != config.text_encoding:
            raise BridgeError(
                f"the text encoder is set to {text_encoder.encoding}, the bridge was trained with "
                f"{config.text_encoding}: load the text encoder with that encoding"
            )
        if text_encoder.pooled_width != branch.pooled_width:
            raise BridgeError(
                f"the branch reads a pooled vector of width {branch.pooled_width}, the text "
                f"encoder gives {text_encoder.pooled_width}"
            )
        self.branch = branch
        self.text_encoder = text_encoder
        self.config = config
        self._pipe: Any = None
        self._hooks: BackboneHooks | None = None
        self._segment: Segment | None = None

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        text_encoder: str | Path | Sequence[str | Path] | NativeTextEncoder | None = None,
        dtype: torch.dtype | None = torch.float32,
    ) -> Self:
        """Load a saved bridge, or a branch of the published layout, from a folder or the hub.

        `text_encoder` is a Hugging Face folder or hub name, a list of them for a branch that reads
        several models side by side (SDXL's published one), or a loaded encoder; a bridge saved by
        this library brings its own. `dtype` is that of both networks: as in diffusers float32, if
        nothing else is asked for; None as they are stored.
        Raises `BridgeError` for anything missing, cut, of another kind, or holding code.
        """
        folder = bridge_folder(name)
        if (folder / BRIDGE_FILE).is_file():
            config = BridgeConfig.from_json(read_json(folder / BRIDGE_FILE))
            branch = read_branch(folder / BRANCH_FOLDER, dtype)
            text_encoder = folder / TEXT_FOLDER if text_encoder is None else text_encoder
        else:
            branch = read_branch(published_branch_folder(folder), dtype)
            if text_encoder is None:
                raise BridgeError(_asked_for_text_encoder(name, family_of(branch)))
            models = _count_models(text_encoder)
            config = published_config(family_of(branch), branch.native_width, models)
        if not isinstance(text_encoder, NativeTextEncoder):
            text_encoder = NativeTextEncoder.from_pretrained(
                text_encoder, config.text_encoding, dtype
            )
        return cls(branch, text_encoder, config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `bridge.json`, a model card, the branch and the text encoder.

        All of it is written beside the folder first, so a full disk leaves nothing half-written.
        Raises `BridgeError` where the disk is full or the folder cannot be written.
        """
        folder = Path(folder).resolve()
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with clear_write_errors(folder):
                self._write(partial)
                folder.mkdir(parents=True, exist_ok=True)
                for new in partial.iterdir():
                    old = folder / new.name
                    if old.is_dir():
                        shutil.rmtree(old)
                    new.replace(old)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        text = json.dumps(self.config.to_json(), ensure_ascii=False, indent=2)
        (folder / BRIDGE_FILE).write_text(text + "\n", encoding="utf-8")
        (folder / CARD_FILE).write_text(model_card(self.config), encoding="utf-8")
        self.branch.save_pretrained(folder / BRANCH_FOLDER)
        self.text_encoder.save_pretrained(folder / TEXT_FOLDER)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move branch and text encoder; returns itself."""
        self.branch.to(device=device, dtype=dtype)
        self.text_encoder.to(device, dtype)
        return self

    # Attaching

    def attach(self, pipe: Any) -> Self:
        """Let the pipeline's UNet feel the branch, and its ControlNets see the English alone.

        Several bridges may be attached to one pipeline: see `prompt_together`.
        Attach again after giving the pipeline another ControlNet, or to a second pipeline made of
        the same UNet; `prompt` then encodes English with that pipeline. The branch follows the
        latents to their device; the text encoder stays where it is until `to` moves both. The
        scheduler is left alone: see `scheduler_for`. Raises `BridgeError` for a pipeline of
        another family or another prediction, and if this bridge is attached to another UNet.
        """
        unet = getattr(pipe, "unet", None)
        if not isinstance(unet, nn.Module):
            raise BridgeError(
                f"{type(pipe).__name__} has no UNet: a bridge fits pipelines of "
                f"{FAMILY_NAMES[self.config.family]}"
            )
        _check_is_no_refiner(pipe)
        self._check_family(unet)
        self._check_prediction(pipe)
        if self._hooks is not None and not self._hooks.is_attached(unet):
            raise BridgeError("this bridge is attached to another UNet: detach it first")
        if self._hooks is None:
            self._hooks = _hooks_on(unet) or BackboneHooks(_text_width(unet))
            tokens = self.config.text_encoding.native_tokens
            self._segment = self._hooks.add(self.branch, tokens)
        self._hooks.attach(unet, _controlnets(pipe))
        self._pipe = pipe
        return self

    def detach(self) -> None:
        """Restore the pipeline exactly as it was; no effect on a bridge that is not attached.

        Other bridges on the pipeline stay and work on.
        """
        if self._hooks is not None and self._segment is not None:
            self._hooks.remove(self._segment)
        self._hooks = self._segment = self._pipe = None

    @property
    def attached(self) -> bool:
        return self._hooks is not None

    @property
    def pipe(self) -> Any:
        """The pipeline that `prompt` encodes English with.

        Raises `BridgeError` if there is none, if one of its networks is not hooked (a UNet that
        was put in later would misread a pack), or if its scheduler reads the UNet wrongly.
        """
        hooks = self.hooks
        for module in (self._pipe.unet, *_controlnets(self._pipe)):
            if not hooks.is_attached(module):
                raise BridgeError(
                    f"the pipeline got another {type(module).__name__} since the bridge was "
                    "attached: call attach(pipe) again (detach() first for another UNet)"
                )
        self._check_prediction(self._pipe)
        return self._pipe

    @property
    def hooks(self) -> BackboneHooks:
        """The connection to the backbone. Raises `BridgeError` if there is none."""
        if self._hooks is None:
            raise BridgeError("the bridge is not attached to a pipeline: call attach(pipe) first")
        return self._hooks

    @property
    def segment(self) -> Segment:
        """The bridge's part of every pack for its backbone."""
        assert self._segment is not None
        return self._segment

    def scheduler_for(self, pipe: Any) -> DPMSolverMultistepScheduler:
        """The scheduler that the bridge expects, with the noise schedule of the pipeline's own.

        Use it as `pipe.scheduler = bridge.scheduler_for(pipe)`.
        """
        return DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, algorithm_type="dpmsolver++", **self.config.scheduler
        )

    # Prompting

    def prompt(
        self,
        native: Texts,
        *,
        negative: Texts = "",
        english: Texts = "",
        negative_english: Texts | None = "",
        scale: float | Sequence[float] = 1.0,
        start: float = 0.0,
        end: float = 1.0,
    ) -> dict[str, Any]:
        """What the pipeline is called with: `pipe(**bridge.prompt("红包"))`.

        `native` and `negative` go to the branch, `english` and `negative_english` to the backbone;
        one text for all pictures, or a list. English "" is the paper's way; a translation there is
        the way of its release. `negative_english` None is what the pipeline does without one:
        zeros where an SDXL pipeline says `force_zeros_for_empty_prompt`, else "". `scale`
        multiplies the branch's residuals. `start` and `end` are the part of the steps in which
        the branch works, as fractions; a part of them brings a
        `callback_on_step_end` along (see `StepWindow` for composing it with your own).
        Raises `BridgeError` if the lists differ in length or the bridge is not attached.
        """
        part = self.part(native, negative=negative, scale=scale, start=start, end=end)
        return prompt_together(part, english=english, negative_english=negative_english)

    def part(
        self,
        native: Texts,
        *,
        negative: Texts = "",
        scale: float | Sequence[float] = 1.0,
        start: float = 0.0,
        end: float = 1.0,
    ) -> PromptPart:
        """What this bridge reads in a `prompt_together` with others; arguments as in `prompt`."""
        return PromptPart(
            bridge=self, native=native, negative=negative, scale=scale, window=(start, end)
        )

    def pack_embeddings(
        self,
        native: NativeEmbeddings,
        negative: NativeEmbeddings,
        english: EnglishEmbeddings,
        *,
        scale: float | Sequence[float] = 1.0,
        start: float = 0.0,
        end: float = 1.0,
    ) -> dict[str, Any]:
        """As `prompt`, from embeddings that were made before, such as cached ones."""
        part = EncodedPart(
            bridge=self, native=native, negative=negative, scale=scale, window=(start, end)
        )
        return pack_together([part], english)

    def _check_family(self, unet: UNet2DConditionModel) -> None:
        """The backbone must be one that the branch was made for."""
        family = family_of(unet)
        if family != self.config.family:
            raise BridgeError(
                f"this bridge is for {FAMILY_NAMES[self.config.family]}, the pipeline is of "
                f"{FAMILY_NAMES[family]}: choose a bridge of that family"
            )
        for name in (*_ARCHITECTURE, *(_ADDED if family == "sdxl" else ())):
            ours, theirs = self.branch.config[name], _still(unet.config[name])
            if _plain(ours) != _plain(theirs):
                raise BridgeError(
                    f"this bridge does not fit the pipeline's UNet: it was made for "
                    f"{name}={_plain(ours)}, the UNet has {_plain(theirs)}"
                )

    def _check_prediction(self, pipe: Any) -> None:
        """Noise and velocity need other residuals: nobody can tell them apart in the picture."""
        ours = self.config.prediction_type
        theirs = pipe.scheduler.config.get("prediction_type", ours)
        if theirs != ours:
            raise BridgeError(
                f"the bridge was trained beside a backbone of prediction_type={ours!r}, the "
                f"pipeline's scheduler has {theirs!r}: choose a backbone that predicts the same, "
                "or correct the scheduler's prediction_type if it is wrong"
            )


def _asked_for_text_encoder(name: str | Path, family: Family) -> str:
    asked = f"{name} is a published branch and has no text encoder: name it with text_encoder "
    huge = "OFA-Sys/chinese-clip-vit-huge-patch14"
    if family == "sdxl":
        return f"{asked}(--text-encoder), for SDXL two side by side: the larger one ({huge}) first"
    return f"{asked}(--text-encoder), for BDM1.0 {huge}"


def _count_models(text_encoder: str | Path | Sequence[str | Path] | NativeTextEncoder) -> int:
    if isinstance(text_encoder, NativeTextEncoder):
        return text_encoder.encoding.models
    return len(model_folders(text_encoder))


def _hooks_on(unet: nn.Module) -> BackboneHooks | None:
    """The hooks that other bridges put on this UNet, if there are any."""
    owners = (getattr(hook, "__self__", None) for hook in unet._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, BackboneHooks)), None)


def _text_width(unet: UNet2DConditionModel) -> int:
    """Width of the text embeddings that the UNet is called with."""
    return int(unet.config.encoder_hid_dim or unet.config.cross_attention_dim)


def _controlnets(pipe: Any) -> list[nn.Module]:
    """The single networks of a pipeline's ControlNet or of its several ones."""
    net = getattr(pipe, "controlnet", None)
    return [] if net is None else list(getattr(net, "nets", [net]))


def _check_is_no_refiner(pipe: Any) -> None:
    """SDXL's refiner has another UNet and other size numbers than the base that bridges know."""
    if pipe.config.get("requires_aesthetics_score", False):
        raise BridgeError(
            "this pipeline is SDXL's refiner, which has no branch: attach the bridge to the base "
            "pipeline, and run the refiner on its latents without one"
        )


def _still(block_types: Any) -> Any:
    """AnimateDiff's blocks are Stable Diffusion's with motion modules between."""
    if isinstance(block_types, (list, tuple)) and all(isinstance(t, str) for t in block_types):
        return [block_type.replace("BlockMotion", "Block2D") for block_type in block_types]
    return block_types


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
