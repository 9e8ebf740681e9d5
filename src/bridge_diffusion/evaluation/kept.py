"""What was seen of drawn pictures, kept on the disk part by part, so that a measurement goes on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.page import png_bytes
from bridge_diffusion.images.writing import write_file

FORMAT_VERSION = 1


def read_kept(path: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """The document of an earlier call, or a new one with `described` alone.

    Args:
        described: what was asked for (options, prompts): it decides what the parts mean.

    Raises:
        BridgeError: the file holds a measurement of something else, or is not readable.
    """
    wanted = {"format_version": FORMAT_VERSION, **described}
    if not path.is_file():
        return wanted
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeError(f"{path} is not readable ({error}); delete it to measure anew") from error
    for name, value in json.loads(json.dumps(wanted)).items():
        if found.get(name) != value:
            raise BridgeError(
                f"{path} holds a measurement of other {name.replace('_', ' ')}; give another "
                "folder with --work, or the options that it was begun with"
            )
    return found


def write_kept(path: Path, document: Mapping[str, Any]) -> None:
    """Save the document whole. BridgeError if the disk is full."""
    write_file(json.dumps(document, ensure_ascii=False).encode() + b"\n", path)


def part_key(*hashes: str) -> str:
    """Names the weights that a part was drawn with: a part of others is drawn anew."""
    return hashlib.sha256("|".join(hashes).encode()).hexdigest()[:16]


def write_strip(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Keep square pictures of one size side by side, for a report."""
    side = pictures[0].width
    strip = Image.new("RGB", (len(pictures) * side, side))
    for column, picture in enumerate(pictures):
        strip.paste(picture, (column * side, 0))
    write_file(png_bytes(strip), path)


def read_strip(path: Path) -> list[Image.Image]:
    """The pictures of a strip; none if it was not kept."""
    if not path.is_file():
        return []
    with Image.open(path) as strip:
        side, whole = strip.height, strip.convert("RGB")
    return [whole.crop((x, 0, x + side, side)) for x in range(0, whole.width, side)]
