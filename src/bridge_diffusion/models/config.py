"""What a bridge says about itself: `bridge.json`, and the model card made from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from diffusers import UNet2DConditionModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.text import RELEASE_ENCODING, TextEncoding

FORMAT_VERSION = 1
Family = Literal["sd15", "sdxl"]
FAMILY_NAMES: dict[Family, str] = {
    "sd15": "Stable Diffusion 1.5",
    "sdxl": "Stable Diffusion XL",
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "format_version": int,
    "family": str,
    "text_encoding": Mapping,
    "native_width": int,
    "prediction_type": str,
    "scheduler": Mapping,
    "languages": (list, tuple),
    "licence": str,
    "training_data": str,
    "notes": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeConfig:
    """Everything about a bridge but its weights."""

    family: Family
    """The backbones that it fits."""
    text_encoding: TextEncoding
    """How native prompts are encoded: as in the branch's training."""
    native_width: int
    """Width of the native hidden states."""
    prediction_type: str = "epsilon"
    """What the backbone of its training predicts: "epsilon" (noise) or "v_prediction"."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Settings that it expects of a DPM-Solver++ scheduler; empty where the defaults are right."""
    languages: tuple[str, ...] = ()
    """Languages that it was trained on, BCP 47."""
    licence: str = "unknown"
    """Licence of the weights, SPDX where there is one."""
    training_data: str = "not stated"
    """What it was trained on, one or two sentences."""
    notes: str = ""
    """Whatever else a user should know."""
    format_version: int = FORMAT_VERSION
    """Version of `bridge.json`; newer ones than this library knows are refused."""

    def __post_init__(self) -> None:
        _check_version(self.format_version)
        if self.family not in get_args(Family):
            raise BridgeError(
                f"bridge of family {self.family!r}; known are {', '.join(get_args(Family))}"
            )

    def to_json(self) -> dict[str, Any]:
        """The content of `bridge.json`."""
        values = {**asdict(self), "text_encoding": self.text_encoding.to_json()}
        return {"format_version": values.pop("format_version"), **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. `BridgeError` on unknown, missing or mistyped fields."""
        _check_version(values.get("format_version"))  # before any field of the future
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise BridgeError(
                f"bridge.json: unknown field {unknown[0]!r}; known are {', '.join(_KINDS)}"
            )
        missing = sorted(
            {"format_version", "family", "text_encoding", "native_width"} - set(values)
        )
        if missing:
            raise BridgeError(f"bridge.json: the field {missing[0]!r} is missing")
        for name, value in values.items():
            if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
                raise BridgeError(f"bridge.json: {name} is {value!r}, which is of the wrong type")
        known = dict(values)
        known["text_encoding"] = TextEncoding.from_json(values["text_encoding"])
        known["languages"] = tuple(values.get("languages", ()))
        return cls(**known)


def release_encoding(family: Family, models: int = 1) -> TextEncoding:
    """How the release encodes text; for SDXL with the pooled vector, and as a rule with 2 models.

    No code of the release makes SDXL's inputs. Their widths are known from its weights; that the
    pooled vector is the first model's [CLS] state is our reading of them.
    """
    return replace(RELEASE_ENCODING, pooled=family == "sdxl", models=models)


def published_config(family: Family, native_width: int, models: int = 1) -> BridgeConfig:
    """The configuration of a bridge of the published layout, which has no `bridge.json`.

    Text as the release encodes it, with so many text models side by side; the last sigma that of
    timestep 0, which diffusers 0.24 knew no other way, and evenly spaced timesteps.
    """
    return BridgeConfig(
        family=family,
        text_encoding=release_encoding(family, models),
        native_width=native_width,
        scheduler={"final_sigmas_type": "sigma_min", "timestep_spacing": "linspace"},
        languages=("zh",),
        licence="as stated by the publisher",
        training_data="about a billion Chinese image-text pairs (arXiv 2309.00952)",
        notes="Read from the layout that Qihoo 360 published as BDM1.0.",
    )


def _check_version(version: Any) -> None:
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BridgeError(
            f"this bridge has format version {version}; this library reads up to "
            f"{FORMAT_VERSION}: update bridge-diffusion"
        )


def family_of(network: UNet2DConditionModel | BridgeBranch) -> Family:
    """The family of a backbone's UNet or of a branch."""
    return "sdxl" if network.config.addition_embed_type == "text_time" else "sd15"


def _models(encoding: TextEncoding) -> str:
    several = f"{encoding.models} models of family " if encoding.models > 1 else ""
    return f"{several}{encoding.family}"


def model_card(config: BridgeConfig) -> str:
    """The README.md of a saved bridge, in the hub's format."""
    encoding = config.text_encoding
    languages = "".join(f"\n- {language}" for language in config.languages) or " []"
    scheduler = (
        ", ".join(f"{k}={v!r}" for k, v in config.scheduler.items()) or "diffusers' defaults"
    )
    return f"""---
license: other
license_name: {config.licence}
language:{languages}
library_name: bridge-diffusion
pipeline_tag: text-to-image
tags:
- bridge-diffusion-model
---

# A bridge for {FAMILY_NAMES[config.family]}

A branch beside a frozen English backbone that reads prompts in
{", ".join(config.languages) or "its native language"} (Bridge Diffusion Model, arXiv 2309.00952).

```python
from bridge_diffusion import Bridge

bridge = Bridge.from_pretrained("this folder")
bridge.attach(pipe)  # any {FAMILY_NAMES[config.family]} pipeline of diffusers
image = pipe(**bridge.prompt("...")).images[0]
```

| | |
|---|---|
| licence | {config.licence} |
| languages | {", ".join(config.languages) or "not stated"} |
| training data | {config.training_data} |
| text encoder | {_models(encoding)}, hidden states {config.native_width} wide |
| windows | up to {encoding.max_windows} of {encoding.window} tokens |
| padding | {"masked" if encoding.padding_mask else "attended to"} |
| special ids | {encoding.special_ids} |
| prompt weights | {encoding.weights} |
| scheduler | DPM-Solver++, {scheduler} |

{config.notes}
"""
