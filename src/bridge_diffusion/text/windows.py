"""Long prompts in windows: tokens => windows of ids => hidden states => one joined sequence.

A window is [start] tokens [end] padding. Each window passes through the text encoder by itself;
of the joined sequence only the first start and the last end stay, so k windows of L tokens give
k (L - 2) + 2 positions.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bridge_diffusion.text.syntax import WeightedPiece

log = logging.getLogger(__name__)

_SHOWN = 60  # characters of a cut text in its warning
RELEASE_START, RELEASE_END, RELEASE_PADDING = 101, 102, 0


@dataclass(frozen=True, slots=True)
class WeightedTokens:
    """A prompt's token ids, without start, end and padding, and one weight for each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def windows(self, body: int) -> int:
        """How many windows of `body` tokens the prompt needs; an empty one needs one."""
        return max(1, -(-len(self.ids) // body))


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids that frame a window."""

    start: int
    end: int
    padding: int


def tokenize_pieces(
    pieces: Sequence[WeightedPiece],
    tokenizer: Any,
    limit: int,
    several: Mapping[int, Sequence[int]] | None = None,
) -> WeightedTokens:
    """Tokenize each piece on its own, as the community's implementations do.

    What lies beyond `limit` tokens is cut, with a warning that shows the lost text.

    Args:
        several: Ids that stand for several, themselves the first.
    """
    ids: list[int] = []
    weights: list[float] = []
    for piece in pieces:
        new = tokenizer(piece.text, add_special_tokens=False, verbose=False).input_ids
        if several:
            new = [each for id_ in new for each in several.get(id_, (id_,))]
        ids += new
        weights += [piece.weight] * len(new)
    if len(ids) > limit:
        lost = tokenizer.decode(ids[limit:])
        log.warning(
            "the prompt has %d tokens, at most %d are read; cut off: %s",
            len(ids),
            limit,
            lost if len(lost) <= _SHOWN else lost[:_SHOWN] + "...",
        )
    return WeightedTokens(tuple(ids[:limit]), tuple(weights[:limit]))


def window_ids(body: Sequence[int], length: int, special: SpecialIds) -> list[int]:
    """One window: [start] body [end] padding, `length` ids in all."""
    padding = [special.padding] * (length - 2 - len(body))
    return [special.start, *body, special.end, *padding]


def release_window_ids(body: Sequence[int], length: int) -> list[int]:
    """One window by the release's procedure: the first 0 after the start becomes the end.

    So a literal [PAD] in a prompt puts the end inside it, and the true end gets none.
    """
    ids = [RELEASE_START, *body] + [RELEASE_PADDING] * (length - 1 - len(body))
    ids[ids.index(RELEASE_PADDING)] = RELEASE_END
    return ids


def bodies(ids: Sequence[int], body: int, windows: int) -> list[Sequence[int]]:
    """Split a prompt's ids over `windows` windows; later ones may stay empty."""
    return [ids[k * body : (k + 1) * body] for k in range(windows)]


def join_windows(parts: Shaped[Tensor, "windows length *width"]) -> Shaped[Tensor, "joined *width"]:
    """Join a prompt's windows, dropping the ends and starts between them."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([parts[0, :-1], *parts[1:-1, 1:-1], parts[-1, 1:]])


def joined_weights(weights: Sequence[float], length: int) -> Float[Tensor, " joined"]:
    """Weights of a joined sequence of `length` positions: start, end and padding weigh 1."""
    row = torch.ones(length)
    row[1 : len(weights) + 1] = torch.tensor(weights)
    return row


def weigh_restoring_mean(
    hidden: Float[Tensor, "batch tokens width"], weights: Float[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens width"]:
    """Multiply each position by its weight, then restore the sample's mean.

    The rule of AUTOMATIC1111's web UI and of the paper's release, over all positions and channels
    and in float32. Prompts that the community shares were tuned with it. It is ill-conditioned
    where the mean is close to zero; a sample whose weights are all 1 stays as it is.
    """
    weighted = hidden * weights.to(hidden)[..., None]
    before = hidden.float().mean(dim=(-2, -1), keepdim=True)
    after = weighted.float().mean(dim=(-2, -1), keepdim=True)
    plain = (weights == 1).all(dim=-1)[..., None, None]
    return weighted * torch.where(plain, 1, before / after).to(hidden)


def weigh_restoring_power(
    hidden: Float[Tensor, "tokens width"], weights: Float[Tensor, " tokens"]
) -> Float[Tensor, "tokens width"]:
    """Multiply each position by its weight, then restore the root mean square over all of them.

    The same intent as restoring the mean, but well-conditioned: the hidden states of BERT-like
    encoders pass a layer norm, so their mean is close to zero and a quotient of two means is noise
    (measured: factors of -0.11 and 7.45), whereas the power is positive. Give attended positions
    only.
    """
    if bool((weights == 1).all()):
        return hidden
    weighted = hidden.float() * weights.to(hidden.device)[:, None]
    factor = hidden.float().square().mean().sqrt() / weighted.square().mean().sqrt()
    return (weighted * factor).to(hidden)
