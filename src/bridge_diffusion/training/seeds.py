"""Random streams that depend on a seed and a position alone, so that a run can be continued."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *position: int) -> int:
    """A well-mixed 63-bit seed for one position (step, batch, scene, ...) of a seed's stream."""
    state = np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def stream_generator(seed: int, *position: int) -> torch.Generator:
    """A CPU generator for one position of a seed's stream; the same on every device."""
    return torch.Generator("cpu").manual_seed(stream_seed(seed, *position))


def sample_generators(seed: int, stream: int, first: int, count: int) -> list[torch.Generator]:
    """A generator for each of the samples first..first+count-1 of a run.

    What a sample draws depends on its place in the run alone, and neither on the size of its batch
    nor on how many processes share the work.
    """
    return [stream_generator(seed, stream, first + i) for i in range(count)]


def draw_each(
    generators: Sequence[torch.Generator], draw: Callable[[torch.Generator], Tensor]
) -> Tensor:
    """What `draw` gives for each sample's generator, stacked to a batch."""
    return torch.stack([draw(generator) for generator in generators])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global CPU generator, which fresh weights come from, seeded for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
