"""English and native embeddings packed in one tensor, so that a pipeline treats both alike.

Whatever a stock pipeline does with `prompt_embeds` (guidance batches, images per prompt) then
happens to both, and nobody has to guess its batch layout. Rows of a pack:

    English tokens | segment of the first bridge | segment of the second bridge | ...

and of each segment:

    pooled native vector | scale terms, side, switch, mark | native tokens

The last column is the mask of the native tokens. It makes a pack wider than the English
embeddings, so a network that was not told about packs raises instead of misreading one. Every
attached bridge has its segment, whether the call prompts it or not: the split needs shapes alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeEmbeddings

_HEADER_ROWS = 2
_SCALE_TERMS = 3
_SIDE = _SCALE_TERMS
_SWITCH = _SIDE + 1
_MARK = _SWITCH + 1
_HEADER_WIDTH = _MARK + 1

MARKS = range(1, 256)
"""What a segment's mark may be: numbers that every floating type holds exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One bridge's part of a pack."""

    native_width: int
    """Width of the native hidden states."""
    native_tokens: int
    """Native rows: the length of the longest prompt that the bridge encodes."""
    pooled_width: int | None = None
    """Width of the native pooled vector, None where the branch takes none."""
    mark: int = 1
    """Number of the bridge among those on its backbone, one of `MARKS`."""

    def __post_init__(self) -> None:
        assert self.mark in MARKS

    @property
    def rows(self) -> int:
        return _HEADER_ROWS + self.native_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class NativePart:
    """What a call says to one bridge: the native prompts and their scales."""

    native: NativeEmbeddings
    """One prompt for each picture."""
    scale: Float[Tensor, " batch"]
    """What the branch's residuals are multiplied by, float32."""
    from_first_step: bool = True
    """False leaves the branch off until a `StepWindow` switches it on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackedPart:
    """What a pack holds for one branch that is at work, row by row of the pipeline's batch."""

    segment: Segment
    """Whose part it is."""
    hidden: Float[Tensor, "batch tokens native"]
    """The native hidden states, cut to the longest prompt of the batch."""
    mask: Bool[Tensor, "batch tokens"] | None
    """True where a native token is attended to; None if all are."""
    pooled: Float[Tensor, "batch pooled"] | None
    """The native pooled vector, for SDXL."""
    scale: Float[Tensor, " batch"]
    """What the branch's residuals are multiplied by, float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """What a pack holds, row by row of the pipeline's batch."""

    english: Float[Tensor, "batch english_tokens english"]
    """The backbone's own embeddings."""
    positive: Bool[Tensor, " batch"]
    """True for a prompt, False for a negative prompt."""
    parts: tuple[UnpackedPart, ...]
    """Those of the branches at work: prompted, in their window, and not all scales zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackLayout:
    """Where things lie in a pack. It is fixed by the backbone and its bridges together."""

    english_width: int
    """Width of the backbone's text embeddings."""
    segments: tuple[Segment, ...]
    """One for each attached bridge, at least one."""

    @property
    def width(self) -> int:
        """Width of a pack; never that of plain English embeddings."""
        widths = [max(s.native_width, s.pooled_width or 0) for s in self.segments]
        return max(self.english_width, _HEADER_WIDTH, *widths) + 1

    def is_packed(self, states: Tensor) -> bool:
        """Whether these are packed embeddings rather than plain English ones.

        Raises `BridgeError` if they are neither: packed for other bridges than are attached now.
        """
        width = states.shape[-1]
        if width not in (self.width, self.english_width):
            raise _stale(f"embeddings {width} wide, those of this backbone are {self.width} wide")
        return width == self.width

    def pack(
        self,
        english: Float[Tensor, "batch english_tokens english"],
        parts: Mapping[Segment, NativePart],
        *,
        positive: bool,
    ) -> Float[Tensor, "batch rows width"]:
        """Pack in the English embeddings' type and place. Bridges without a part stay silent.

        Raises `BridgeError` if a shape does not fit: a wrong length would split silently later.
        """
        assert parts.keys() <= set(self.segments)
        batch, end, english_width = english.shape
        if english_width != self.english_width:
            raise BridgeError(
                f"English embeddings are {english_width} wide; this backbone's are "
                f"{self.english_width}"
            )
        rows = sum(segment.rows for segment in self.segments)
        packed = english.new_zeros(batch, end + rows, self.width)
        packed[:, :end, : self.english_width] = english
        for segment, start in zip(self.segments, self._starts(packed), strict=True):
            settings = packed[:, start + 1]
            settings[:, _SIDE] = 1.0 if positive else -1.0
            settings[:, _MARK] = segment.mark
            if segment in parts:
                _write(packed[:, start : start + segment.rows], segment, parts[segment])
        return packed

    def english(
        self, packed: Float[Tensor, "batch rows width"]
    ) -> Float[Tensor, "batch english_tokens english"]:
        """The English embeddings alone, as the backbone would have got them."""
        return packed[:, : self._starts(packed)[0], : self.english_width].contiguous()

    def unpack(self, packed: Float[Tensor, "batch rows width"]) -> Unpacked:
        """Everything that the pack holds. Waits for the device, so call it once a prompt.

        Raises `BridgeError` for a pack that was made for other bridges.
        """
        parts = []
        for segment, start in zip(self.segments, self._starts(packed), strict=True):
            rows = packed[:, start : start + segment.rows]
            if not bool((rows[:, 1, _MARK] == segment.mark).all()):
                raise _stale("embeddings with the marks of other bridges")
            part = _read(rows, segment)
            if part is not None:
                parts.append(part)
        return Unpacked(
            english=self.english(packed),
            positive=packed[:, self._starts(packed)[0] + 1, _SIDE] > 0,
            parts=tuple(parts),
        )

    def switched(
        self, packed: Float[Tensor, "batch rows width"], on: Sequence[bool]
    ) -> Float[Tensor, "batch rows width"]:
        """A copy of the pack with each bridge, in the order of the segments, on or off."""
        packed = packed.clone()
        for start, is_on in zip(self._starts(packed), on, strict=True):
            packed[:, start + 1, _SWITCH] = 1.0 if is_on else 0.0
        return packed

    def _starts(self, packed: Tensor) -> list[int]:
        """The first row of each segment, counted from the end: English has any length."""
        starts = [packed.shape[1]]
        for segment in reversed(self.segments):
            starts.append(starts[-1] - segment.rows)
        if starts[-1] < 1:
            raise _stale(f"embeddings of {packed.shape[1]} rows, too few for these bridges")
        return starts[:0:-1]


def _stale(what: str) -> BridgeError:
    return BridgeError(
        f"got {what}: bridges were attached or detached since this prompt was made; make it "
        "again with prompt()"
    )


def _write(rows: Float[Tensor, "batch rows width"], segment: Segment, part: NativePart) -> None:
    native = part.native
    _check(len(rows), segment, native)
    tokens = native.hidden.shape[1]
    if native.pooled is not None and segment.pooled_width is not None:
        rows[:, 0, : segment.pooled_width] = native.pooled.to(rows)
    rows[:, 1, :_SCALE_TERMS] = _terms(part.scale).to(rows)
    rows[:, 1, _SWITCH] = 1.0 if part.from_first_step else 0.0
    text = rows[:, _HEADER_ROWS : _HEADER_ROWS + tokens]
    text[..., : segment.native_width] = native.hidden.to(rows)
    text[..., -1] = native.mask.to(rows)


def _read(rows: Float[Tensor, "batch rows width"], segment: Segment) -> UnpackedPart | None:
    """One bridge's part, or None if its branch has nothing to do."""
    settings, text = rows[:, 1].float(), rows[:, _HEADER_ROWS:]
    scale = settings[:, :_SCALE_TERMS].sum(dim=1)
    if not bool((settings[:, _SWITCH] > 0.5).any() and (scale != 0).any()):
        return None
    mask = text[..., -1] > 0.5
    tokens = int(mask.any(dim=0).nonzero().max()) + 1
    mask = mask[:, :tokens]
    return UnpackedPart(
        segment=segment,
        hidden=text[:, :tokens, : segment.native_width].contiguous(),
        mask=None if bool(mask.all()) else mask,
        pooled=None if segment.pooled_width is None else rows[:, 0, : segment.pooled_width],
        scale=scale,
    )


def _check(batch: int, segment: Segment, native: NativeEmbeddings) -> None:
    hidden, mask, pooled = native.hidden, native.mask, native.pooled
    if hidden.shape[-1] != segment.native_width:
        raise BridgeError(
            f"native embeddings are {hidden.shape[-1]} wide; this bridge's are "
            f"{segment.native_width}: encode them with its own text encoder"
        )
    if not 0 < hidden.shape[1] <= segment.native_tokens:
        raise BridgeError(
            f"native embeddings have {hidden.shape[1]} tokens; this bridge takes 1 to "
            f"{segment.native_tokens}"
        )
    if batch != len(hidden) or mask.shape != hidden.shape[:2]:
        raise BridgeError(
            f"{batch} English prompts, {len(hidden)} native ones and a mask of shape "
            f"{tuple(mask.shape)} do not go together: give one of each for every picture"
        )
    if not bool(mask.any(dim=1).all()):
        raise BridgeError("a native prompt has no token to attend to: give it at least one")
    if segment.pooled_width is not None and (
        pooled is None or pooled.shape != (len(hidden), segment.pooled_width)
    ):
        got = None if pooled is None else tuple(pooled.shape)
        raise BridgeError(
            f"pooled native embeddings are {got}; this bridge takes "
            f"{(len(hidden), segment.pooled_width)}"
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
