"""Pictures with captions: the contract, a folder of them, and what was encoded once on disk."""

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.data.pairs import Pair, PairDataset, UnreadablePicture

__all__ = ["Pair", "PairDataset", "PairFolder", "UnreadablePicture"]
