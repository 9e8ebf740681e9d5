"""How a folder that `bdm data prepare` wrote is told from any other. Imports no torch."""

from pathlib import Path
from typing import Any

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


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a whole folder says of itself. BridgeError if that is damaged."""
    file = folder / MANIFEST
    try:
        manifest = read_json(file)
        if manifest.get("format") == FORMAT:
            _ = [(each["file"], each["sha256"]) for each in manifest["shards"]]
            _ = [manifest[name] for name in ("weights", "size", "fingerprint")]
    except (BridgeError, KeyError, TypeError) as error:
        raise BridgeError(
            f"{file} is damaged ({error}); delete it and run bdm data prepare again"
        ) from error
    return manifest


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        return read_json(file).keys() >= _FIELDS
    except BridgeError:
        return False
