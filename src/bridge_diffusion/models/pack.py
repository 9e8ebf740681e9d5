"""English and native embeddings packed in one tensor, so that a pipeline treats both alike.

Whatever a stock pipeline does with `prompt_embeds` (guidance batches, images per prompt) then
happens to both, and nobody has to guess its batch layout. Rows of a pack:

    English tokens | pooled native vector | scale terms, side, first step | native tokens

The last column is the mask of the native tokens. It makes a pack wider than the English
embeddings, so a network that was not told about packs raises instead of misreading one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeEmbeddings

_HEADER_ROWS = 2
_SCALE_TERMS = 3
_SIDE = _SCALE_TERMS
_FIRST_STEP = _SIDE + 1
_HEADER_WIDTH = _FIRST_STEP + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """What a pack holds, row by row of the pipeline's batch."""

    english: Float[Tensor, "batch english_tokens english"]
    """The backbone's own embeddings."""
    hidden: Float[Tensor, "batch tokens native"]
    """The native hidden states, cut to the longest prompt of the batch."""
    mask: Bool[Tensor, "batch tokens"] | None
    """True where a native token is attended to; None if all are."""
    pooled: Float[Tensor, "batch pooled"] | None
    """The native pooled vector, for SDXL."""
    scale: Float[Tensor, " batch"]
    """What the branch's residuals are multiplied by, float32."""
    positive: Bool[Tensor, " batch"]
    """True for a prompt, False for a negative prompt."""
    active: bool
    """False if the branch does nothing for this pack: out of its window, or all scales zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackLayout:
    """Where things lie in a pack. It is fixed by the backbone and the bridge together."""

    english_width: int
    """Width of the backbone's text embeddings."""
    native_width: int
    """Width of the native hidden states."""
    native_tokens: int
    """Native rows of every pack: the length of the longest prompt that the bridge encodes."""
    pooled_width: int | None = None
    """Width of the native pooled vector, None where the branch takes none."""

    @property
    def width(self) -> int:
        """Width of a pack; never that of plain English embeddings."""
        widest = max(self.english_width, self.native_width, self.pooled_width or 0, _HEADER_WIDTH)
        return widest + 1

    def is_packed(self, states: Tensor) -> bool:
        """Whether these are packed embeddings rather than plain English ones."""
        return states.shape[-1] == self.width

    def pack(
        self,
        english: Float[Tensor, "batch english_tokens english"],
        native: NativeEmbeddings,
        *,
        scale: Float[Tensor, " batch"],
        positive: bool,
        from_first_step: bool = True,
    ) -> Float[Tensor, "batch rows width"]:
        """Pack in the English embeddings' type and place.

        `from_first_step=False` leaves the branch off until a `StepWindow` switches it on.
        Raises `BridgeError` if a shape does not fit: a wrong length would split silently later.
        """
        self._check(english, native)
        batch, english_tokens, _ = english.shape
        tokens = native.hidden.shape[1]
        packed = english.new_zeros(
            batch, english_tokens + _HEADER_ROWS + self.native_tokens, self.width
        )
        packed[:, :english_tokens, : self.english_width] = english
        header = packed[:, english_tokens : english_tokens + _HEADER_ROWS]
        if native.pooled is not None and self.pooled_width is not None:
            header[:, 0, : self.pooled_width] = native.pooled.to(packed)
        header[:, 1, :_SCALE_TERMS] = _terms(scale).to(packed)
        header[:, 1, _SIDE] = 1.0 if positive else -1.0
        header[:, 1, _FIRST_STEP] = 1.0 if from_first_step else 0.0
        rows = packed[:, english_tokens + _HEADER_ROWS :]
        rows[:, :tokens, : self.native_width] = native.hidden.to(packed)
        rows[:, :tokens, -1] = native.mask.to(packed)
        return packed

    def english(
        self, packed: Float[Tensor, "batch rows width"]
    ) -> Float[Tensor, "batch english_tokens english"]:
        """The English embeddings alone, as the backbone would have got them."""
        end = packed.shape[1] - self.native_tokens - _HEADER_ROWS
        return packed[:, :end, : self.english_width].contiguous()

    def unpack(self, packed: Float[Tensor, "batch rows width"]) -> Unpacked:
        """Everything that the pack holds. Waits for the device, so call it once a prompt."""
        end = packed.shape[1] - self.native_tokens - _HEADER_ROWS
        pooled_row, settings = packed[:, end], packed[:, end + 1].float()
        rows = packed[:, end + _HEADER_ROWS :]
        mask = rows[..., -1] > 0.5
        tokens = int(mask.any(dim=0).nonzero().max()) + 1
        mask = mask[:, :tokens]
        scale = settings[:, :_SCALE_TERMS].sum(dim=1)
        return Unpacked(
            english=self.english(packed),
            hidden=rows[:, :tokens, : self.native_width].contiguous(),
            mask=None if bool(mask.all()) else mask,
            pooled=None if self.pooled_width is None else pooled_row[:, : self.pooled_width],
            scale=scale,
            positive=settings[:, _SIDE] > 0,
            active=bool((settings[:, _FIRST_STEP] > 0.5).any() and (scale != 0).any()),
        )

    def activate(
        self, packed: Float[Tensor, "batch rows width"]
    ) -> Float[Tensor, "batch rows width"]:
        """A copy of the pack with the branch on."""
        packed = packed.clone()
        packed[:, -self.native_tokens - 1, _FIRST_STEP] = 1.0
        return packed

    def _check(self, english: Tensor, native: NativeEmbeddings) -> None:
        hidden, mask, pooled = native.hidden, native.mask, native.pooled
        if english.shape[-1] != self.english_width:
            raise BridgeError(
                f"English embeddings are {english.shape[-1]} wide; this backbone's are "
                f"{self.english_width}"
            )
        if hidden.shape[-1] != self.native_width:
            raise BridgeError(
                f"native embeddings are {hidden.shape[-1]} wide; this bridge's are "
                f"{self.native_width}: encode them with its own text encoder"
            )
        if not 0 < hidden.shape[1] <= self.native_tokens:
            raise BridgeError(
                f"native embeddings have {hidden.shape[1]} tokens; this bridge takes 1 to "
                f"{self.native_tokens}"
            )
        if len(english) != len(hidden) or mask.shape != hidden.shape[:2]:
            raise BridgeError(
                f"{len(english)} English prompts, {len(hidden)} native ones and a mask of shape "
                f"{tuple(mask.shape)} do not go together: give one of each for every picture"
            )
        if not bool(mask.any(dim=1).all()):
            raise BridgeError("a native prompt has no token to attend to: give it at least one")
        if self.pooled_width is not None and (
            pooled is None or pooled.shape != (len(hidden), self.pooled_width)
        ):
            got = None if pooled is None else tuple(pooled.shape)
            raise BridgeError(
                f"pooled native embeddings are {got}; this bridge takes "
                f"{(len(hidden), self.pooled_width)}"
            )


def _terms(scale: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3"]:
    """Split into three bfloat16 numbers that add up to the float32 one.

    The pack may travel in half precision, where 0.8 alone would become 0.8008.
    """
    rest = scale.float()
    terms = []
    for _ in range(_SCALE_TERMS):
        terms.append(rest.bfloat16().float())
        rest = rest - terms[-1]
    return torch.stack(terms, dim=1)
