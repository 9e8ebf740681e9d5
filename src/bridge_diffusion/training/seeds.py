"""Random streams that depend on a seed and a position alone, so that a run can be continued."""

import numpy as np
import torch


def stream_seed(seed: int, *position: int) -> int:
    """A well-mixed 63-bit seed for one position (step, batch, scene, ...) of a seed's stream."""
    state = np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def stream_generator(seed: int, *position: int) -> torch.Generator:
    """A CPU generator for one position of a seed's stream; the same on every device."""
    return torch.Generator("cpu").manual_seed(stream_seed(seed, *position))
