"""The most memory that a run has used."""

import sys

import torch


def peak_memory(device: str) -> float | None:
    """GiB: of tensors on a CUDA device, of the whole process elsewhere; None where unknown."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return getrusage(RUSAGE_SELF).ru_maxrss * unit / 2**30
