"""Pictures with captions: where they come from, in which order, and encoded once on disk."""

from bridge_diffusion.data.folder import PairFolder
from bridge_diffusion.data.opening import open_dataset
from bridge_diffusion.data.pairs import Pair, PairDataset, UnreadablePicture

__all__ = ["Pair", "PairDataset", "PairFolder", "UnreadablePicture", "open_dataset"]
