"""The bridge that a training starts from: new, trained before, or of another language."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from bridge_diffusion.bridge import Bridge, BridgeConfig
from bridge_diffusion.data.spec import DataSpec
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.models.config import family_of
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.training.backbone import Pipeline
from bridge_diffusion.training.branch import ends_in_pure_noise
from bridge_diffusion.training.parts import load_named_bridge, load_text_encoder
from bridge_diffusion.training.request import TrainRequest

# What starts fresh for text of another width: keys and values, or SDXL's projections.
_READS_THE_TEXT = (
    ".attn2.to_k.weight",
    ".attn2.to_v.weight",
    "prompt_embeds_projection.weight",
)


def starting_bridge(request: TrainRequest, pipe: Pipeline, pairs: int) -> Bridge:
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
        text = load_text_encoder(request.text_encoder, pipe)
    if request.bridge is None:
        assert text is not None
        branch = BridgeBranch.from_backbone(pipe.unet, text.width, text.pooled_width, generator)
        return Bridge(branch, text, _new_config(pipe, text, {"training_data": seen} | card))
    old = load_named_bridge(request.bridge)
    old.attach(pipe).detach()  # says what does not fit before anything is encoded
    card.setdefault("training_data", f"{old.config.training_data}; then {seen}")
    if text is None:
        return Bridge(old.branch, old.text_encoder, dataclasses.replace(old.config, **card))
    card.setdefault("licence", old.config.licence)
    branch = reading_width(old.branch, text.width, generator, pooled_width=text.pooled_width)
    return Bridge(branch, text, _new_config(pipe, text, card))


def reading_width(
    branch: BridgeBranch,
    width: int,
    generator: torch.Generator | None = None,
    *,
    pooled_width: int | None = None,
) -> BridgeBranch:
    """The branch for native text of other widths; the same one if the widths are its own.

    All weights are taken over but those of another shape, which read the native text and start
    fresh, as they do beside a backbone of another text width: drawn with `generator`. For SDXL
    these are the projections.
    """
    if (width, pooled_width) == (branch.native_width, branch.pooled_width):
        return branch
    projects = branch.config.projected_from is not None
    changes = {"projected_from" if projects else "cross_attention_dim": width}
    changed = {**branch.config, **changes, "pooled_projected_from": pooled_width}
    wider = BridgeBranch.from_config(changed)
    state = branch.state_dict()
    for name, fresh in wider.state_dict().items():
        if name.endswith(_READS_THE_TEXT) and fresh.shape != state[name].shape:
            state[name] = torch.nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
    wider.load_state_dict(state)
    return wider


def _new_config(pipe: Pipeline, text: NativeTextEncoder, card: dict[str, Any]) -> BridgeConfig:
    # From pure noise on, which only "trailing" steps begin with (Lin et al. 2024, section 3.3).
    scheduler = {"timestep_spacing": "trailing"} if ends_in_pure_noise(pipe.scheduler) else {}
    return BridgeConfig(
        family=family_of(pipe.unet),
        text_encoding=text.encoding,
        native_width=text.width,
        prediction_type=pipe.scheduler.config.prediction_type,
        scheduler=scheduler,
        **card,
    )
