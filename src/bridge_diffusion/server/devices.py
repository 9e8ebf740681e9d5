"""One worker a device, each fed by a thread from the queue."""

import logging
import queue as queues
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.gallery import Gallery
from bridge_diffusion.server.queue import JobQueue, Unit

_log = logging.getLogger(__name__)

WorkerState = Literal["starting", "idle", "drawing", "stopped"]


class Worker(Protocol):
    """What draws for a device: a process of this machine, or a replica on a cluster."""

    @property
    def name(self) -> str:
        """What clients are told that it is."""

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""

    def start(self, ready: Callable[[], None]) -> None:
        """Start it; it says `ready`, in another thread, once it can draw."""

    def draw(self, tasks: Sequence[Mapping[str, Any]]) -> bool:
        """Begin a batch of one batch key; False where the worker has ended.

        A task has the fields of `engine.Task` as JSON values.
        """

    def leave_off(self) -> bool:
        """Nobody wants the batch any more; False where the worker has ended."""

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """The next report of the batch, as `Engine` makes them; {"idle": True} ends it.

        None where the worker ended; {"gone": True} where nothing can be drawn any more, whoever
        is asked. Raises `queue.Empty` after so many seconds of silence.
        """

    def end(self) -> None:
        """End it, whatever it does. It can be started again. May be called in any thread."""


class Device:
    """A device's worker, and the thread that feeds it.

    A worker that ends is started again, and its batch goes back to the queue; one that is silent
    for `stall` seconds is ended. So nothing that happens to one job stops the others.
    """

    def __init__(
        self, worker: Worker, *, queue: JobQueue, gallery: Gallery, batch: int, stall: float
    ) -> None:
        self.name = worker.name
        self.state: WorkerState = "starting"
        self._worker = worker
        self._queue = queue
        self._gallery = gallery
        self._batch = batch
        self._stall = stall
        self._stopping = False
        self._gone = False
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._feed, name=f"device {self.name}", daemon=True)

    def start(self) -> None:
        """Start the worker and feed it."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker; what it was drawing waits again. The queue must be closed before."""
        with self._starting:
            self._stopping = True
            self._worker.end()
        self._thread.join()
        self.state = "stopped"

    def _feed(self) -> None:
        self._ensure_started()
        while not self._gone and (units := self._queue.take(self._batch)):
            remaining = {unit.id: unit for unit in units}
            try:
                self._ensure_started()
                self._draw(remaining)
            except Exception:
                _log.exception("the worker of %s failed", self.name)
                self._worker.end()
            if remaining:
                blame = not (self._stopping or self._gone)
                self._queue.give_back(list(remaining.values()), blame=blame)

    def _ensure_started(self) -> None:
        with self._starting:
            if self._stopping or self._worker.is_running:
                return
            self.state = "starting"
            self._worker.start(self._become_idle)

    def _become_idle(self) -> None:
        if self.state == "starting":
            self.state = "idle"

    def _draw(self, remaining: dict[str, Unit]) -> None:
        """Let the worker draw units, and take each out that is dealt with."""
        if not self._worker.draw([self._task(unit) for unit in remaining.values()]):
            return
        stop_sent = False
        while True:
            try:
                said = self._worker.listen(self._stall)
            except queues.Empty:
                _log.error("the worker of %s said nothing for %g s", self.name, self._stall)
                self._worker.end()
                return
            if said is None:
                if not self._stopping:
                    _log.error("the worker of %s ended", self.name)
                self._worker.end()
                return
            if "gone" in said:
                self._gone, self.state = True, "stopped"
                return
            if "idle" in said:
                self.state = "idle"
                if stop_sent:
                    remaining.clear()
                return
            self._note(said, remaining)
            if (
                not stop_sent
                and remaining
                and not any(map(self._queue.is_wanted, remaining.values()))
            ):
                stop_sent = self._worker.leave_off()

    def _note(self, said: Mapping[str, Any], remaining: dict[str, Unit]) -> None:
        id = next(said[kind] for kind in ("step", "finished", "failed", "note") if kind in said)
        unit = remaining.get(id)
        if unit is None:
            return
        self.state = "drawing"
        if "step" in said:
            self._queue.step(unit, said["number"], said["of"], said["preview"])
        elif "note" in said:
            self._queue.note(unit, said["text"])
        elif "failed" in said:
            del remaining[id]
            error = BridgeError(said["error"], said["code"], **said["values"])
            self._queue.fail(unit, error)
        else:
            self._queue.finish(
                unit,
                width=said["width"],
                height=said["height"],
                blacked_out=said["blacked_out"],
            )
            del remaining[id]

    def _task(self, unit: Unit) -> dict[str, Any]:
        assert unit.job.request is not None
        request = replace(unit.job.request, seed=unit.seed, n=1)
        return {
            "id": unit.id,
            "request": request.to_json(),
            "fields": unit.fields,
            "file": str(self._gallery.file(unit.id)),
        }


def start_devices(
    workers: Sequence[Worker], *, queue: JobQueue, gallery: Gallery, batch: int, stall: float
) -> list[Device]:
    """Start each worker, and feed it."""
    devices = [
        Device(worker, queue=queue, gallery=gallery, batch=batch, stall=stall) for worker in workers
    ]
    for device in devices:
        device.start()
    return devices
