"""The English side: prompts through the pipeline's own text encoders.

Plain short prompts go through the stock `pipe.encode_prompt`, bit for bit. Weights, long prompts,
clip skip and words of several vectors, which stock pipelines lack or mistake, are encoded here in
windows of the tokenizer's length.
Textual Inversion and LoRA on the text encoders act on both ways.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text.syntax import WeightedPiece, parse_prompt
from bridge_diffusion.text.windows import (
    SpecialIds,
    WeightedTokens,
    bodies,
    join_windows,
    joined_weights,
    tokenize_pieces,
    weigh_restoring_mean,
    window_ids,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnglishEmbeddings:
    """What a stock pipeline takes as `prompt_embeds` and its companions."""

    positive: Float[Tensor, "batch tokens width"]
    negative: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled_width"] | None
    """SDXL's pooled embeddings; None for the SD1.5 family."""
    negative_pooled: Float[Tensor, "batch pooled_width"] | None


@torch.no_grad()
def encode_english(
    pipe: Any,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    *,
    max_windows: int = 5,
    lora_scale: float | None = None,
    clip_skip: int | None = None,
) -> EnglishEmbeddings:
    """Encode English prompts and negative prompts to equal lengths with a pipeline's encoders.

    `negatives` None means what it means to the pipeline itself ("", or zeros where an SDXL
    pipeline says so). `lora_scale` scales LoRA layers of the text encoders; `clip_skip` takes the
    hidden states that many layers earlier, of prompts and negatives alike. Prompts beyond
    `max_windows` windows are cut, with a warning. Raises `BridgeError` for lists of unequal length
    and for a pipeline without text encoders.
    """
    if isinstance(prompts, str) or not prompts:
        raise BridgeError(f"prompts must be a non-empty list of texts, got {prompts!r}")
    if negatives is not None and len(negatives) != len(prompts):
        raise BridgeError(
            f"got {len(prompts)} prompts and {len(negatives)} negative prompts; give one for each"
        )
    towers = _towers(pipe)
    texts = [*prompts, *([""] * len(prompts) if negatives is None else negatives)]
    parsed = [parse_prompt(text, full_width=False) for text in texts]
    if clip_skip is None and all(_is_plain(pieces, towers) for pieces in parsed):
        plain = [pieces[0].text for pieces in parsed]
        own_negatives = None if negatives is None else plain[len(prompts) :]
        return _stock(pipe, plain[: len(prompts)], own_negatives, lora_scale)
    _check_clip_skip(towers, clip_skip)
    with _scaled_lora(towers, lora_scale):
        hidden, pooled = _in_windows(towers, parsed, max_windows, clip_skip)
    if negatives is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
        hidden[len(prompts) :] = 0
        if pooled is not None:
            pooled[len(prompts) :] = 0
    return EnglishEmbeddings(
        positive=hidden[: len(prompts)],
        negative=hidden[len(prompts) :],
        pooled=None if pooled is None else pooled[: len(prompts)],
        negative_pooled=None if pooled is None else pooled[len(prompts) :],
    )


@dataclass(frozen=True, slots=True)
class _Tower:
    """One text encoder of a pipeline with its tokenizer."""

    pipe: Any
    tokenizer: Any
    model: PreTrainedModel
    is_xl: bool

    @property
    def window(self) -> int:
        return self.tokenizer.model_max_length

    def tokenize(self, pieces: Sequence[WeightedPiece], limit: int) -> WeightedTokens:
        """Token ids; the word of a Textual Inversion of several vectors becomes all its ids."""
        return tokenize_pieces(pieces, self.tokenizer, limit, self.several_vectors())

    def several_vectors(self) -> dict[int, list[int]]:
        """The ids of each Textual Inversion of several vectors, by the id of its word.

        By ids, because stock's `maybe_convert_prompt` replaces text: it never finds a word with
        capitals, which the tokenizer takes away, and finds a word inside a longer one.
        """
        ids = self.tokenizer.get_added_vocab()
        several = {}
        for word, first in ids.items():
            row = [first]
            while (id_ := ids.get(f"{word}_{len(row)}")) is not None:
                row.append(id_)
            if len(row) > 1:
                several[first] = row
        return several

    def states(
        self, tokens: Sequence[WeightedTokens], windows: int, clip_skip: int | None
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch pooled"] | None]:
        """Weighted hidden states of the joined windows, and SDXL's pooled vector or None."""
        special = SpecialIds(
            self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        )
        body = self.window - 2
        parts = [part for t in tokens for part in bodies(t.ids, body, windows)]
        ids = torch.tensor([window_ids(part, self.window, special) for part in parts])
        mask = None
        if getattr(self.model.config, "use_attention_mask", False):
            lengths = torch.tensor([[len(part) + 2] for part in parts])
            mask = (torch.arange(self.window) < lengths).long().to(self.pipe._execution_device)
        output = self.model(
            ids.to(self.pipe._execution_device), attention_mask=mask, output_hidden_states=True
        )
        hidden = self._layer(output, clip_skip)
        joined = torch.stack([join_windows(sample) for sample in hidden.split(windows)])
        weights = torch.stack([joined_weights(t.weights, joined.shape[1]) for t in tokens])
        pooled = output[0][::windows] if self.is_xl and output[0].ndim == 2 else None
        return weigh_restoring_mean(joined, weights), pooled

    def _layer(self, output: Any, clip_skip: int | None) -> Float[Tensor, "windows length width"]:
        """The layer that the family's UNet reads: SDXL the last but one, without the norm."""
        if self.is_xl:
            return output.hidden_states[-2 - (clip_skip or 0)]
        if clip_skip is None:
            return output[0]
        inner: Any = getattr(self.model, "text_model", self.model)  # moved up in transformers 5
        return inner.final_layer_norm(output.hidden_states[-1 - clip_skip])


def _towers(pipe: Any) -> list[_Tower]:
    is_xl = hasattr(pipe, "text_encoder_2")
    names = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
    towers = [
        _Tower(pipe, getattr(pipe, tokenizer), getattr(pipe, encoder), is_xl)
        for tokenizer, encoder in names
        if getattr(pipe, encoder, None) is not None
    ]
    if not towers:
        raise BridgeError(
            f"{type(pipe).__name__} has no text encoder to encode the English prompt; "
            "load the pipeline with its text_encoder"
        )
    return towers


def _check_clip_skip(towers: Sequence[_Tower], clip_skip: int | None) -> None:
    most = min(tower.model.config.num_hidden_layers - 1 - tower.is_xl for tower in towers)
    if clip_skip is not None and not 0 <= clip_skip <= most:
        raise BridgeError(f"clip_skip is {clip_skip}; this pipeline allows 0 to {most}")


def _is_plain(pieces: Sequence[WeightedPiece], towers: Sequence[_Tower]) -> bool:
    if len(pieces) != 1 or pieces[0].weight != 1:
        return False
    for tower in towers:
        ids = tower.tokenize(pieces, limit=10**6).ids
        if len(ids) > tower.window - 2 or not tower.several_vectors().keys().isdisjoint(ids):
            return False
    return True


def _stock(
    pipe: Any, prompts: list[str], negatives: list[str] | None, lora_scale: float | None
) -> EnglishEmbeddings:
    one_each = "num_images_per_prompt"
    if one_each not in inspect.signature(pipe.encode_prompt).parameters:
        one_each = "num_videos_per_prompt"  # AnimateDiff's pipeline of SDXL
    encoded = pipe.encode_prompt(
        prompt=prompts,
        device=pipe._execution_device,
        do_classifier_free_guidance=True,
        negative_prompt=negatives,
        lora_scale=lora_scale,
        **{one_each: 1},
    )
    positive, negative, pooled, negative_pooled = (*encoded, None, None)[:4]
    return EnglishEmbeddings(
        positive=positive, negative=negative, pooled=pooled, negative_pooled=negative_pooled
    )


def _in_windows(
    towers: Sequence[_Tower],
    parsed: Sequence[Sequence[WeightedPiece]],
    max_windows: int,
    clip_skip: int | None,
) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch pooled_width"] | None]:
    """Hidden states of all towers side by side, and the last tower's pooled vector or None."""
    tokens = [
        [tower.tokenize(pieces, max_windows * (tower.window - 2)) for pieces in parsed]
        for tower in towers
    ]
    windows = max(
        t.windows(tower.window - 2) for tower, row in zip(towers, tokens, strict=True) for t in row
    )
    states = [
        tower.states(row, windows, clip_skip) for tower, row in zip(towers, tokens, strict=True)
    ]
    return torch.cat([hidden for hidden, _ in states], dim=-1), states[-1][1]


@contextmanager
def _scaled_lora(towers: Sequence[_Tower], scale: float | None) -> Iterator[None]:
    """LoRA layers of the text encoders at `scale`, as `pipe.encode_prompt` does it."""
    if scale is None:
        yield
        return
    for tower in towers:
        scale_lora_layers(tower.model, scale)
    try:
        yield
    finally:
        for tower in towers:
            unscale_lora_layers(tower.model, scale)
