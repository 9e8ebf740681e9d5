"""Groups of pairs: every one comes, by weight, in batches of one shape, the same again."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_diffusion.training.grouped_order import Group, GroupedOrder, weighted_groups


def order(groups: list[Group], batch_size: int = 4, seed: int = 0) -> GroupedOrder:
    return GroupedOrder(groups, batch_size=batch_size, caption_dropout=0.25, seed=seed)


def drawn(an_order: GroupedOrder, batches: int) -> Counter:
    return Counter(pick.index for i in range(batches) for pick in an_order.batch(i))


def test_weights_are_shares_of_what_is_drawn() -> None:
    sources = np.array([0] * 10 + [1] * 90)
    groups = weighted_groups(sources, [3.0, 1.0], np.zeros(100, dtype=int))
    assert [group.count for group in groups] == [270, 90]
    mixed = order(groups)
    count = drawn(mixed, mixed.batches_per_epoch)
    assert sum(n for index, n in count.items() if index < 10) == 270
    assert {count[index] for index in range(10)} == {27}
    assert {count[index] for index in range(10, 100)} == {1}


def test_without_weights_every_pair_comes_once() -> None:
    sources = np.array([0] * 3 + [1] * 5)
    groups = weighted_groups(sources, None, np.zeros(8, dtype=int))
    assert drawn(order(groups), 2) == Counter(range(8))


def test_a_share_that_is_no_whole_number_of_rounds_is_spread_evenly() -> None:
    group = Group(np.arange(10), 15)
    count = drawn(order([group], batch_size=5), 2 * 3)
    assert set(count.values()) == {3}


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    groups = weighted_groups(np.zeros(9, dtype=int), None, np.array([0, 1, 1] * 3))
    forwards = [order(groups).batch(index) for index in range(9)]
    one = order(groups)
    assert [one.batch(index) for index in reversed(range(9))] == forwards[::-1]
    assert [order(groups, seed=1).batch(index) for index in range(9)] != forwards


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1), st.integers(1, 5))
def test_batches_are_of_one_shape_and_leave_no_pair_out(
    kinds: list[tuple[int, int]], batch_size: int
) -> None:
    sources, shapes = np.array(kinds).T
    weights = [1.0, 2.0, 0.5][: max(sources) + 1]
    an_order = order(weighted_groups(sources, weights, shapes), batch_size)
    for index in range(an_order.batches_per_epoch):
        picks = an_order.batch(index)
        assert len(picks) == batch_size
        assert len({shapes[pick.index] for pick in picks}) == 1
    assert drawn(an_order, an_order.batches_per_epoch).keys() == set(range(len(kinds)))
