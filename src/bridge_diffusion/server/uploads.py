"""Uploaded pictures: decoded within limits, written anew, named by their content, and removed once
nobody needs them any more."""

import hashlib
import io
import logging
import threading
import time
from pathlib import Path

from PIL import Image, ImageOps

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.metadata import FORMATS
from bridge_diffusion.images.reading import (
    TooManyPixels,
    UndecodablePicture,
    decode_opacity,
    decode_rgb,
)
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.server.database import Database

_log = logging.getLogger(__name__)

_FORMATS = tuple(sorted(set(FORMATS.values())))
_DECODED_AT_ONCE = 2  # pictures, so that many large ones do not fill the memory
# The uploads that finished pictures and jobs mention; no longer jobs that ended before the moment
# `?1`, for what was drawn of them is among the pictures.
_MENTIONED = """
WITH orders AS (
    SELECT fields FROM pictures
    UNION ALL
    SELECT fields FROM jobs WHERE ended IS NULL OR ended >= ?1
)
SELECT DISTINCT field.value AS id FROM orders, json_each(orders.fields) AS field
WHERE field.key IN ('init_image', 'mask', 'control', 'ip_image') AND field.value IS NOT NULL
"""


class UploadStore:
    """The folder of uploads. Nothing of a client's file is kept but its pixels."""

    def __init__(self, folder: Path, database: Database, *, most_pixels: int, keep: float) -> None:
        """
        Args:
            keep: Seconds that an upload stays after its last use, while nothing mentions it.
        """
        self._folder = folder
        self._database = database
        self._most_pixels = most_pixels
        self._keep = keep
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)
        self._changing = threading.Lock()  # a row and its file are added and removed together

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
        with self._changing:
            if not path.exists():
                write_file(data, path)
            self._database.run(
                "INSERT INTO uploads (id, created, width, height) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET created = excluded.created",
                (name, time.time(), *image.size),
            )
        return name

    def path(self, name: str, *, field: str = "") -> Path:
        """The file of an upload, which stays for a while from now on.

        Args:
            field: The field of an order that names it.

        Raises:
            BridgeError: There is none of that name.
        """
        now = time.time()
        self._database.run(  # seldom, as each writing waits for the disk
            "UPDATE uploads SET created = ? WHERE id = ? AND created < ?",
            (now, name, now - self._keep / 2),
        )
        self.size(name, field=field)
        return self._folder / f"{name}.png"

    def size(self, name: str, *, field: str = "") -> tuple[int, int]:
        """Width and height in pixels. Raises `BridgeError` as `path`."""
        row = self._database.row("SELECT width, height FROM uploads WHERE id = ?", (name,))
        if row is None:
            raise BridgeError(
                f"no upload {name}; send the picture to /api/uploads first",
                "no_upload",
                field=field,
            )
        return row["width"], row["height"]

    def prune(self) -> int:
        """Remove the uploads that were not used for the time to keep them, and that no picture and
        no job mentions; how many files that were. May be called in any thread.

        A job mentions its uploads until it has ended that long ago; a picture, as long as it is
        there.
        """
        until = time.time() - self._keep
        removed = 0
        with self._changing:
            for name in self._forget_unused(until):
                (self._folder / f"{name}.png").unlink(missing_ok=True)
                removed += 1
            known = {row["id"] for row in self._database.rows("SELECT id FROM uploads")}
            for file in self._folder.iterdir():  # of a process that ended between file and row
                if file.stem not in known and file.stat().st_mtime < until:
                    file.unlink()
                    removed += 1
        if removed:
            _log.info("removed %d uploads that nothing mentions", removed)
        return removed

    def _forget_unused(self, until: float) -> list[str]:
        """Delete the rows of unused uploads; their names. Those in use count as used now, so that
        the orders are not searched for them each time."""
        with self._database.transaction():
            old = self._database.rows("SELECT id FROM uploads WHERE created < ?", (until,))
            if not old:
                return []
            mentioned = {row["id"] for row in self._database.rows(_MENTIONED, (until,))}
            names = [row["id"] for row in old]
            unused = [name for name in names if name not in mentioned]
            for name in names:
                if name in mentioned:
                    used = (time.time(), name)
                    self._database.run("UPDATE uploads SET created = ? WHERE id = ?", used)
                else:
                    self._database.run("DELETE FROM uploads WHERE id = ?", (name,))
        return unused

    def add_edges(self, name: str) -> str:
        """Keep the picture of an upload's edges; its name. Raises `BridgeError` as `path`."""
        from bridge_diffusion.worlds.emoji.edges import edge_map, edge_picture

        path = self.path(name)
        with self._decoding:
            return self.add_image(edge_picture(edge_map(decode_rgb(path))))


def _unreadable(error: UndecodablePicture) -> BridgeError:
    line = f"the picture cannot be read ({error}); give a whole PNG, JPEG or WebP"
    if isinstance(error, TooManyPixels):
        return BridgeError(line, "too_many_pixels", most=error.most)
    return BridgeError(line, "unreadable_picture")
