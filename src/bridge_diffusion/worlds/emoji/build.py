"""Builds the emoji world's data: pictures of each vendor, a manifest, a contact sheet, credits.

    OUT/noto/1F9E7.png      one drawing: RGBA, cropped to its opaque box, square
    OUT/manifest.json       what each picture shows, whose it is, its hashes
    OUT/contact_sheet.png   all of it at a glance, held-out concepts marked
    OUT/NOTICE.txt          the credit lines that go with every copy

Two builds with the same packages give the same files. A build appears whole or not at all.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.artwork import VENDORS, NoPicture, crop_to_square, draw_emoji
from bridge_diffusion.worlds.emoji.concepts import Concept, all_concepts
from bridge_diffusion.worlds.emoji.contact_sheet import SIDE, contact_sheet
from bridge_diffusion.worlds.emoji.fluent import FluentIcons
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.whole_folder import whole_folder

MANIFEST_FORMAT = 1
_MANIFEST, _SHEET, _NOTICE = "manifest.json", "contact_sheet.png", "NOTICE.txt"
_SMALLEST, _LARGEST = 16, 1024

_Drawer = Callable[[str, int], Image.Image]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What to build."""

    vendors: tuple[str, ...] = ("noto", "twemoji")
    """Whose drawings: keys of `artwork.VENDORS`; "fluent" comes with `fluent`."""
    size: int = 128
    """Side of the pictures, pixels."""
    fluent: Path | None = None
    """Folder of the unpacked npm package @iconify-json/fluent-emoji-flat, or None."""

    def __post_init__(self) -> None:
        """Raises BridgeError if a value is not allowed."""
        allowed = sorted(set(VENDORS) - {"fluent"})
        for vendor in self.vendors:
            if vendor not in allowed:
                mend = "; give its folder with --fluent" if vendor == "fluent" else ""
                raise BridgeError(
                    f"unknown vendor {vendor!r}: allowed are {', '.join(allowed)}{mend}"
                )
        if len(set(self.vendors)) != len(self.vendors):
            raise BridgeError(f"a vendor is named twice in {','.join(self.vendors)}")
        if not self.vendors and self.fluent is None:
            raise BridgeError(f"no vendor given: allowed are {', '.join(allowed)}")
        if not _SMALLEST <= self.size <= _LARGEST:
            raise BridgeError(
                f"a size of {self.size} pixels is not allowed; take {_SMALLEST} to {_LARGEST}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What was built."""

    folder: Path
    """Where it lies."""
    pictures: dict[str, int]
    """Number of pictures by vendor."""
    missing: dict[str, tuple[Concept, ...]]
    """The concepts that a vendor's set lacks; vendors that lack none are not listed."""


def build_world(
    out: Path,
    options: BuildOptions | None = None,
    *,
    concepts: tuple[Concept, ...] | None = None,
    on_picture: Callable[[str], None] = lambda vendor: None,
) -> BuildReport:
    """Builds the world's data in a folder that is new, empty, or holds an earlier build.

    Args:
        out: the folder; an earlier build in it is replaced once the new one is whole.
        options: default `BuildOptions()`.
        concepts: what to draw; None for all 852.
        on_picture: called with the vendor after each picture, to show progress.

    Raises:
        BridgeError: a package is missing, the folder holds other files or cannot be written, or
            the disk is full. The folder is then as it was before.
    """
    options = options or BuildOptions()
    concepts = concepts or all_concepts()
    drawers = _drawers(options)
    with whole_folder(out, earlier=_earlier_files(out)) as folder:
        sets = [
            _build_set(folder, vendor, draw, concepts, options.size, on_picture)
            for vendor, draw in drawers.items()
        ]
        sheet = contact_sheet([made.thumbnails for made in sets], concepts)
        sheet.save(folder / _SHEET, optimize=True)
        manifest = _manifest(sets, concepts, options.size)
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")
        notice = "".join(f"{made.vendor}: {VENDORS[made.vendor].credit}\n" for made in sets)
        (folder / _NOTICE).write_text(notice, encoding="utf-8")
    return BuildReport(
        folder=out,
        pictures={made.vendor: len(made.entries) for made in sets},
        missing={made.vendor: made.missing for made in sets if made.missing},
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a build.

    Raises:
        BridgeError: the folder holds no build, or one of another format.
    """
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeError(
            f"cannot read {path} ({error}); build it: bdm world data --out {folder}"
        ) from error
    entries = manifest.get("pictures") if isinstance(manifest, dict) else None
    whole = isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("file"), str) for entry in entries
    )
    if not whole or manifest.get("format") != MANIFEST_FORMAT:
        raise BridgeError(f"{path} is no manifest of format {MANIFEST_FORMAT}; build it anew")
    return manifest


def pixels_sha256(picture: Image.Image) -> str:
    """The hash of a picture's RGBA bytes, which no PNG encoder changes."""
    return hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()


def _drawers(options: BuildOptions) -> dict[str, _Drawer]:
    drawers: dict[str, _Drawer] = {
        vendor: partial(draw_emoji, vendor) for vendor in options.vendors
    }
    if options.fluent is not None:
        drawers["fluent"] = FluentIcons(options.fluent).draw
    return drawers


@dataclass(frozen=True, kw_only=True, slots=True)
class _PictureSet:
    """One vendor's pictures, written."""

    vendor: str
    entries: list[dict[str, Any]]
    thumbnails: Sprites
    missing: tuple[Concept, ...]


def _build_set(
    folder: Path,
    vendor: str,
    draw: _Drawer,
    concepts: tuple[Concept, ...],
    size: int,
    on_picture: Callable[[str], None],
) -> _PictureSet:
    """Draws and writes the pictures one by one; only thumbnails stay in memory."""
    (folder / vendor).mkdir()
    entries, thumbnails, missing = [], {}, []
    for concept in concepts:
        try:
            picture = draw(concept.codepoints, size)
        except NoPicture:
            missing.append(concept)
        else:
            file = f"{vendor}/{concept.codepoints}.png"
            picture.save(folder / file, optimize=True)
            entries.append(_entry(folder, file, vendor, concept, picture))
            thumbnails[concept.codepoints] = crop_to_square(picture, SIDE)
        on_picture(vendor)
    return _PictureSet(
        vendor=vendor,
        entries=entries,
        thumbnails=Sprites(vendor, thumbnails),
        missing=tuple(missing),
    )


def _entry(
    folder: Path, file: str, vendor: str, concept: Concept, picture: Image.Image
) -> dict[str, Any]:
    return {
        "file": file,
        "vendor": vendor,
        "licence": VENDORS[vendor].licence,
        "codepoints": concept.codepoints,
        "subgroup": concept.subgroup,
        "held_out": concept.held_out,
        "native_region": concept.region,
        "literal_probe": concept.literal_probe,
        "captions": concept.names,
        "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        "pixels_sha256": pixels_sha256(picture),
    }


def _manifest(sets: list[_PictureSet], concepts: tuple[Concept, ...], size: int) -> dict[str, Any]:
    vendors = {
        made.vendor: {
            "licence": VENDORS[made.vendor].licence,
            "credit": VENDORS[made.vendor].credit,
            "packages": _versions(VENDORS[made.vendor].distributions),
            "pictures": len(made.entries),
            "missing": [concept.codepoints for concept in made.missing],
        }
        for made in sets
    }
    return {
        "format": MANIFEST_FORMAT,
        "size": size,
        "captions": "names of Unicode CLDR 48.2, Unicode-3.0",
        "concepts": len(concepts),
        "held_out": sum(concept.held_out for concept in concepts),
        "literal_probes": [concept.codepoints for concept in concepts if concept.literal_probe],
        "vendors": vendors,
        "pictures": [entry for made in sets for entry in made.entries],
    }


def _versions(distributions: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions; None for a package that Python does not install (npm)."""
    versions: dict[str, str | None] = {}
    for name in distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _earlier_files(out: Path) -> frozenset[str]:
    """The files of an earlier build in this folder, by its manifest."""
    if not (out / _MANIFEST).exists():
        return frozenset()
    pictures = (entry["file"] for entry in read_manifest(out)["pictures"])
    return frozenset((*pictures, _MANIFEST, _SHEET, _NOTICE))
