"""Settings that clients may change and that outlive the server."""

import json

from bridge_diffusion.server.database import Database


class Options:
    """Values by name, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        """The value of that name."""
        row = self._database.row("SELECT value FROM settings WHERE name = ?", (name,))
        return None if row is None else str(json.loads(row["value"]))

    def set(self, name: str, value: str) -> None:
        """Keep a value."""
        self._database.run(
            "INSERT INTO settings (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, json.dumps(value, ensure_ascii=False)),
        )
