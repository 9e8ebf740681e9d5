"""What a pipeline is called with: the words for each bridge and the English, packed together."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.pack import NativePart
from bridge_diffusion.models.window import ALL_STEPS, StepWindow, Window, check_window
from bridge_diffusion.text import EnglishEmbeddings, NativeEmbeddings, encode_english

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge

Texts = str | Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPart:
    """What one call says to one bridge. Made by `Bridge.part`, drawn by `prompt_together`."""

    bridge: "Bridge"
    """Who reads it."""
    native: Texts
    """Native prompt: one text for all pictures, or one for each."""
    negative: Texts = ""
    """Native negative prompt, likewise."""
    scale: float | Sequence[float] = 1.0
    """What the branch's residuals are multiplied by: one number, or one for each picture."""
    window: Window = ALL_STEPS
    """The part of the steps in which the branch works, as fractions."""

    def __post_init__(self) -> None:
        check_window(self.window)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPart:
    """A `PromptPart` whose texts are encoded."""

    bridge: "Bridge"
    """Who reads it."""
    native: NativeEmbeddings
    """One prompt for each picture."""
    negative: NativeEmbeddings
    """The negative ones."""
    scale: float | Sequence[float] = 1.0
    """As in `PromptPart`."""
    window: Window = ALL_STEPS
    """As in `PromptPart`."""

    def __post_init__(self) -> None:
        check_window(self.window)


def prompt_together(
    *parts: PromptPart, english: Texts = "", negative_english: Texts | None = ""
) -> dict[str, Any]:
    """What the pipeline is called with where several bridges read the prompt of one picture.

        zh.attach(pipe)
        ar.attach(pipe)
        both = prompt_together(zh.part("红包"), ar.part("فانوس", scale=0.7), english="watercolor")
        image = pipe(**both).images[0]

    The residuals of the branches add, each with its scale and in its window; the order of the
    parts does not matter. Attached bridges without a part stay silent: they are not run.
    Raises `BridgeError` for no part or two of one bridge, bridges on different pipelines or on
    none, and lists that differ in length.
    """
    _check_bridges([part.bridge for part in parts])
    texts = [english] if negative_english is None else [english, negative_english]
    texts += [text for part in parts for text in (part.native, part.negative)]
    count = max(_count(text) for text in texts)
    negatives = None if negative_english is None else _listed(negative_english, count)
    englishes = encode_english(parts[0].bridge.pipe, _listed(english, count), negatives)
    encoded = []
    for part in parts:
        native, negative = part.bridge.text_encoder.encode_pair(
            _listed(part.native, count), _listed(part.negative, count)
        )
        encoded.append(
            EncodedPart(
                bridge=part.bridge,
                native=native,
                negative=negative,
                scale=part.scale,
                window=part.window,
            )
        )
    return pack_together(encoded, englishes)


def pack_together(parts: Sequence[EncodedPart], english: EnglishEmbeddings) -> dict[str, Any]:
    """As `prompt_together`, from embeddings that were made before, such as cached ones."""
    _check_bridges([part.bridge for part in parts])
    if english.positive.shape != english.negative.shape:
        raise BridgeError(
            f"English embeddings are {tuple(english.positive.shape)} and "
            f"{tuple(english.negative.shape)} for the negative ones: pad both to one length"
        )
    pipe, layout = parts[0].bridge.pipe, parts[0].bridge.hooks.layout
    call: dict[str, Any] = {}
    for name, states, positive in (
        ("prompt_embeds", english.positive, True),
        ("negative_prompt_embeds", english.negative, False),
    ):
        said = {
            part.bridge.segment: NativePart(
                native=part.native if positive else part.negative,
                scale=_scales(part.scale, len(states)),
                from_first_step=part.window[0] == 0.0,
            )
            for part in parts
        }
        call[name] = layout.pack(states, said, positive=positive)
    if english.pooled is not None:
        call["pooled_prompt_embeds"] = english.pooled
        call["negative_pooled_prompt_embeds"] = english.negative_pooled
    if any(part.window != ALL_STEPS for part in parts):
        if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
            raise BridgeError(
                f"{type(pipe).__name__} has no callback_on_step_end, so the branch cannot be "
                "limited to a part of its steps: leave start and end out"
            )
        windows = {part.bridge.segment: part.window for part in parts}
        call["callback_on_step_end"] = StepWindow(layout, [windows.get(s) for s in layout.segments])
    return call


def _check_bridges(bridges: Sequence["Bridge"]) -> None:
    """All on one pipeline, each once."""
    if not bridges:
        raise BridgeError("got no part: give what each bridge shall read, bridge.part(...)")
    for i, bridge in enumerate(bridges):
        if bridge.pipe is not bridges[0].pipe:
            raise BridgeError(
                "the bridges are attached to different pipelines: attach all to the one that draws"
            )
        if any(bridge is other for other in bridges[:i]):
            raise BridgeError("got two parts for one bridge: put both texts into one part")


def _count(text: Texts) -> int:
    if isinstance(text, str):
        return 1
    if isinstance(text, Sequence) and all(isinstance(each, str) for each in text):
        return len(text)
    raise BridgeError(f'got the prompt {text!r}: give a text, "" for none, or a list of texts')


def _listed(text: Texts, count: int) -> list[str]:
    texts = [text] * count if isinstance(text, str) else list(text)
    if len(texts) != count:
        raise BridgeError(
            f"got lists of {len(texts)} and {count} prompts: give one text, or one for each picture"
        )
    return texts


def _scales(scale: float | Sequence[float], count: int) -> Float[Tensor, " count"]:
    """One finite scale for each picture."""
    scales = torch.tensor(scale, dtype=torch.float32)
    if scales.ndim and scales.shape != (count,):
        raise BridgeError(
            f"got {len(scales)} scales for {count} prompts: give one scale, or one for each prompt"
        )
    if not bool(scales.isfinite().all()):
        raise BridgeError(
            f"the branch's scale is {scale}; finite numbers are allowed, 1.0 is usual"
        )
    return scales.expand(count)
