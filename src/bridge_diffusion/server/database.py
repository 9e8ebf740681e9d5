"""The server's SQLite database: one connection for all threads, in WAL mode.

What was committed is on the disk (`synchronous=FULL`), so an accepted job and a finished picture
outlive the process. The file is locked while it is open: two servers would draw the same jobs.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError

_VERSION = 2
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    client TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    error_code TEXT NOT NULL DEFAULT '',
    error_values TEXT NOT NULL DEFAULT '{}',
    notes TEXT NOT NULL DEFAULT '[]',
    attempts INTEGER NOT NULL DEFAULT 0,
    group_name TEXT,
    interface TEXT NOT NULL,
    fields TEXT NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_group ON jobs (group_name);
CREATE TABLE pictures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    place INTEGER NOT NULL,
    created REAL NOT NULL,
    seed INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    blacked_out INTEGER NOT NULL,
    favourite INTEGER NOT NULL DEFAULT 0,
    fields TEXT NOT NULL,
    words TEXT NOT NULL
);
CREATE INDEX pictures_by_job ON pictures (job, place);
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    created REAL NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL
);
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""
# What makes of a file of each earlier format one of the next.
_STEPS = {
    1: """
ALTER TABLE jobs ADD COLUMN error_code TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN error_values TEXT NOT NULL DEFAULT '{}';
""",
}


class Database:
    """Statements on one file; a block of them is a transaction."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises `BridgeError` where it cannot, or is another's."""
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=1
            )
            self._connection.row_factory = sqlite3.Row
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._prepare(path)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise BridgeError(
                    f"another server uses {path.parent}; end it, or give another --data"
                ) from error
            raise BridgeError(
                f"{path} cannot be opened ({error}); check the folder, or give another --data"
            ) from error

    def _prepare(self, path: Path) -> None:
        self._connection.executescript("BEGIN IMMEDIATE; COMMIT;")  # takes the lock
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        while version in _STEPS:
            step = f"BEGIN; {_STEPS[version]} PRAGMA user_version={version + 1}; COMMIT;"
            self._connection.executescript(step)
            version += 1
        if version == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;"
            )
        elif version != _VERSION:
            raise BridgeError(
                f"{path} is of format {version}, and this version of bdm reads format {_VERSION}; "
                "give another --data, or use the version that wrote it"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block are kept, or none."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; the number of rows that it changed."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first that a query finds."""
        found = self.rows(statement, values)
        return found[0] if found else None

    def close(self) -> None:
        """Close the file; no statement may follow."""
        with self._lock:
            self._connection.close()
