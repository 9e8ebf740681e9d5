"""Ways to draw from a native prompt: the bridge, a translation, a model of that language, ...

All of them are asked for the same pictures. Where a picture is asked for in two languages (its
English part is a plug-in's trigger, which has no translation), each system is given what it can
read: the bridge both parts apart, one model of one language a whole prompt with the trigger in it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.plan import Case
from bridge_diffusion.training.examples import encode_backbone_texts
from bridge_diffusion.worlds.emoji.baselines.adapter import AdaptedText

UNTIL = "bridge:"
"""What the part of the steps follows in which a bridge works, as a system."""


def end_of(name: str) -> float:
    """The part of the steps that "bridge:0.85" names. BridgeError if it is none."""
    text = name.removeprefix(UNTIL)
    try:
        end = float(text)
    except ValueError:
        end = math.nan
    if not 0 < end < 1:
        raise BridgeError(
            f"{name!r} names no part of the steps: write a number between 0 and 1, as in "
            f"{UNTIL}0.85, or bridge for all of them"
        )
    return end


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One picture, said in all the ways that systems read."""

    case: Case
    """What is wanted. Its `prompt` is the native text, its `english` what is said beside it."""
    translation: str
    """All of it in English."""
    mixed: str
    """All of it in the native language, an English trigger in the middle of it."""


class System(Protocol):
    """One way to draw from a native prompt."""

    @property
    def name(self) -> str:
        """A row of the result."""

    @property
    def pipe(self) -> Any:
        """The stock pipeline that plug-ins are applied to."""

    @property
    def identity(self) -> str:
        """A hash of the weights: what was measured of others is measured anew."""

    def reading(self, pipe: Any, asks: Sequence[Ask]) -> Any:
        """A context in which `pipe(**inputs)` draws; gives the inputs.

        `pipe`: the system's own pipeline, or one made of its parts.
        """


@dataclass(frozen=True, slots=True)
class BridgeSystem:
    """The bridge on the English model: the branch reads the native text, the model the English."""

    pipe: Any
    bridge: Bridge
    name: str = "bridge"
    end: float = 1.0
    """The branch is at work until this part of the steps."""

    @property
    def identity(self) -> str:
        weights = _identity(
            self.pipe.unet,
            self.pipe.text_encoder,
            self.bridge.branch,
            self.bridge.text_encoder.model,
        )
        return weights if self.end == 1.0 else f"{weights}-until-{self.end:g}"

    @contextmanager
    def reading(self, pipe: Any, asks: Sequence[Ask]) -> Iterator[Mapping[str, Any]]:
        self.bridge.attach(pipe)
        try:
            yield self.bridge.prompt(
                [ask.case.prompt for ask in asks],
                english=[ask.case.english for ask in asks],
                end=self.end,
            )
        finally:
            self.bridge.detach()


@dataclass(frozen=True, slots=True)
class EnglishSystem:
    """An English model reads the translation. With the unchanged one: plain translation."""

    pipe: Any
    name: str = "translation"

    @property
    def identity(self) -> str:
        return _identity(self.pipe.unet, self.pipe.text_encoder)

    @contextmanager
    def reading(self, pipe: Any, asks: Sequence[Ask]) -> Iterator[Mapping[str, Any]]:
        yield {"prompt": [ask.translation for ask in asks]}


@dataclass(frozen=True, slots=True)
class NativeSystem:
    """A model whose own text encoder is of the native language."""

    pipe: Any
    name: str = "native"

    @property
    def identity(self) -> str:
        return _identity(self.pipe.unet, self.pipe.text_encoder)

    @contextmanager
    def reading(self, pipe: Any, asks: Sequence[Ask]) -> Iterator[Mapping[str, Any]]:
        yield {"prompt": [ask.mixed for ask in asks]}


@dataclass(frozen=True, slots=True)
class AdapterSystem:
    """The English model reads native text through an adapter, and English text beside it as it is.

    What is said beside it follows the adapted states, as chunks of a long prompt follow each
    other: the model's cross-attention reads both.
    """

    pipe: Any
    text: AdaptedText
    name: str = "adapter"

    @property
    def identity(self) -> str:
        return _identity(
            self.pipe.unet, self.pipe.text_encoder, self.text.adapter, self.text.encoder.model
        )

    @contextmanager
    def reading(self, pipe: Any, asks: Sequence[Ask]) -> Iterator[Mapping[str, Any]]:
        positive = self.text.encode([ask.case.prompt for ask in asks])
        negative = self.text.encode([""] * len(asks))
        english = [ask.case.english for ask in asks]
        if any(english):
            beside = encode_backbone_texts(pipe, english)
            nothing = encode_backbone_texts(pipe, [""] * len(asks))
            positive, negative = torch.cat([positive, beside], 1), torch.cat([negative, nothing], 1)
        yield {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def _identity(*networks: torch.nn.Module) -> str:
    return "-".join(module_hash(network)[:10] for network in networks)
