"""One worker process a device, each fed by a thread from the queue."""

import json
import logging
import queue as queues
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.gallery import Gallery
from bridge_diffusion.server.queue import JobQueue, Unit

_log = logging.getLogger(__name__)

WorkerState = Literal["starting", "idle", "drawing", "stopped"]


class Device:
    """A device's worker process, and the thread that feeds it.

    A process that ends is started again, and its batch goes back to the queue; one that is silent
    for `stall` seconds is ended. So nothing that happens to one job stops the others.
    """

    def __init__(
        self, name: str, *, queue: JobQueue, gallery: Gallery, batch: int, stall: float
    ) -> None:
        self.name = name
        self.state: WorkerState = "starting"
        self._queue = queue
        self._gallery = gallery
        self._batch = batch
        self._stall = stall
        self._process: subprocess.Popen[str] | None = None
        self._said: queues.SimpleQueue[dict[str, Any] | None] = queues.SimpleQueue()
        self._stopping = False
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._feed, name=f"device {name}", daemon=True)

    def start(self) -> None:
        """Start the process and feed it."""
        self._thread.start()

    def stop(self) -> None:
        """End the process; what it was drawing waits again. The queue must be closed before."""
        with self._starting:
            self._stopping = True
            self._end_process()
        self._thread.join()
        self.state = "stopped"

    @property
    def process_id(self) -> int | None:
        """The process's id, while there is one."""
        return None if self._process is None else self._process.pid

    def _feed(self) -> None:
        self._ensure_process()
        while units := self._queue.take(self._batch):
            remaining = {unit.id: unit for unit in units}
            try:
                self._ensure_process()
                self._draw(remaining)
            except Exception:
                _log.exception("the worker of %s failed", self.name)
                self._end_process()
            if remaining:
                self._queue.give_back(list(remaining.values()), blame=not self._stopping)

    def _draw(self, remaining: dict[str, Unit]) -> None:
        """Let the process draw units, and take each out that is dealt with."""
        if not self._send({"draw": [self._task(unit) for unit in remaining.values()]}):
            return
        stop_sent = False
        while True:
            try:
                said = self._said.get(timeout=self._stall)
            except queues.Empty:
                _log.error("the worker of %s said nothing for %g s", self.name, self._stall)
                self._end_process()
                return
            if said is None:
                if not self._stopping:
                    _log.error("the worker of %s ended", self.name)
                self._end_process()
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
                stop_sent = self._send({"stop": True})

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

    def _ensure_process(self) -> None:
        with self._starting:
            if self._stopping or (self._process is not None and self._process.poll() is None):
                return
            self.state = "starting"
            self._said = queues.SimpleQueue()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bridge_diffusion.server.worker", self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
            reading = (self._process, self._said)
            threading.Thread(target=self._read, args=reading, daemon=True).start()

    def _read(
        self,
        process: "subprocess.Popen[str]",
        said: "queues.SimpleQueue[dict[str, Any] | None]",
    ) -> None:
        """Pass on what a process says; None once it says no more."""
        assert process.stdout is not None
        with process.stdout:
            try:
                for line in process.stdout:
                    values = json.loads(line)
                    if "ready" in values:  # at once: nobody asks before there is something to draw
                        self.state = "idle"
                    else:
                        said.put(values)
            except (OSError, ValueError):
                _log.exception("a worker's report could not be read")
        said.put(None)

    def _end_process(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):  # what it did not read any more
                    process.stdin.close()
            self._process = None

    def _send(self, values: Mapping[str, Any]) -> bool:
        """Whether the process still listens."""
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            process.stdin.write(json.dumps(values) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            return False
        return True


def start_devices(
    names: Sequence[str], *, queue: JobQueue, gallery: Gallery, batch: int, stall: float
) -> list[Device]:
    """Start a worker for each device."""
    devices = [
        Device(name, queue=queue, gallery=gallery, batch=batch, stall=stall) for name in names
    ]
    for device in devices:
        device.start()
    return devices
