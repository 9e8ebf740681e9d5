"""How a folder that `bdm data prepare` wrote is told from any other. Imports no torch."""

from pathlib import Path

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.reading import read_json

STARTED, MANIFEST = "started.json", "manifest.json"
FORMAT = 1
_FIELDS = frozenset({"format", "data", "named", "filters", "buckets", "models"})


def is_prepared(folder: Path) -> bool:
    """Whether `bdm data prepare` wrote into the folder, be it whole or not.

    By what the files say: other software writes a manifest.json too.
    """
    return any(_is_ours(folder / name) for name in (MANIFEST, STARTED))


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        return read_json(file).keys() >= _FIELDS
    except BridgeError:
        return False
