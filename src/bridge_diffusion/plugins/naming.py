"""How plug-ins are named: "style:0.8" on the command line, `<lora:style:0.8>` in a prompt.

Imports nothing heavy, so that a request is checked before anything is loaded.
"""

import difflib
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from bridge_diffusion.errors import BridgeError

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
LARGEST_WEIGHT = 100.0
# Input methods write the full-width signs. Nothing but the closing sign ends a tag.
_TAG = re.compile(r"[<＜]\s*(\w+)\s*[:：]([^<>＜＞]*)[>＞]")
_LORA_TAGS = ("lora", "lyco", "locon")
_OTHER_TAGS = ("hypernet",)
_WEIGHT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_LOOKS_LIKE_A_WEIGHT = re.compile(
    r"[+-]?[\d.]+(e[+-]?\d+)?|[+-]?(nan|inf)|", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA by its name, and how strongly it acts."""

    name: str
    """A path, or the stem of a file in the folder of plug-ins."""
    weight: float = 1.0
    """What its change of the backbone is multiplied by; 1 is as trained."""

    def __str__(self) -> str:
        return f"<lora:{self.name}:{self.weight:g}>"


def parse_lora(text: str) -> LoraUse:
    """Read "FILE_OR_NAME" or "FILE_OR_NAME:WEIGHT".

    Raises:
        BridgeError: There is no name, or the weight is no number that is allowed.
    """
    name, colon, last = text.rpartition(":")
    if not colon or not _LOOKS_LIKE_A_WEIGHT.fullmatch(last.strip()):
        name, last = text, "1"  # a colon may be part of a path
    if not name.strip():
        raise BridgeError(f"--lora {text!r} has no name; give FILE_OR_NAME or FILE_OR_NAME:0.8")
    return LoraUse(name.strip(), _weight(last, f"--lora {text!r}"))


def take_tags(prompt: str) -> tuple[str, tuple[LoraUse, ...]]:
    """A prompt without its `<lora:name:weight>` tags, and what they name, in their order.

    Text that only looks similar stays as it is. Spaces around a tag become one.

    Raises:
        BridgeError: A tag has no name, a weight that is none, or names what is not supported.
    """
    uses: list[LoraUse] = []

    def take(match: re.Match[str]) -> str:
        kind = match[1].lower()
        if kind in _OTHER_TAGS:
            raise BridgeError(
                f"{match[0]}: hypernetworks are not supported; take it out", "bad_tag", tag=match[0]
            )
        if kind not in _LORA_TAGS:
            return match[0]
        uses.append(_tagged(match[0], re.split("[:：]", match[2])))
        return "\0"

    text = _TAG.sub(take, prompt)
    if not uses:
        return prompt, ()
    return re.sub(r"\s*\0[\s\0]*", " ", text).strip(), tuple(uses)


def _tagged(tag: str, parts: list[str]) -> LoraUse:
    name = parts[0].strip()
    if not name:
        raise BridgeError(f"{tag} names no LoRA; write <lora:name:0.8>", "bad_tag", tag=tag)
    if len(parts) > 2:
        raise BridgeError(
            f"{tag} has several weights; write one, as in <lora:name:0.8>", "bad_tag", tag=tag
        )
    return LoraUse(name, _weight(parts[1], tag) if len(parts) == 2 else 1.0)


def _weight(text: str, where: str) -> float:
    text = text.strip()
    value = float(text) if _WEIGHT.fullmatch(text) else math.nan
    if not abs(value) <= LARGEST_WEIGHT:
        raise BridgeError(
            f"{where} has the weight {text!r}; allowed: {-LARGEST_WEIGHT:g} to "
            f"{LARGEST_WEIGHT:g}, for example 0.8",
            "bad_weight",
            weight=text,
            most=LARGEST_WEIGHT,
        )
    return value


def plugin_name(path: Path) -> str:
    """What a plug-in is called: a file's name without its suffix, a folder's whole name."""
    return path.name if path.is_dir() else path.stem


def find_plugin(name: str, folder: Path | None, flag: str, shipped: Path | None = None) -> Path:
    """Where a plug-in is: at a path, or in the folder of plug-ins under its stem.

    Args:
        folder: It is searched with its sub-folders; None where the user gave none.
        flag: The option that named it, for the message.
        shipped: The folder that is searched after it; None where none fits the model.

    Raises:
        BridgeError: There is nothing, or several files have the name.
    """
    return path_at(name) or find_by_stem(name, folder, f"{flag} {name}", shipped)


def path_at(name: str) -> Path | None:
    """The file or folder that a name leads to as a path; None where nothing is there."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, "~" of nobody, a zero byte
        return None


def find_by_stem(name: str, folder: Path | None, where: str, shipped: Path | None = None) -> Path:
    """The plug-in of that stem in the folder of plug-ins, then among those that are shipped.

    A name is never read as a path.

    Raises:
        BridgeError: There is no folder or no such file in it, or several files have the name.
    """
    if folder is not None and not folder.is_dir():
        raise BridgeError(f"--plugins {folder} is no folder; check the path")
    known: list[Path] = []
    for each in filter(None, (folder, shipped)):
        there = plugins_in(each)
        found = [
            path
            for path in there
            if _composed(name) in (_composed(plugin_name(path)), _composed(path.name))
        ]
        if len(found) > 1:
            raise BridgeError(
                f"{where}: {', '.join(str(path) for path in found)} have the name; give one's path"
            )
        if found:
            return found[0]
        known += there
    near = difflib.get_close_matches(name, [plugin_name(path) for path in known], n=3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    if folder is None:
        raise BridgeError(
            f"{where}: nothing is there{hint}; give the path of a file, or with --plugins the "
            "folder in which to look for the name"
        )
    raise BridgeError(
        f"{where}: no file in {folder} has that name{hint or '; bdm plugins lists what is there'}"
    )


def _composed(name: str) -> str:
    """One spelling of a name: macOS stores an accent apart from its letter, keyboards do not."""
    return unicodedata.normalize("NFC", name)


def plugins_in(folder: Path, *, above: tuple[Path, ...] = ()) -> list[Path]:
    """The plug-ins of a folder, sorted: weight files, and folders with a `config.json`.

    Files inside such a folder are parts of it. A folder that is not there has none.

    Args:
        above: The folders that it was reached through; a link back to one of them is not followed.
    """
    found: list[Path] = []
    if not folder.is_dir() or (real := folder.resolve()) in above:
        return found
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            whole = any((path / name).is_file() for name in WHOLE_FOLDER_FILES)
            found += [path] if whole else plugins_in(path, above=(*above, real))
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
    return found


WHOLE_FOLDER_FILES = ("config.json", "adapter_config.json", "model_index.json", "bridge.json")
"""A folder with one of these is one thing, not a collection."""
