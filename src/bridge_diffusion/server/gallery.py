"""Finished pictures: their files, their rows, and how they are found again."""

import json
import re
import sqlite3
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_diffusion.server.database import Database

# Marks that writers of Arabic leave out at will, and the letter stretcher.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0640]")
_SEARCHED = ("prompt", "english", "negative", "negative_english", "model", "bridge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A finished picture."""

    id: str
    """The job's id, "-", and its place in the job."""
    number: int
    """Counts up."""
    job: str
    """The id of its job."""
    place: int
    """Its place among the job's pictures, from 0."""
    created: float
    """Seconds since 1970."""
    seed: int
    """Its own seed."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    blacked_out: bool
    """Whether the model's safety checker replaced it with black."""
    favourite: bool
    """Whether somebody marked it."""
    fields: dict[str, Any]
    """The order that draws it again alone."""


class Gallery:
    """The folder of pictures and their rows."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database

    def file(self, id: str) -> Path:
        """Where a picture of that id is, or will be."""
        return self._folder / id[:2] / f"{id}.png"

    def add(self, picture: Picture) -> None:
        """Keep a picture whose file is there. One that is kept already stays as it is."""
        self._database.run(
            "INSERT OR IGNORE INTO pictures (id, job, place, created, seed, width, height,"
            " blacked_out, fields, words) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                picture.id,
                picture.job,
                picture.place,
                picture.created,
                picture.seed,
                picture.width,
                picture.height,
                picture.blacked_out,
                json.dumps(picture.fields, ensure_ascii=False),
                "\n".join(searchable(str(picture.fields.get(name) or "")) for name in _SEARCHED),
            ),
        )

    def get(self, id: str) -> Picture | None:
        """The picture of that id."""
        row = self._database.row("SELECT * FROM pictures WHERE id = ?", (id,))
        return None if row is None else _picture(row)

    def of_job(self, job: str) -> list[Picture]:
        """A job's finished pictures, in their order."""
        rows = self._database.rows("SELECT * FROM pictures WHERE job = ? ORDER BY place", (job,))
        return [_picture(row) for row in rows]

    def find(
        self, *, words: str, favourite: bool | None, before: int | None, limit: int
    ) -> list[Picture]:
        """Pictures, newest first, whose prompts contain every word.

        Parts of words count, so that scripts without spaces are found; case, width and vowel marks
        do not matter.
        """
        conditions, values = ["1"], list[Any]()
        for word in searchable(words).split():
            conditions.append("instr(words, ?) > 0")
            values.append(word)
        if favourite is not None:
            conditions.append("favourite = ?")
            values.append(favourite)
        if before is not None:
            conditions.append("number < ?")
            values.append(before)
        rows = self._database.rows(
            f"SELECT * FROM pictures WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?",
            [*values, limit],
        )
        return [_picture(row) for row in rows]

    def mark(self, id: str, favourite: bool) -> bool:
        """Set or take the mark; False where there is no such picture."""
        return bool(
            self._database.run("UPDATE pictures SET favourite = ? WHERE id = ?", (favourite, id))
        )

    def delete(self, id: str) -> bool:
        """Delete a picture and its file; False where there is none."""
        if not self._database.run("DELETE FROM pictures WHERE id = ?", (id,)):
            return False
        self.file(id).unlink(missing_ok=True)
        return True


def searchable(text: str) -> str:
    """Text as it is compared in a search."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFC", _ARABIC_MARKS.sub("", folded))


def _picture(row: sqlite3.Row) -> Picture:
    return Picture(
        id=row["id"],
        number=row["number"],
        job=row["job"],
        place=row["place"],
        created=row["created"],
        seed=row["seed"],
        width=row["width"],
        height=row["height"],
        blacked_out=bool(row["blacked_out"]),
        favourite=bool(row["favourite"]),
        fields=json.loads(row["fields"]),
    )
