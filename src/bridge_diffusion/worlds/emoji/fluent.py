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
        names, icons = _read(folder, "chars.json"), _read(folder, "icons.json")
        self._side = icons.get("width", icons.get("height", 32))
        self._drawings = _table(icons, "icons", "body")
        self._aliases = _table(icons, "aliases", "parent") if "aliases" in icons else {}
        self._names = names

    def draw(self, codepoints: str, size: int) -> Image.Image:
        """The picture of one emoji, RGBA, `size` x `size` pixels, cropped to its opaque box.

        Raises:
            NoPicture: the set lacks the emoji.
            BridgeError: the drawing is damaged.
        """
        name = str(self._names.get(codepoints.lower()))
        if name in self._aliases:
            name = self._aliases[name]["parent"]
        if name not in self._drawings:
            raise NoPicture(f"Fluent Emoji has no picture {codepoints}")
        icon = self._drawings[name]
        width, height = icon.get("width", self._side), icon.get("height", self._side)
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
        return draw_svg(size, text=svg)


def _table(document: dict[str, Any], key: str, field: str) -> dict[str, dict[str, Any]]:
    """The object `document[key]`, whose values are objects with a text in `field`."""
    table = document.get(key)
    if isinstance(table, dict) and all(
        isinstance(row, dict) and isinstance(row.get(field), str) for row in table.values()
    ):
        return table
    raise BridgeError(f'icons.json holds no table "{key}" of Iconify; unpack the package again')


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BridgeError(
            f"cannot read {path} ({reason}); give the unpacked npm package "
            "@iconify-json/fluent-emoji-flat"
        ) from error
    if not isinstance(document, dict):
        raise BridgeError(f"{path} is no JSON object; unpack the npm package again")
    return document
