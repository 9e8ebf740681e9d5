"""Pictures with captions: the contract, the forms that they come in, and what was encoded once.

The public names are loaded on first use, so that the command line can read its options quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge_diffusion.data.folder import PairFolder
    from bridge_diffusion.data.pairs import Pair, PairDataset, UnreadablePicture, UnusablePair
    from bridge_diffusion.data.shards import TarShards
    from bridge_diffusion.data.tables import PairTable

_HOMES = {
    "Pair": "pairs",
    "PairDataset": "pairs",
    "PairFolder": "folder",
    "PairTable": "tables",
    "TarShards": "shards",
    "UnreadablePicture": "pairs",
    "UnusablePair": "pairs",
}

__all__ = [
    "Pair",
    "PairDataset",
    "PairFolder",
    "PairTable",
    "TarShards",
    "UnreadablePicture",
    "UnusablePair",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
