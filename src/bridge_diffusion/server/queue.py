"""The queue: jobs by priority and age, handed out as batches of pictures that go together."""

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.together import batch_key
from bridge_diffusion.server.catalog import WORLD
from bridge_diffusion.server.events import Event, EventHub, EventKind
from bridge_diffusion.server.gallery import Gallery, Picture
from bridge_diffusion.server.jobs import ENDED, Interface, Job, JobTable, State, now
from bridge_diffusion.server.orders import PRIORITIES, Order, OrderDesk, Priority
from bridge_diffusion.server.settings import Limits
from bridge_diffusion.server.wording import as_line

_log = logging.getLogger(__name__)

_RANDOM_SEED_BITS = 32
_MOST_ATTEMPTS = 3


class QueueFull(BridgeError):
    """There are too many jobs, of this client or of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One picture of a job, to be drawn."""

    job: Job
    """Its job."""
    place: int
    """Its place among the job's pictures, from 0."""

    @property
    def id(self) -> str:
        """The id of the picture that it will be."""
        return f"{self.job.id}-{self.place:03d}"

    @property
    def seed(self) -> int:
        """The picture's own seed."""
        assert self.job.order.seed is not None
        return self.job.order.seed + self.place

    @property
    def fields(self) -> dict[str, Any]:
        """The order that draws this picture alone."""
        return self.job.order.model_dump(mode="json") | {"seed": self.seed, "n": 1}


class JobQueue:
    """All jobs that have not ended. What is accepted is in the database before anyone hears of it.

    Every method may be called in any thread. Jobs that are returned are copies: workers change a
    job at any moment, and nobody may read half of such a change.
    """

    def __init__(
        self,
        *,
        table: JobTable,
        gallery: Gallery,
        desk: OrderDesk,
        events: EventHub,
        limits: Limits,
    ) -> None:
        self._table = table
        self._gallery = gallery
        self._desk = desk
        self._events = events
        self._limits = limits
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {}
        self._closed = False

    def load(self) -> None:
        """Take up the jobs that a server before this one left."""
        for job in self._table.unfinished():
            interrupted = job.state == "running"
            with self._changed:
                self._jobs[job.id] = job
                try:
                    job.request = self._desk.request(job.order)
                except BridgeError as error:  # a model or an upload is gone
                    self._end(job, "failed", error)
                    continue
                job.state = "queued"
                if not job.waiting:
                    self._end(job, "done")
                elif interrupted:
                    self._count_attempt(job)

    def submit(
        self,
        order: Order,
        *,
        client: str,
        interface: Interface,
        priority: Priority = "normal",
        group: str | None = None,
    ) -> Job:
        """Accept an order.

        Raises:
            QueueFull: There are too many jobs.
            BridgeError: The order is not allowed.
        """
        settled: dict[str, Any] = {}
        if order.seed is None:  # now, so that the same is drawn after a restart
            settled["seed"] = secrets.randbits(_RANDOM_SEED_BITS)
        if order.model == WORLD:  # which bdm generate knows without a name
            settled["model"] = None
        order = order.model_copy(update=settled)
        job = Job(
            id=secrets.token_hex(8),
            number=0,
            created=now(),
            client=client,
            priority=priority,
            interface=interface,
            order=order,
            group=group,
            request=self._desk.request(order),
            waiting=list(range(order.n)),
        )
        with self._changed:
            self._check_room(client)
            job.number = self._table.add(job)
            self._jobs[job.id] = job
            self._changed.notify_all()
            self._tell(job, "job")
            return job.copy()

    def get(self, id: str) -> Job | None:
        """The job of that id, ended or not."""
        with self._changed:
            job = self._jobs.get(id)
            return self._table.get(id) if job is None else job.copy()

    def position(self, job: Job) -> int | None:
        """How many jobs come before one that waits; None for one that does not."""
        with self._changed:
            if job.state != "queued":
                return None
            return sum(_rank(other) < _rank(job) for other in self._jobs.values())

    def live(self) -> list[Job]:
        """Jobs that have not ended, in the order in which they are drawn."""
        with self._changed:
            return [job.copy() for job in sorted(self._jobs.values(), key=_rank)]

    def cancel(self, id: str) -> bool:
        """End a job early; its finished pictures stay. False where it has ended or never was."""
        with self._changed:
            job = self._jobs.get(id)
            if job is None:
                return False
            self._end(job, "cancelled")
            return True

    def prioritise(self, id: str, priority: Priority) -> bool:
        """Change a job's priority. False where it has ended or never was."""
        with self._changed:
            job = self._jobs.get(id)
            if job is None:
                return False
            job.priority = priority
            self._table.update(job)
            self._tell(job, "job")
            return True

    # For the workers

    def take(self, most: int) -> list[Unit]:
        """Wait for work: pictures that can be drawn in one batch. Empty once the queue is closed.

        The first job decides; jobs of its priority whose pictures go with its own join.
        """
        with self._changed:
            while not self._closed:
                ready = sorted((job for job in self._jobs.values() if job.waiting), key=_rank)
                if ready:
                    return self._hand_out(ready, most)
                self._changed.wait()
            return []

    def _hand_out(self, ready: Sequence[Job], most: int) -> list[Unit]:
        first = ready[0]
        key = _batch_key(first)
        units: list[Unit] = []
        for job in ready:
            if job is not first and (
                key is None or job.priority != first.priority or _batch_key(job) != key
            ):
                continue
            room = (most if key is not None else 1) - len(units)
            places, job.waiting = job.waiting[:room], job.waiting[room:]
            job.drawing.update(places)
            units += [Unit(job=job, place=place) for place in places]
            if places and job.state != "running":
                job.state, job.started = "running", job.started or now()
                self._table.update(job)
                self._tell(job, "job")
        return units

    def is_wanted(self, unit: Unit) -> bool:
        """Whether a unit's job still waits for it."""
        with self._changed:
            return unit.job.id in self._jobs

    def step(self, unit: Unit, step: int, steps: int, preview: str | None) -> None:
        """A unit got on by a step."""
        with self._changed:
            job = unit.job
            job.step, job.steps, job.preview = step, steps, preview or job.preview
            data = {
                "place": unit.place,
                "step": step,
                "steps": steps,
                "fraction": job.fraction,
                "preview": preview,
            }
            self._events.publish(Event(job=job.id, kind="progress", data=data))

    def finish(self, unit: Unit, *, width: int, height: int, blacked_out: bool) -> None:
        """A unit's picture is on the disk."""
        with self._changed:
            job = unit.job
            if job.id not in self._jobs:  # cancelled meanwhile
                self._gallery.file(unit.id).unlink(missing_ok=True)
                return
            picture = Picture(
                id=unit.id,
                number=0,
                job=job.id,
                place=unit.place,
                created=now(),
                seed=unit.seed,
                width=width,
                height=height,
                blacked_out=blacked_out,
                favourite=False,
                fields=unit.fields,
            )
            self._gallery.add(picture)
            job.drawing.discard(unit.place)
            job.step, job.attempts = 0, 0
            self._events.publish(
                Event(job=job.id, kind="picture", data={"id": unit.id, "place": unit.place})
            )
            if not job.waiting and not job.drawing:
                self._end(job, "done")

    def note(self, unit: Unit, text: str) -> None:
        """The drawing has something to say."""
        with self._changed:
            if text not in unit.job.notes:
                unit.job.notes.append(text)

    def fail(self, unit: Unit, error: BridgeError) -> None:
        """A unit cannot be drawn, so its job ends."""
        with self._changed:
            if unit.job.id in self._jobs:
                self._end(unit.job, "failed", error)

    def give_back(self, units: Sequence[Unit], *, blame: bool) -> None:
        """Units that were not drawn wait again.

        Args:
            blame: Whether the worker ended while it drew them; a job that is blamed again and
                again fails, and is drawn in no batch.
        """
        with self._changed:
            for job in {unit.job.id: unit.job for unit in units}.values():
                if job.id not in self._jobs:
                    continue
                places = {unit.place for unit in units if unit.job is job} & job.drawing
                job.drawing -= places
                job.waiting = sorted({*job.waiting, *places})
                job.state, job.step = "queued", 0
                if blame:
                    self._count_attempt(job)
                else:
                    self._table.update(job)
                if job.state not in ENDED:
                    self._tell(job, "job")
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The rest

    def _count_attempt(self, job: Job) -> None:
        job.attempts += 1
        if job.attempts >= _MOST_ATTEMPTS:
            self._end(
                job,
                "failed",
                BridgeError(
                    f"the drawing process ended {job.attempts} times while it drew this; "
                    "try a smaller size, or another model",
                    "worker_ended",
                    times=job.attempts,
                ),
            )
        else:
            self._table.update(job)

    def _check_room(self, client: str) -> None:
        if len(self._jobs) >= self._limits.jobs:
            raise QueueFull(
                f"the queue holds {len(self._jobs)} jobs; try again later",
                "queue_full",
                jobs=len(self._jobs),
            )
        own = sum(job.client == client for job in self._jobs.values())
        if own >= self._limits.jobs_of_client:
            raise QueueFull(
                f"{own} of your jobs are waiting; let some end, or cancel them",
                "own_queue_full",
                jobs=own,
            )

    def _end(self, job: Job, state: State, error: BridgeError | None = None) -> None:
        job.state, job.ended = state, now()
        if error is not None:
            job.error = as_line(error)
            job.error_code, job.error_values = error.code, error.values
        job.waiting, job.preview = [], None
        self._table.update(job)
        del self._jobs[job.id]
        self._changed.notify_all()
        if error is not None:
            _log.warning("job %s failed: %s", job.id, job.error)
        self._tell(job, "ended")

    def _tell(self, job: Job, kind: EventKind) -> None:
        data = {"state": job.state, "error": job.error, "fraction": job.fraction}
        self._events.publish(Event(job=job.id, kind=kind, data=data))


def _rank(job: Job) -> tuple[int, int]:
    return -PRIORITIES[job.priority], job.number


def _batch_key(job: Job) -> str | None:
    """None for what is drawn alone, such as a job whose worker ended before."""
    assert job.request is not None
    return None if job.attempts else batch_key(job.request)
