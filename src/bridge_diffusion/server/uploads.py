"""Uploaded pictures: decoded within limits, written anew, and named by their content."""

import hashlib
import io
import threading
import time
from pathlib import Path

from PIL import Image, ImageOps

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.metadata import FORMATS
from bridge_diffusion.images.reading import UndecodablePicture, decode_opacity, decode_rgb
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.server.database import Database

_FORMATS = tuple(sorted(set(FORMATS.values())))
_DECODED_AT_ONCE = 2  # pictures, so that many large ones do not fill the memory


class UploadStore:
    """The folder of uploads. Nothing of a client's file is kept but its pixels."""

    def __init__(self, folder: Path, database: Database, most_pixels: int) -> None:
        self._folder = folder
        self._database = database
        self._most_pixels = most_pixels
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)

    def add(self, data: bytes, *, invert: bool = False) -> str:
        """Keep a picture, or its negative; its name, by which orders mention it.

        Raises:
            BridgeError: It is no PNG, JPEG or WebP, is damaged or has too many pixels.
        """
        with self._decoding:
            image = self.decode(data)
            return self.add_image(ImageOps.invert(image) if invert else image)

    def decode(self, data: bytes) -> Image.Image:
        """A client's picture as RGB. Raises `BridgeError` as `add`."""
        try:
            return decode_rgb(io.BytesIO(data), formats=_FORMATS, most_pixels=self._most_pixels)
        except UndecodablePicture as error:
            raise _unreadable(error) from error

    def add_mask(self, data: bytes) -> str | None:
        """Keep a picture's transparent parts as a mask, white where it is transparent; its name.

        None where nothing is transparent. Raises `BridgeError` as `add`.
        """
        with self._decoding:
            try:
                opacity = decode_opacity(
                    io.BytesIO(data), formats=_FORMATS, most_pixels=self._most_pixels
                )
            except UndecodablePicture as error:
                raise _unreadable(error) from error
            return None if opacity is None else self.add_image(ImageOps.invert(opacity))

    def add_image(self, image: Image.Image) -> str:
        """Keep a decoded picture; its name."""
        buffer = io.BytesIO()
        clean = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
        clean.save(buffer, "PNG", compress_level=4)
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()
        path = self._folder / f"{name}.png"
        if not path.exists():
            write_file(data, path)
        self._database.run(
            "INSERT OR IGNORE INTO uploads (id, created, width, height) VALUES (?, ?, ?, ?)",
            (name, time.time(), *image.size),
        )
        return name

    def path(self, name: str) -> Path:
        """The file of an upload. Raises `BridgeError` where there is none of that name."""
        self.size(name)
        return self._folder / f"{name}.png"

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels. Raises `BridgeError` as `path`."""
        row = self._database.row("SELECT width, height FROM uploads WHERE id = ?", (name,))
        if row is None:
            raise BridgeError(f"no upload {name}; send the picture to /api/uploads first")
        return row["width"], row["height"]

    def add_edges(self, name: str) -> str:
        """Keep the picture of an upload's edges; its name. Raises `BridgeError` as `path`."""
        from bridge_diffusion.worlds.emoji.edges import edge_map, edge_picture

        path = self.path(name)
        with self._decoding:
            return self.add_image(edge_picture(edge_map(decode_rgb(path))))


def _unreadable(error: UndecodablePicture) -> BridgeError:
    return BridgeError(f"the picture cannot be read ({error}); give a whole PNG, JPEG or WebP")
