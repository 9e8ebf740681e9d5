"""The cropped drawings of one vendor, in memory, resized on demand."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.artwork import draw_emoji

SHIPPED_VENDORS = ("noto", "twemoji")

_WAYS: dict[str, dict[str, Any]] = {
    ".png": {"optimize": True},
    ".webp": {"lossless": True, "exact": True, "quality": 100, "method": 6},
}


@dataclass(frozen=True, slots=True)
class Sprites:
    """RGBA drawings by code points."""

    vendor: str
    """Key of `artwork.VENDORS`."""
    pictures: dict[str, Image.Image]
    """Square drawings by code points, cropped to the opaque box."""
    _resized: dict[tuple[str, int], Image.Image] = field(default_factory=dict, repr=False)

    @classmethod
    def draw(cls, vendor: str, codepoints: Iterable[str], size: int = 128) -> "Sprites":
        """Draws them from the vendor's package (`pip install "bridge-diffusion[world]"`)."""
        return cls(vendor, {code: draw_emoji(vendor, code, size) for code in codepoints})

    @classmethod
    def shipped(cls, vendor: str) -> "Sprites":
        """The 64-pixel pictures that are part of this package: `concepts.shipped_concepts()`.

        Raises:
            BridgeError: this vendor's pictures are not shipped.
        """
        if vendor not in SHIPPED_VENDORS:
            raise BridgeError(
                f"no {vendor} pictures are shipped, only {' and '.join(SHIPPED_VENDORS)}; "
                "draw them with: bdm world data"
            )
        return cls.load(Path(__file__).parent / "pictures", vendor)

    @classmethod
    def load(cls, folder: Path, vendor: str) -> "Sprites":
        """Reads what `save` wrote, as `bdm world data` does: `folder/vendor/1F9E7.png`.

        Raises:
            BridgeError: the folder holds no pictures of this vendor, or one is damaged.
        """
        paths = sorted(p for p in (folder / vendor).glob("*") if p.suffix in _WAYS)
        if not paths:
            raise BridgeError(
                f"no {vendor} pictures in {folder}; run: bdm world data --out {folder}"
            )
        return cls(vendor, {path.stem: _read(path) for path in paths})

    def save(self, folder: Path, suffix: Literal[".png", ".webp"] = ".png") -> None:
        """Writes them without loss, `folder/vendor/1F9E7.png`; WebP is a quarter smaller."""
        target = folder / self.vendor
        target.mkdir(parents=True, exist_ok=True)
        for code, picture in self.pictures.items():
            picture.save(target / f"{code}{suffix}", **_WAYS[suffix])

    def picture(self, codepoints: str, side: int) -> Image.Image:
        """One drawing, RGBA, `side` x `side` pixels.

        Raises:
            BridgeError: there is none of this concept.
        """
        key = (codepoints, side)
        if key not in self._resized:
            if codepoints not in self.pictures:
                raise BridgeError(
                    f"no {self.vendor} picture of {codepoints} among these {len(self.pictures)}; "
                    "draw all of them with: bdm world data"
                )
            # Premultiplied while resizing, else the colour of clear pixels bleeds into the edges.
            picture = self.pictures[codepoints].convert("RGBa")
            resized = picture.resize((side, side), Image.Resampling.LANCZOS)
            self._resized[key] = resized.convert("RGBA")
        return self._resized[key]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGBA")
    except OSError as error:
        raise BridgeError(f"{path} is no readable picture; build the world's data anew") from error
