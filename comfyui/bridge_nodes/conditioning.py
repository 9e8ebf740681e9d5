"""Native text on a ComfyUI conditioning: it is batched, repeated and cut as the English is.

An entry of a CONDITIONING has a dict "model_conds". What lies there goes through ComfyUI's sampler
beside the text of the backbone, so every node that combines, masks or limits conditionings keeps
both together, and a batch of prompt and negative prompt has the rows of both in one order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import pad

from bridge_diffusion import BridgeError
from bridge_diffusion.text import NativeEmbeddings


@dataclass(frozen=True, slots=True)
class NativeRows:
    """Native text for the rows of one call of the model."""

    embeddings: NativeEmbeddings
    """One row for each latent of the call."""
    name: str
    """The bridge that reads it."""

    @property
    def dtype(self) -> NoReturn:
        """ComfyUI asks for it before it hands to the backbone what no bridge has taken out.

        Raises `BridgeError`: the text would be ignored without a word otherwise.
        """
        raise BridgeError(
            f"a conditioning has native text for the bridge {self.name!r}, which this model does "
            "not have: put Apply Bridge with that bridge before the sampler, or give the sampler "
            "a conditioning without native text"
        )


@dataclass(frozen=True, slots=True)
class NativeCondition:
    """One conditioning's native text, with the methods that ComfyUI's sampler calls."""

    embeddings: NativeEmbeddings
    """Of one prompt, or of one for each latent of the batch."""
    name: str
    """The bridge that reads it."""

    def process_cond(self, batch_size: int, **_others: Any) -> "NativeCondition":
        """One row for each latent: as ComfyUI does, rows are repeated, or cut."""
        return NativeCondition(_for_batch(self.embeddings, batch_size), self.name)

    def can_concat(self, other: object) -> bool:
        """Whether both can go through the model in one batch; lengths may differ."""
        return isinstance(other, NativeCondition) and other.name == self.name

    def concat(self, others: Sequence["NativeCondition"]) -> NativeRows:
        """The rows of one batch: this one's first."""
        return NativeRows(joined([self.embeddings, *(o.embeddings for o in others)]), self.name)

    def size(self) -> list[int]:
        """Batch, tokens, width: ComfyUI estimates memory with it."""
        return list(self.embeddings.hidden.shape)

    def _copy_with(self, _condition: object) -> "NativeCondition":
        """What ComfyUI's context windows call: text belongs to all frames."""
        return self


def with_native_text(
    conditioning: Iterable[Sequence[Any]], key: str, condition: NativeCondition
) -> list[list[Any]]:
    """The conditioning with this text under `key` on each entry; the given one stays as it is."""
    return [
        [states, {**options, "model_conds": {**options.get("model_conds", {}), key: condition}}]
        for states, options in conditioning
    ]


def joined(parts: Sequence[NativeEmbeddings]) -> NativeEmbeddings:
    """Batches one after the other; shorter ones are padded with masked zeros."""
    tokens = max(part.hidden.shape[1] for part in parts)
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return NativeEmbeddings(
        hidden=torch.cat(
            [pad(part.hidden, (0, 0, 0, tokens - part.hidden.shape[1])) for part in parts]
        ),
        mask=torch.cat([pad(part.mask, (0, tokens - part.mask.shape[1])) for part in parts]),
        pooled=torch.cat(pooled) if pooled else None,
    )


def _for_batch(embeddings: NativeEmbeddings, batch_size: int) -> NativeEmbeddings:
    def rows(values: Tensor) -> Tensor:
        times = -(-batch_size // len(values))
        return values.repeat(times, *[1] * (values.ndim - 1))[:batch_size]

    pooled = embeddings.pooled
    return NativeEmbeddings(
        hidden=rows(embeddings.hidden),
        mask=rows(embeddings.mask),
        pooled=None if pooled is None else rows(pooled),
    )
