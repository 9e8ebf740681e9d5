"""The pack: what goes in comes out, and what does not fit is refused."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bridge_diffusion import BridgeError
from bridge_diffusion.models import PackLayout
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
    layout = PackLayout(
        english_width=english_width,
        native_width=native_width,
        native_tokens=9,
        pooled_width=pooled_width,
    )
    batch = len(lengths)
    english = torch.randn(batch, english_tokens, english_width).to(dtype)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(batch, max(lengths), native_width).to(dtype)
    pooled = None if pooled_width is None else torch.randn(batch, pooled_width).to(dtype)
    packed = layout.pack(
        english,
        NativeEmbeddings(hidden=hidden, mask=mask, pooled=pooled),
        scale=torch.full((batch,), scale),
        positive=True,
    )
    assert packed.dtype == dtype
    assert layout.is_packed(packed)
    assert not layout.is_packed(english)
    back = layout.unpack(packed)
    assert torch.equal(back.english, english)
    assert torch.equal(back.hidden, hidden)
    assert torch.equal(mask if back.mask is None else back.mask, mask)
    assert (back.mask is None) == bool(mask.all())
    assert (back.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(back.pooled, pooled)
    assert bool(back.positive.all())
    assert back.scale.dtype == torch.float32
    torch.testing.assert_close(back.scale, torch.full((batch,), scale), rtol=1e-6, atol=1e-6)


def test_the_side_and_the_switch(layout: PackLayout, native: Native, draw: Draw) -> None:
    english = draw(2, 7, 24)
    ones = torch.ones(2)
    packed = layout.pack(english, native(2), scale=ones, positive=False, from_first_step=False)
    assert not layout.unpack(packed).active
    assert not layout.unpack(packed).positive.any()
    switched = layout.activate(packed)
    assert layout.unpack(switched).active
    assert not layout.unpack(packed).active, "the pack itself must stay as it was"
    assert torch.equal(layout.english(switched), english)


def test_a_scale_of_zero_leaves_the_branch_out(
    layout: PackLayout, native: Native, draw: Draw
) -> None:
    packed = layout.pack(draw(2, 7, 24), native(2), scale=torch.tensor([0.0, 0.3]), positive=True)
    assert layout.unpack(packed).active
    packed = layout.pack(draw(2, 7, 24), native(2), scale=torch.zeros(2), positive=True)
    assert not layout.unpack(packed).active


def test_what_does_not_fit_is_refused(layout: PackLayout, native: Native, draw: Draw) -> None:
    def pack(english: Tensor, embeddings: NativeEmbeddings) -> None:
        layout.pack(english, embeddings, scale=torch.ones(len(english)), positive=True)

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
    pooled = PackLayout(english_width=24, native_width=20, native_tokens=10, pooled_width=3)
    with pytest.raises(BridgeError, match="pooled"):
        pooled.pack(draw(1, 7, 24), native(1), scale=torch.ones(1), positive=True)
