"""The bridge that a training starts from: new, trained before, or of another language."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import locate_text_encoder
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.branch import ends_in_pure_noise
from bridge_diffusion.training.parts import load_named_bridge
from bridge_diffusion.training.request import TrainRequest

_READS_THE_TEXT = (".attn2.to_k.weight", ".attn2.to_v.weight")


def starting_bridge(request: TrainRequest, pipe: StableDiffusionPipeline, pairs: int) -> Bridge:
    """A bridge that adds nothing yet, or the one to train further; with its new model card.

    With both a bridge and a text encoder, the branch is the bridge's and what it reads is new.
    BridgeError if they do not fit each other or the pipeline.
    """
    names = (Path(DataSpec.parse(spec).place).name for spec in request.data_specs)
    seen = f"{pairs} captioned pictures of {' and '.join(names)}"
    card: dict[str, Any] = {
        "languages": tuple(tag.strip() for tag in request.language.split(",") if tag.strip()),
        "licence": request.licence,
        "training_data": request.training_data,
    }
    card = {name: value for name, value in card.items() if value}
    generator = torch.Generator().manual_seed(request.seed)
    text = None
    if request.text_encoder is not None:
        folder = locate_text_encoder(request.text_encoder)
        text = NativeTextEncoder.from_pretrained(folder, dtype=torch.float32)
    if request.bridge is None:
        assert text is not None
        branch = BridgeBranch.from_backbone(pipe.unet, text.width, generator=generator)
        return Bridge(branch, text, _new_config(pipe, text, {"training_data": seen} | card))
    old = load_named_bridge(request.bridge)
    old.attach(pipe).detach()  # says what does not fit before anything is encoded
    card.setdefault("training_data", f"{old.config.training_data}; then {seen}")
    if text is None:
        return Bridge(old.branch, old.text_encoder, dataclasses.replace(old.config, **card))
    card.setdefault("licence", old.config.licence)
    branch = reading_width(old.branch, text.width, generator)
    return Bridge(branch, text, _new_config(pipe, text, card))


def reading_width(
    branch: BridgeBranch, width: int, generator: torch.Generator | None = None
) -> BridgeBranch:
    """The branch for native text of another width; the same one if the width is its own.

    All weights are taken over but the keys and values of the native text, which start fresh, as
    they do beside a backbone of another text width: drawn with `generator`.
    BridgeError for a branch of the SDXL family, which projects its text.
    """
    if branch.config.projected_from is not None:
        raise BridgeError("a branch of the SDXL family cannot be given another text encoder")
    if width == branch.native_width:
        return branch
    wider = BridgeBranch.from_config({**branch.config, "cross_attention_dim": width})
    state = branch.state_dict()
    for name, fresh in wider.state_dict().items():
        if name.endswith(_READS_THE_TEXT):
            state[name] = torch.nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
    wider.load_state_dict(state)
    return wider


def _new_config(
    pipe: StableDiffusionPipeline, text: NativeTextEncoder, card: dict[str, Any]
) -> BridgeConfig:
    # From pure noise on, which only "trailing" steps begin with (Lin et al. 2024, section 3.3).
    scheduler = {"timestep_spacing": "trailing"} if ends_in_pure_noise(pipe.scheduler) else {}
    return BridgeConfig(
        family="sd15",
        text_encoding=text.encoding,
        native_width=text.width,
        prediction_type=pipe.scheduler.config.prediction_type,
        scheduler=scheduler,
        **card,
    )
