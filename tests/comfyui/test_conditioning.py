"""Native text on conditionings: batches, lengths, and text that nobody reads."""

import pytest
import torch
from bridge_nodes.conditioning import NativeCondition, joined, with_native_text
from hypothesis import given
from hypothesis import strategies as st

from bridge_diffusion import BridgeError
from bridge_diffusion.text import NativeEmbeddings


def embeddings(
    rows: int = 1, tokens: int = 3, value: float = 1.0, pooled: bool = False
) -> NativeEmbeddings:
    return NativeEmbeddings(
        hidden=torch.full((rows, tokens, 2), value),
        mask=torch.ones(rows, tokens, dtype=torch.bool),
        pooled=torch.full((rows, 4), value) if pooled else None,
    )


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), pooled=st.booleans())
def test_shorter_texts_are_padded_and_the_padding_masked(lengths: list[int], pooled: bool) -> None:
    parts = [embeddings(1, n, i + 1.0, pooled) for i, n in enumerate(lengths)]
    whole = joined(parts)
    assert whole.hidden.shape == (len(lengths), max(lengths), 2)
    assert whole.mask.sum(dim=1).tolist() == lengths
    for i, n in enumerate(lengths):
        assert (whole.hidden[i, :n] == i + 1).all()
        assert (whole.hidden[i, n:] == 0).all()
        assert whole.mask[i, :n].all()
    if pooled:
        assert whole.pooled is not None
        assert whole.pooled[:, 0].tolist() == [i + 1 for i in range(len(lengths))]
    else:
        assert whole.pooled is None


def test_a_batch_has_the_rows_of_prompt_and_negative_in_order() -> None:
    prompt, negative = (NativeCondition(embeddings(value=v), "b") for v in (1.0, 2.0))
    parts = [c.process_cond(batch_size=2, area=None) for c in (prompt, negative)]
    assert parts[0].can_concat(parts[1])
    rows = parts[0].concat(parts[1:])
    assert rows.embeddings.hidden[:, 0, 0].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(("rows", "batch"), [(2, 5), (3, 2), (1, 1)])
def test_rows_are_repeated_and_cut_to_the_batch(rows: int, batch: int) -> None:
    part = embeddings(rows)
    part.hidden[:, 0, 0] = torch.arange(rows)
    got = NativeCondition(part, "b").process_cond(batch_size=batch).embeddings
    assert got.hidden[:, 0, 0].tolist() == [i % rows for i in range(batch)]
    assert len(got.mask) == batch


def test_text_of_another_bridge_or_none_goes_by_itself() -> None:
    text = NativeCondition(embeddings(), "b")
    assert not text.can_concat(NativeCondition(embeddings(), "other"))
    assert not text.can_concat(object())


def test_text_that_no_bridge_takes_out_is_an_error() -> None:
    rows = NativeCondition(embeddings(), "my bridge").concat([])
    with pytest.raises(BridgeError, match="native text for the bridge 'my bridge'"):
        hasattr(rows, "dtype")  # what ComfyUI asks before it hands a condition to the backbone


def test_the_given_conditioning_stays_as_it_was() -> None:
    first = NativeCondition(embeddings(), "a")
    given = [[torch.zeros(1, 77, 8), {"pooled_output": None, "model_conds": {"a": first}}]]
    text = NativeCondition(embeddings(), "b")
    new = with_native_text(given, "b", text)
    assert new[0][1]["model_conds"] == {"a": first, "b": text}
    assert new[0][1].keys() == given[0][1].keys()
    assert given[0][1]["model_conds"] == {"a": first}
    assert new[0][0] is given[0][0]
