"""Damaged pictures: another stands in, and where there is no other it is said."""

from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from bridge_diffusion.data.pairs import Pair, UnreadablePicture
from bridge_diffusion.data.readable import ReadablePairs, encode_pictures, readable, unreadable
from bridge_diffusion.data.store import build_store
from bridge_diffusion.errors import BridgeError


@dataclass(frozen=True)
class Greys:
    """Three pictures, as bright as their positions; some are damaged."""

    damaged: frozenset[int]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Pair:
        if index in self.damaged:
            raise UnreadablePicture(str(index), "cut off")
        return Pair(image=Image.new("RGB", (4, 4), (index,) * 3), captions=("x",), key=str(index))


def test_the_next_readable_one_stands_in_round_about() -> None:
    pairs = ReadablePairs(Greys(damaged=frozenset({2})))
    assert [pairs.pair_among([0, 1, 2], place).key for place in range(3)] == ["0", "1", "0"]
    assert pairs.pair_among([2, 1], 0).key == "1"
    assert pairs.pair(2) is None
    assert pairs.skipped == {"2": "cut off"}


def test_rows_stay_with_their_pictures(tmp_path) -> None:
    greys = Greys(damaged=frozenset({1}))

    def encode(indices):
        return encode_pictures(greys, indices, 4, lambda pixels: pixels.mean(dim=(1, 2, 3)))

    store = build_store(tmp_path, {}, 3, encode)
    torch.testing.assert_close(store[2], torch.tensor([2 / 127.5 - 1]))
    assert (len(store[0]), len(store[1])) == (1, 0)
    assert readable(store) == [0, 2]
    assert unreadable(store) == {"1": "cut off"}


def test_no_readable_picture_at_all(tmp_path) -> None:
    greys = Greys(damaged=frozenset(range(3)))
    with pytest.raises(BridgeError, match="none of the 3 pictures can be read; look at 1"):
        ReadablePairs(greys).pair_among([1, 2, 0], 0)
    store = build_store(tmp_path, {}, 3, lambda i: encode_pictures(greys, i, 4, lambda x: x))
    with pytest.raises(BridgeError, match="none of the 3 pictures can be read"):
        readable(store)
