"""Batches are made in a background thread, a little ahead of their use."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch of the run, and where its randomness comes from."""

    index: int
    """Its position among the batches of all processes."""
    batch: Mapping[str, Any]
    """What the task made of it."""
    generators: list[torch.Generator]
    """One for each sample, for its noise."""

    def batch_on(self, device: str) -> dict[str, Any]:
        """The batch with its tensors on a device."""
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in self.batch.items()
        }


@contextmanager
def prefetched(draw: Callable[[int], Drawn], first: int, every: int) -> Iterator[Iterator[Drawn]]:
    """The batches first, first + every, ..., made in one thread a little ahead of their use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:

        def batches() -> Iterator[Drawn]:
            waiting: list[Future[Drawn]] = []
            for index in itertools.count(first, every):
                while len(waiting) < _AHEAD:
                    waiting.append(pool.submit(draw, index + every * len(waiting)))
                yield waiting.pop(0).result()

        try:
            yield batches()
        finally:
            pool.shutdown(cancel_futures=True)
