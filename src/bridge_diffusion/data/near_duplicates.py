"""Which pictures are nearly the same: hashes of 64 bits that differ in few of them."""

from itertools import pairwise

_BITS = 64


class NearDuplicates:
    """Hashes seen so far, found again by any that differs in at most `distance` bits.

    Exact: of distance + 1 bands of a hash, one at least is the same in two hashes that differ in no
    more bits than that, so only hashes that share a band are compared.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        edges = [_BITS * i // (distance + 1) for i in range(distance + 2)]
        self._bands = [(a, (1 << (b - a)) - 1) for a, b in pairwise(edges)]
        self._seen: list[dict[int, list[tuple[int, str]]]] = [{} for _ in self._bands]

    def add(self, value: int, name: str) -> str | None:
        """Name of an earlier hash that is near; else None, and this one is kept from now on."""
        for (shift, mask), seen in zip(self._bands, self._seen, strict=True):
            for other, other_name in seen.get(value >> shift & mask, ()):
                if (value ^ other).bit_count() <= self._distance:
                    return other_name
        for (shift, mask), seen in zip(self._bands, self._seen, strict=True):
            seen.setdefault(value >> shift & mask, []).append((value, name))
        return None
