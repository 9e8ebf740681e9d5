"""Microsoft's Fluent Emoji (MIT), which no PyPI package holds: read from an npm package.

    npm pack @iconify-json/fluent-emoji-flat@1.2.6 && tar xzf iconify-json-fluent-emoji-flat-*.tgz

The folder `package` that this leaves is what `FluentIcons` takes.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.artwork import NoPicture, draw_svg


class FluentIcons:
    """The pictures of an unpacked `@iconify-json/fluent-emoji-flat` package."""

    def __init__(self, folder: Path) -> None:
        """Raises BridgeError if the folder is no such package."""
        icons = _read(folder, "icons.json")
        self._names = _read(folder, "chars.json")
        self._aliases = icons.get("aliases", {})
        self._side = icons.get("width", icons.get("height", 32))
        if not isinstance(icons.get("icons"), dict):
            raise BridgeError(
                f"{folder / 'icons.json'} holds no icons; give the unpacked npm package "
                "@iconify-json/fluent-emoji-flat"
            )
        self._icons: dict[str, Any] = icons["icons"]

    def draw(self, codepoints: str, size: int) -> Image.Image:
        """The picture of one emoji, RGBA, `size` x `size` pixels, cropped to its opaque box.

        Raises:
            NoPicture: the set lacks the emoji.
        """
        name = self._names.get(codepoints.lower())
        name = self._aliases.get(name, {}).get("parent", name)
        if name not in self._icons:
            raise NoPicture(f"Fluent Emoji has no picture {codepoints}")
        icon = self._icons[name]
        width, height = icon.get("width", self._side), icon.get("height", self._side)
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
        try:
            return draw_svg(size, text=svg)
        except ValueError as error:
            raise BridgeError(f"the Fluent icon {name!r} cannot be drawn: {error}") from error


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeError(
            f"cannot read {folder / name} ({error}); give the unpacked npm package "
            "@iconify-json/fluent-emoji-flat"
        ) from error
    if not isinstance(document, dict):
        raise BridgeError(f"{folder / name} is no JSON object; unpack the npm package again")
    return document
