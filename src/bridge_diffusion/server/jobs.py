"""Jobs: an order, its place in the queue, and what became of it."""

import json
import sqlite3
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.server.database import Database
from bridge_diffusion.server.orders import PRIORITIES, Order, Priority

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
Interface = Literal["native", "openai", "a1111"]


@dataclass(kw_only=True, slots=True)
class Job:
    """An order that was accepted."""

    id: str
    """Sixteen hexadecimal digits."""
    number: int
    """Counts up; the order of jobs of one priority."""
    created: float
    """Seconds since 1970."""
    client: str
    """The address that it came from."""
    priority: Priority
    """Jobs of a higher one are drawn first."""
    interface: Interface
    """Where it came in."""
    order: Order
    """What was asked for, with its seed."""
    group: str | None = None
    """A name that the client gave to jobs that belong together."""
    state: State = "queued"
    """What becomes of it."""
    error: str | None = None
    """Why it failed, in one line."""
    error_code: str = ""
    """The code of a `BridgeError` that says so."""
    error_values: dict[str, Any] = field(default_factory=dict)
    """Its values."""
    notes: list[str] = field(default_factory=list)
    """What the drawing had to say, such as that a prompt was cut."""
    attempts: int = 0
    """How often a worker ended while it drew this job, since its last finished picture."""
    started: float | None = None
    """When it was first drawn."""
    ended: float | None = None
    """When it ended."""
    request: GenerationRequest | None = None
    """What is drawn, as long as the job is in the queue."""
    waiting: list[int] = field(default_factory=list)
    """Places of the pictures that nobody draws yet."""
    drawing: set[int] = field(default_factory=set)
    """Places of the pictures that are being drawn."""
    step: int = 0
    """Denoising steps done of those being drawn."""
    steps: int = 0
    """How many these have; 0 before the first."""
    preview: str | None = None
    """The last preview, a data URL."""

    @property
    def finished(self) -> int:
        """How many pictures are finished."""
        return self.order.n - len(self.waiting) - len(self.drawing)

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        if self.state == "done":
            return 1.0
        part = len(self.drawing) * self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.finished + part) / self.order.n)

    def copy(self) -> "Job":
        """The job as it is now; what becomes of it does not reach the copy."""
        return replace(self, notes=[*self.notes], waiting=[*self.waiting], drawing={*self.drawing})


class JobTable:
    """Jobs in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: Job) -> int:
        """Keep a new job; its number."""
        with self._database.transaction():
            self._database.run(
                "INSERT INTO jobs (id, created, client, priority, state, group_name, interface,"
                " fields) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.created,
                    job.client,
                    PRIORITIES[job.priority],
                    job.state,
                    job.group,
                    job.interface,
                    json.dumps(job.order.model_dump(mode="json"), ensure_ascii=False),
                ),
            )
            row = self._database.row("SELECT last_insert_rowid() AS number")
        assert row is not None
        return int(row["number"])

    def update(self, job: Job) -> None:
        """Keep what became of a job."""
        self._database.run(
            "UPDATE jobs SET state = ?, error = ?, error_code = ?, error_values = ?, notes = ?,"
            " attempts = ?, started = ?, ended = ?, priority = ? WHERE id = ?",
            (
                job.state,
                job.error,
                job.error_code,
                json.dumps(job.error_values, ensure_ascii=False),
                json.dumps(job.notes, ensure_ascii=False),
                job.attempts,
                job.started,
                job.ended,
                PRIORITIES[job.priority],
                job.id,
            ),
        )

    def get(self, id: str) -> Job | None:
        """The job of that id."""
        row = self._database.row("SELECT * FROM jobs WHERE id = ?", (id,))
        return None if row is None else _job(row)

    def unfinished(self) -> list[Job]:
        """Those that have not ended, oldest first, with the places that still wait."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE state IN ('queued', 'running') ORDER BY number"
        )
        jobs = [_job(row) for row in rows]
        for job in jobs:
            done = self._database.rows("SELECT place FROM pictures WHERE job = ?", (job.id,))
            finished = {row["place"] for row in done}
            job.waiting = [place for place in range(job.order.n) if place not in finished]
        return jobs

    def recent(self, *, before: int | None, group: str | None, limit: int) -> list[Job]:
        """Jobs, newest first.

        Args:
            before: Only those with a smaller number.
            group: Only those of that group.
        """
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE (? IS NULL OR number < ?) AND (? IS NULL OR group_name = ?)"
            " ORDER BY number DESC LIMIT ?",
            (before, before, group, group, limit),
        )
        return [_job(row) for row in rows]


def _job(row: sqlite3.Row) -> Job:
    by_number: dict[int, Priority] = {number: name for name, number in PRIORITIES.items()}
    fields: dict[str, Any] = json.loads(row["fields"])
    return Job(
        id=row["id"],
        number=row["number"],
        created=row["created"],
        client=row["client"],
        priority=by_number[row["priority"]],
        interface=row["interface"],
        order=Order.model_validate(fields),
        group=row["group_name"],
        state=row["state"],
        error=row["error"],
        error_code=row["error_code"],
        error_values=json.loads(row["error_values"]),
        notes=json.loads(row["notes"]),
        attempts=row["attempts"],
        started=row["started"],
        ended=row["ended"],
    )


def now() -> float:
    """Seconds since 1970."""
    return time.time()
