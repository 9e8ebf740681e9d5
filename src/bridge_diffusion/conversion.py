"""A bridge on disk => the same bridge in another layout; the target appears whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bridge_diffusion.bridge import (
    BRANCH_FOLDER,
    BRIDGE_FILE,
    Bridge,
    BridgeConfig,
    published_branch_folder,
)
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.config import release_encoding
from bridge_diffusion.models.convert import read_branch, write_published
from bridge_diffusion.reading import read_json
from bridge_diffusion.writing import clear_write_errors

DTYPES = {
    "as-is": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def convert_to_bridge(
    source: Path,
    target: Path,
    *,
    text_encoder: str | Sequence[str] | None = None,
    dtype: str = "as-is",
) -> None:
    """Write a folder that `Bridge.from_pretrained` loads on its own.

    Args:
        text_encoder: Folder or hub name of the native text encoder, where the source has none;
            several for a branch that reads models side by side.
        dtype: A key of `DTYPES`.

    Raises:
        BridgeError: The source is no bridge, or the target is taken.
    """
    _check_source(source)
    _check_target(target)
    bridge = Bridge.from_pretrained(source, text_encoder=text_encoder, dtype=DTYPES[dtype])
    bridge.save_pretrained(target)


def convert_to_published(source: Path, target: Path, *, dtype: str = "as-is") -> list[str]:
    """Write the branch as the paper's release loads it; gives what gets lost, in words.

    Raises:
        BridgeError: The source is no bridge, or the target is taken.
    """
    _check_source(source)
    _check_target(target)
    notes = []
    if (source / BRIDGE_FILE).is_file():
        config = BridgeConfig.from_json(read_json(source / BRIDGE_FILE))
        branch_folder = source / BRANCH_FOLDER
        if config.text_encoding != release_encoding(config.family, config.text_encoding.models):
            notes.append(
                "this branch was trained with another encoding of text than the release's "
                f"({config.text_encoding}); the release's code will not encode text that way"
            )
    else:
        branch_folder = published_branch_folder(source)
    branch = read_branch(branch_folder, DTYPES[dtype])
    with _new_folder(target) as folder:
        write_published(branch, folder)
    return notes


def _check_source(source: Path) -> None:
    if not source.is_dir():
        raise BridgeError(f"{source} is not a folder; give the folder of a bridge")


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BridgeError(f"{target} is there already; give a new folder")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes the target when all of it is there."""
    with clear_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".bdm-", dir=target.parent))
        try:
            folder = partial / target.name
            folder.mkdir()
            yield folder
            folder.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
