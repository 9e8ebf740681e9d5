import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion.text import windows as w
from bridge_diffusion.text.syntax import WeightedPiece

SPECIAL = w.SpecialIds(start=101, end=102, padding=0)
ids = st.lists(st.integers(103, 700), max_size=260)


@given(ids, st.integers(1, 60))
def test_bodies_hold_every_token_once(tokens, body):
    count = w.WeightedTokens(tuple(tokens), (1.0,) * len(tokens)).windows(body)
    parts = w.bodies(tokens, body, count)
    assert [token for part in parts for token in part] == tokens
    assert len(parts) == count >= 1
    assert all(len(part) <= body for part in parts)
    assert count == 1 or parts[-1]


@given(st.lists(st.integers(103, 700), max_size=50))
def test_the_release_frames_ordinary_tokens_as_we_do(body):
    assert w.release_window_ids(body, 52) == w.window_ids(body, 52, SPECIAL)


def test_the_release_ends_a_prompt_at_a_literal_padding_token():
    assert w.release_window_ids([7, 0, 8], 6) == [101, 7, 102, 8, 0, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_joined_windows_keep_the_first_start_and_the_last_end(count):
    parts = torch.arange(count * 6).reshape(count, 6)
    joined = w.join_windows(parts).tolist()
    inner = [x for part in parts.tolist() for x in part[1:-1]]
    assert joined == [0, *inner, count * 6 - 1]


def test_weights_stand_at_their_tokens():
    assert w.joined_weights((2.0, 0.5), 5).tolist() == [1, 2, 0.5, 1, 1]


def test_a_cut_prompt_is_reported(encoder, caplog):
    pieces = [WeightedPiece("红狐", 1.0), WeightedPiece("雪地", 2.0)]
    with caplog.at_level(logging.WARNING):
        tokens = w.tokenize_pieces(pieces, encoder.tokenizer, limit=3)
    assert len(tokens.ids) == 3
    assert tokens.weights == (1.0, 1.0, 2.0)
    assert "4 tokens, at most 3 are read; cut off: 地" in caplog.text
    with caplog.at_level(logging.WARNING):
        w.tokenize_pieces([WeightedPiece("红" * 1000, 1.0)], encoder.tokenizer, limit=3)
    assert caplog.messages[-1].endswith("...")
    assert len(caplog.messages[-1]) < 150


def test_states_without_weights_stay_even_if_their_mean_is_zero() -> None:
    hidden = torch.tensor([[[1.0, -1.0], [2.0, -2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    weights = torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    out = w.weigh_restoring_mean(hidden, weights)
    assert torch.equal(out[0], hidden[0])
    assert out[1].mean() == pytest.approx(2.5)
    assert not torch.equal(out[1], hidden[1])


def test_restored_mean_and_power():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 8, generator=generator) + 1
    weights = torch.ones(2, 9)
    weights[:, 3] = torch.tensor([1.5, 0.0])
    by_mean = w.weigh_restoring_mean(hidden, weights)
    torch.testing.assert_close(by_mean.mean((1, 2)), hidden.mean((1, 2)))
    by_power = w.weigh_restoring_power(hidden[0], weights[0])
    torch.testing.assert_close(by_power.square().mean(), hidden[0].square().mean())
    ratio = (by_power / hidden[0]).mean(1)
    torch.testing.assert_close(ratio[3] / ratio[0], torch.tensor(1.5))
    assert torch.equal(w.weigh_restoring_power(hidden[0], torch.ones(9)), hidden[0])
