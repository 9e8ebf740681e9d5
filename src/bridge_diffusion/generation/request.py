"""What is asked of `bdm generate`: every option, checked before any model is loaded."""

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.plugins.naming import LoraUse, parse_lora, take_tags

SchedulerName = Literal[
    "dpm++", "dpm++-karras", "ddim", "euler", "euler-a", "heun", "pndm", "unipc", "lcm"
]
LARGEST_SEED = 2**63 - 1
NO_BRIDGE = "none"
# Fields that say nothing to a backbone alone.
_OF_THE_BRIDGE = ("english", "negative_english", "text_encoder", "scale", "start", "end")
# Fields that say nothing without another one.
_NEEDS = (
    ("control", "control_net"),
    ("control_net", "control"),
    ("control_scale", "control_net"),
    ("ip_adapter", "ip_image"),
    ("ip_image", "ip_adapter"),
    ("ip_scale", "ip_adapter"),
)
_OF_CONTROL = ("control_net", "control", "control_scale")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One order of pictures. The bridge reads `prompt`; the backbone reads `english`."""

    prompt: str
    """What to draw, in the bridge's language; weights as (word:1.3), long prompts are taken."""
    english: str = ""
    """What to draw, in English: the backbone reads it beside the prompt."""
    negative: str = ""
    """What to keep out, in the bridge's language."""
    negative_english: str = ""
    """What to keep out, in English."""
    model: str | None = None
    """The backbone: a pipeline folder, a single file or a hub name [default: the emoji world]."""
    bridge: str | None = None
    """The bridge: a folder, a hub name, a language of the emoji world such as zh, or "none" to draw
    with the backbone alone [default: zh]."""
    text_encoder: str | None = None
    """The native text encoder, for a bridge saved without one: a folder or a hub name."""
    scale: float = 1.0
    """How strongly the bridge acts: 0 is not at all, 1 is as trained."""
    start: float = 0.0
    """When the bridge begins to act, as a fraction of the steps."""
    end: float = 1.0
    """When the bridge ceases to act, as a fraction of the steps."""
    seed: int | None = None
    """The first picture's seed, the next ones count up from it [default: drawn at random]."""
    n: int = 1
    """How many pictures."""
    steps: int = 30
    """Denoising steps of a picture."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 and below the negatives have no effect."""
    scheduler: SchedulerName = "dpm++"
    """The sampler."""
    size: tuple[int, int] | None = None
    """Width and height in pixels, WxH [default: the initial picture's, or the model's own]."""
    init_image: Path | None = None
    """A picture to start from."""
    strength: float = 0.8
    """How far to leave the initial picture: 0 keeps it, 1 redraws it."""
    mask: Path | None = None
    """A picture that is white where the initial picture is to be redrawn."""
    lora: tuple[str, ...] = ()
    """An English LoRA: a file, or its name in --plugins, and how strongly it acts, as style:0.8;
    may be given several times. <lora:style:0.8> in a prompt does the same."""
    embedding: tuple[str, ...] = ()
    """A Textual Inversion file, or its name in --plugins; its name is then a word of the English
    prompt; may be given several times."""
    control_net: tuple[str, ...] = ()
    """A ControlNet or a T2I-Adapter: a folder, a file, or its name in --plugins; may be given
    several times, each with its --control."""
    control: tuple[Path, ...] = ()
    """The picture that the ControlNet follows: edges, a pose ... as it was trained on; with several
    ControlNets one for each, in their order."""
    control_scale: tuple[float, ...] = ()
    """How strongly the ControlNet acts; with several one for each, in their order [default: 1]."""
    ip_adapter: str | None = None
    """An IP-Adapter file with its image_encoder beside it, or its name in --plugins."""
    ip_image: Path | None = None
    """The picture that the IP-Adapter takes as a prompt."""
    ip_scale: float = 1.0
    """How strongly the IP-Adapter acts."""
    vae: str | None = None
    """Another autoencoder: a folder, a file, or its name in --plugins [default: the model's]."""
    plugins: Path | None = None
    """The folder in which the names of plug-ins are looked up, with its sub-folders."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps ..."""
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """The number format [default: fp16 on a GPU, fp32 elsewhere]."""
    offload: bool = False
    """Keep on the GPU only the part that is at work: less memory, a little slower."""
    safety_checker: bool = True
    """Whether to keep the model's safety checker, where it has one."""

    def __post_init__(self) -> None:
        _check_types(self)
        self._check_texts()
        self._check_numbers()
        self._check_relations()

    def _check_texts(self) -> None:
        prompt, _ = take_tags(self.prompt)
        if not prompt.strip():
            raise BridgeError(
                "the prompt is empty; write what to draw, for example: 红包",
                "empty_prompt",
                field="prompt",
            )
        for name in ("prompt", "english", "negative", "negative_english"):
            text: str = getattr(self, name)
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise BridgeError(
                    f"{_flag(name)} is no valid text; give it in UTF-8", "invalid_text", field=name
                )
            if name.startswith("negative") and take_tags(text)[1]:
                raise BridgeError(
                    f"{_flag(name)} has a <lora:...>; a LoRA acts on the whole picture: put it "
                    "into the prompt, with a weight below 0 to draw away from it",
                    "lora_in_negative",
                    field=name,
                )

    def _check_numbers(self) -> None:
        for name, least, most in (
            ("scale", -10.0, 10.0),
            ("start", 0.0, 1.0),
            ("end", 0.0, 1.0),
            ("strength", 0.0, 1.0),
            ("guidance", 0.0, 1000.0),
            ("control_scale", 0.0, 10.0),
            ("ip_scale", -10.0, 10.0),
            ("n", 1, 100_000),
            ("steps", 1, 1000),
        ):
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if not (math.isfinite(value) and least <= value <= most):
                    raise BridgeError(f"{_flag(name)} is {value:g}; allowed: {least:g} to {most:g}")
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED - self.n + 1:
            raise BridgeError(
                f"--seed is {self.seed}; allowed: 0 to {LARGEST_SEED - self.n + 1}",
                "too_large",
                field="seed",
                most=LARGEST_SEED - self.n + 1,
            )
        if self.size is not None and min(self.size) < 1:
            raise BridgeError(
                f"--size is {_size_text(self.size)}; both sides must be positive",
                "too_small",
                field="size",
                least=1,
            )

    def _check_relations(self) -> None:
        if self.start >= self.end:
            raise BridgeError(
                f"--start {self.start:g} is not before --end {self.end:g}, so the bridge would "
                "never act; to draw without it give --bridge none",
                "window_empty",
                field="start",
                start=self.start,
                end=self.end,
            )
        if self.mask is not None and self.init_image is None:
            raise BridgeError("--mask needs --init-image, the picture that it masks")
        if self.init_image is not None and int(self.steps * self.strength) < 1:
            raise BridgeError(
                f"--strength {self.strength:g} of {self.steps} steps leaves no step to draw; "
                "raise --strength or --steps",
                "no_step_left",
                field="strength",
                strength=self.strength,
                steps=self.steps,
            )
        if self.bridge == NO_BRIDGE and (useless := self._set_among(_OF_THE_BRIDGE)):
            raise BridgeError(
                "--bridge none leaves only the backbone, which reads the prompt itself; "
                f"give no {_flag(useless[0])} with it"
            )
        if self.init_image is None and self._set_among(["strength"]):
            raise BridgeError("--strength needs --init-image, the picture to leave")
        for name, needed in _NEEDS:
            if self._set_among([name]) and not self._set_among([needed]):
                raise BridgeError(f"{_flag(name)} needs {_flag(needed)}")
        nets = len(self.control_net)
        for name, count in (
            ("control", len(self.control)),
            ("control_scale", len(self.control_scale) or nets),
        ):
            if count != nets:
                raise BridgeError(
                    f"--control-net is given {_times(nets)} and {_flag(name)} {_times(count)}; "
                    f"give one {_flag(name)} for each --control-net, in the same order"
                )
        self.loras()
        if self.model is not None and self.bridge is None:
            raise BridgeError(
                "--model needs --bridge: a bridge folder or hub name trained for that family, "
                "or none to draw with the model alone"
            )

    def loras(self) -> tuple[tuple[LoraUse, ...], tuple[LoraUse, ...]]:
        """The LoRAs that `lora` names, and those of the prompts' tags.

        Raises:
            BridgeError: A weight is not allowed, or a LoRA is named twice.
        """
        given = tuple(parse_lora(text) for text in self.lora)
        tagged = take_tags(self.prompt)[1] + take_tags(self.english)[1]
        names = [use.name for use in given + tagged]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BridgeError(
                f"the LoRA {twice[0]} is named twice; give it once, with one weight",
                "lora_twice",
                field="lora",
                name=twice[0],
            )
        return given, tagged

    def control_scales(self) -> tuple[float, ...]:
        """How strongly each of `control_net` acts, 1 where none was given."""
        return self.control_scale or (1.0,) * len(self.control_net)

    def without_tags(self) -> Self:
        """The request whose prompts hold nothing but what is to be drawn."""
        return replace(self, prompt=take_tags(self.prompt)[0], english=take_tags(self.english)[0])

    def _set_among(self, names: Sequence[str]) -> list[str]:
        """Those of the fields that are not at their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return [name for name in names if getattr(self, name) != defaults[name]]

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON values; paths as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: [_plain(part) for part in value] if isinstance(value, tuple) else _plain(value)
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The request that `to_json` wrote; fields that are absent take their defaults.

        Raises:
            BridgeError: A field is unknown, or a value is not allowed.
        """
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise BridgeError(
                f"the request has unknown fields: {', '.join(unknown)}; known: {', '.join(hints)}"
            )
        required = {f.name for f in fields(cls) if f.default is MISSING}
        if missing := sorted(required - set(values)):
            raise BridgeError(f"the request lacks: {', '.join(missing)}")
        read = {}
        for name, value in one_control_as_lists(values).items():
            alternatives = _alternatives(hints[name])
            if Path in alternatives and isinstance(value, str):
                value = Path(value)
            elif isinstance(value, list):  # JSON has no tuples
                of_paths = tuple[Path, ...] in alternatives
                value = tuple(
                    Path(part) if of_paths and isinstance(part, str) else part for part in value
                )
            read[name] = value
        return cls(**read)


def one_control_as_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request or an order in which a lone ControlNet may stand by itself.

    Pictures and orders of earlier versions have them so; clients may write them so.
    """
    lists = {
        name: [] if values[name] is None else [values[name]]
        for name in _OF_CONTROL
        if name in values and not isinstance(values[name], list | tuple)
    }
    if not lists.get("control_net", values.get("control_net")) and lists.get("control_scale") == [
        1.0
    ]:
        lists["control_scale"] = []  # once the default of a request without a ControlNet
    return {**values, **lists}


def parse_size(text: str) -> tuple[int, int]:
    """Read "512x768" as (width, height).

    Raises:
        BridgeError: The text has another form.
    """
    width, _, height = text.lower().replace("×", "x").partition("x")
    if not (width.strip().isdecimal() and height.strip().isdecimal()):
        raise BridgeError(f"--size is {text!r}; give WIDTHxHEIGHT in pixels, for example 512x768")
    return int(width), int(height)


def _plain(value: Any) -> Any:
    """A path as JSON can hold it."""
    return str(value) if isinstance(value, Path) else value


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _flag(name: str) -> str:
    return "the prompt" if name == "prompt" else "--" + name.replace("_", "-")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """`int | None` => (int, NoneType); any other type => itself alone."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _check_types(request: GenerationRequest) -> None:
    """A request also comes from files and from the network, so each value's type is checked."""
    for name, hint in typing.get_type_hints(type(request)).items():
        value = getattr(request, name)
        if not any(_fits(value, alternative) for alternative in _alternatives(hint)):
            allowed = (
                ", ".join(typing.get_args(hint))
                if typing.get_origin(hint) is Literal
                else str(hint if typing.get_origin(hint) else getattr(hint, "__name__", hint))
            )
            raise BridgeError(f"{_flag(name)} is {value!r}; allowed: {allowed}")


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        arguments = typing.get_args(hint)
        if arguments[-1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(part, arguments[0]) for part in value)
        return (
            isinstance(value, tuple)
            and len(value) == len(arguments)
            and all(_fits(part, each) for part, each in zip(value, arguments, strict=True))
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
