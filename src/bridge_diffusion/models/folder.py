"""Where the parts of a bridge lie: in a folder of ours, or in one of the published layout."""

from pathlib import Path

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.convert import (
    CONFIG_FILE,
    PUBLISHED_CLASS,
    WEIGHT_FILES,
)
from bridge_diffusion.reading import read_json

BRIDGE_FILE = "bridge.json"
BRANCH_FOLDER = "branch"
TEXT_FOLDER = "text_encoder"
CARD_FILE = "README.md"

# What is fetched of a hub repository: a published one may hold a whole pipeline besides.
_HUB_FILES = [
    BRIDGE_FILE,
    CARD_FILE,
    f"{BRANCH_FOLDER}/*",
    f"{TEXT_FOLDER}/*",
    CONFIG_FILE,
    *WEIGHT_FILES,
    "controlnet/*",
]


def bridge_folder(name: str | Path) -> Path:
    """A local folder as it is; a hub name of the form owner/name is fetched.

    Raises `BridgeError` where neither is found.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2 or str(name).startswith("."):
        raise BridgeError(
            f"bridge {str(name)!r} is not a folder; give the folder of a saved bridge or a hub "
            "name of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BridgeError(
            f"bridge {str(name)!r} is no local folder and could not be fetched from the hub "
            f"({type(error).__name__}); check the name and the connection"
        ) from error


def published_branch_folder(folder: Path) -> Path:
    """Where a published folder keeps its branch: at its root, or beside a whole pipeline."""
    for candidate in (folder, folder / "controlnet"):
        path = candidate / CONFIG_FILE
        if path.is_file() and read_json(path).get("_class_name") == PUBLISHED_CLASS:
            return candidate
    raise BridgeError(
        f"{folder} holds neither {BRIDGE_FILE} nor a published branch (a config.json of class "
        f"{PUBLISHED_CLASS}): is it the folder of a bridge?"
    )
