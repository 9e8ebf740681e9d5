"""The curves of a run as text: one JSON object a line in run_dir/curves.jsonl.

    {"images": 16000, "loss": 0.41, "gradient_norm": 0.8, ...}

Values of one count of images may come in several lines.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.writing import clear_write_errors

FILE = "curves.jsonl"

Points = list[tuple[int, float]]
"""(images, value), in the order of the images."""


class CurveFile:
    """Writes the curves of a run, line by line."""

    def __init__(self, run_dir: Path, images: int) -> None:
        """Go on after `images` images: what an earlier process wrote beyond them is dropped.

        BridgeError if the file cannot be read or written.
        """
        self._path = run_dir / FILE
        kept = [line for line in _lines(self._path) if line["images"] <= images]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        write_file(text.encode(), self._path)

    def add(self, values: Mapping[str, float], images: int) -> None:
        """BridgeError if the disk is full."""
        line = json.dumps({"images": images, **values}, ensure_ascii=False)
        with clear_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_curves(run_dir: Path) -> dict[str, Points]:
    """The curves of a run by name, none before its first entry. BridgeError for a damaged file."""
    curves: dict[str, Points] = {}
    for line in _lines(run_dir / FILE):
        for name, value in line.items():
            if name != "images":
                curves.setdefault(name, []).append((int(line["images"]), float(value)))
    return {name: sorted(points) for name, points in curves.items()}


def _lines(path: Path) -> list[dict[str, float]]:
    """The lines of a file that is there; the last may be cut, as by a full disk: it is left out."""
    if not path.is_file():
        return []
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeError(f"{path} cannot be read ({error}); delete it to go on") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            line = {str(name): float(value) for name, value in line.items()}
            line["images"] = int(line["images"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            if number == len(texts):
                continue
            raise BridgeError(
                f"{path} is damaged in line {number} ({error}); delete that line"
            ) from error
        lines.append(line)
    return lines
