"""The pack: what goes in comes out, and what does not fit is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bridge_diffusion import BridgeError
from bridge_diffusion.models import NativePart, PackLayout, Segment
from bridge_diffusion.text import NativeEmbeddings

Native = Callable[..., NativeEmbeddings]
Draw = Callable[..., Tensor]


@settings(deadline=None)
@given(
    english_width=st.integers(1, 12),
    native_width=st.integers(1, 12),
    pooled_width=st.none() | st.integers(1, 12),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    english_tokens=st.integers(1, 9),
    scale=st.floats(-4, 4, width=32),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_round_trip(
    english_width: int,
    native_width: int,
    pooled_width: int | None,
    lengths: list[int],
    english_tokens: int,
    scale: float,
    dtype: torch.dtype,
) -> None:
    segment = Segment(native_width=native_width, native_tokens=9, pooled_width=pooled_width, mark=3)
    layout = PackLayout(english_width=english_width, segments=(segment,))
    batch = len(lengths)
    english = torch.randn(batch, english_tokens, english_width).to(dtype)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(batch, max(lengths), native_width).to(dtype)
    pooled = None if pooled_width is None else torch.randn(batch, pooled_width).to(dtype)
    native = NativeEmbeddings(hidden=hidden, mask=mask, pooled=pooled)
    part = NativePart(native=native, scale=torch.full((batch,), scale))
    packed = layout.pack(english, {segment: part}, positive=True)
    assert packed.dtype == dtype
    assert layout.is_packed(packed)
    assert not layout.is_packed(english)
    back = layout.unpack(packed)
    assert torch.equal(back.english, english)
    assert bool(back.positive.all())
    if not back.parts:  # nothing to add; half precision knows no smaller numbers
        assert abs(scale) < 1e-7
        return
    (read,) = back.parts
    assert read.segment is segment
    assert torch.equal(read.hidden, hidden)
    assert torch.equal(mask if read.mask is None else read.mask, mask)
    assert (read.mask is None) == bool(mask.all())
    assert (read.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(read.pooled, pooled)
    assert read.scale.dtype == torch.float32
    torch.testing.assert_close(read.scale, torch.full((batch,), scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bridge_has_its_segment(draw: Draw, dtype: torch.dtype) -> None:
    segments = [
        Segment(native_width=width, native_tokens=tokens, mark=mark)
        for width, tokens, mark in ((5, 4, 254), (12, 7, 255), (3, 2, 1))
    ]
    layout = PackLayout(english_width=8, segments=tuple(segments))
    english = draw(2, 6, 8).to(dtype)

    def said(segment: Segment) -> NativePart:
        hidden = draw(2, segment.native_tokens, segment.native_width).to(dtype)
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
        native = NativeEmbeddings(hidden=hidden, mask=mask, pooled=None)
        return NativePart(native=native, scale=torch.tensor([1.0, 0.5]))

    parts = {segment: said(segment) for segment in (segments[2], segments[0])}
    back = layout.unpack(layout.pack(english, parts, positive=False))
    assert torch.equal(back.english, english)
    assert not back.positive.any()
    assert [part.segment for part in back.parts] == [segments[0], segments[2]]
    for part in back.parts:
        assert torch.equal(part.hidden, parts[part.segment].native.hidden)
        assert part.scale.tolist() == [1.0, 0.5]


def test_a_pack_for_other_bridges_is_never_misread(
    layout: PackLayout, segment: Segment, native: Native, draw: Draw
) -> None:
    part = NativePart(native=native(1), scale=torch.ones(1))
    packed = layout.pack(draw(1, 7, 24), {segment: part}, positive=True)
    later = replace(segment, mark=2)
    with pytest.raises(BridgeError, match="marks of other bridges"):
        replace(layout, segments=(later,)).unpack(packed)
    with pytest.raises(BridgeError, match="too few for these bridges"):
        replace(layout, segments=(segment, later)).english(packed)
    wider = replace(later, native_width=30)
    with pytest.raises(BridgeError, match="embeddings 25 wide"):
        replace(layout, segments=(segment, wider)).is_packed(packed)


def test_the_side_and_the_switch(
    layout: PackLayout, segment: Segment, native: Native, draw: Draw
) -> None:
    english = draw(2, 7, 24)
    part = NativePart(native=native(2), scale=torch.ones(2), from_first_step=False)
    packed = layout.pack(english, {segment: part}, positive=False)
    assert not layout.unpack(packed).parts
    assert not layout.unpack(packed).positive.any()
    switched = layout.switched(packed, [True])
    assert layout.unpack(switched).parts
    assert not layout.unpack(packed).parts, "the pack itself must stay as it was"
    assert not layout.unpack(layout.switched(switched, [False])).parts
    assert torch.equal(layout.english(switched), english)


def test_a_scale_of_zero_leaves_the_branch_out(
    layout: PackLayout, segment: Segment, native: Native, draw: Draw
) -> None:
    for scale, parts in ((torch.tensor([0.0, 0.3]), 1), (torch.zeros(2), 0)):
        part = NativePart(native=native(2), scale=scale)
        packed = layout.pack(draw(2, 7, 24), {segment: part}, positive=True)
        assert len(layout.unpack(packed).parts) == parts


def test_what_does_not_fit_is_refused(
    layout: PackLayout, segment: Segment, native: Native, draw: Draw
) -> None:
    def pack(english: Tensor, embeddings: NativeEmbeddings) -> None:
        part = NativePart(native=embeddings, scale=torch.ones(len(english)))
        layout.pack(english, {segment: part}, positive=True)

    with pytest.raises(BridgeError, match="English embeddings are 23 wide"):
        pack(draw(1, 7, 23), native(1))
    with pytest.raises(BridgeError, match="11 tokens"):
        pack(draw(1, 7, 24), native(1, tokens=11))
    with pytest.raises(BridgeError, match="do not go together"):
        pack(draw(2, 7, 24), native(1))
    narrow = native(1)
    narrow = NativeEmbeddings(hidden=narrow.hidden[..., :5], mask=narrow.mask, pooled=None)
    with pytest.raises(BridgeError, match="are 5 wide"):
        pack(draw(1, 7, 24), narrow)
    blind = native(1)
    blind.mask[:] = False
    with pytest.raises(BridgeError, match="no token to attend to"):
        pack(draw(1, 7, 24), blind)
    pooled = replace(segment, pooled_width=3)
    part = NativePart(native=native(1), scale=torch.ones(1))
    with pytest.raises(BridgeError, match="pooled"):
        replace(layout, segments=(pooled,)).pack(draw(1, 7, 24), {pooled: part}, positive=True)
