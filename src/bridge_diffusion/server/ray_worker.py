"""A worker that has its batches drawn by a replica on a Ray cluster."""

import asyncio
import logging
import queue as queues
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import ReplicaUnavailableError

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.server.parcels import pack

_log = logging.getLogger(__name__)

# What one replica's end looks like; anything else that Ray raises is the cluster's.
_ENDS_OF_A_REPLICA = (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    ReplicaUnavailableError,
    WorkerCrashedError,
)


class Serving(Protocol):
    """The replicas that workers share."""

    @property
    def handle(self) -> Any:
        """Ray Serve's handle of the deployment, whose calls stream."""

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be drawn there any more."""

    def wait_until_ready(self) -> bool:
        """Wait until every replica is there; False where it is lost before."""

    def lose(self, reason: str) -> None:
        """Say that nothing can be drawn there any more."""

    def blames_replica(self) -> bool:
        """Whether the cluster is still there, so that an error is a replica's. May take seconds."""


class RayWorker:
    """Gives one batch at a time to a replica that is free. A `Worker`."""

    def __init__(self, name: str, serving: Serving) -> None:
        self.name = name
        self._serving = serving
        self._calling = threading.Lock()
        self._running = False
        self._call: _Call | None = None

    @property
    def process_id(self) -> int | None:
        """The id, on its machine, of the replica's process that draws now."""
        return None if self._call is None else self._call.process

    @property
    def is_running(self) -> bool:
        """Whether batches may be given."""
        return self._running

    def start(self, ready: Callable[[], None]) -> None:
        """Wait for the replicas, in a thread; Ray Serve starts another for one that ended."""
        self._running = True

        def wait() -> None:
            if self._serving.wait_until_ready():
                ready()

        threading.Thread(target=wait, daemon=True).start()

    def draw(self, tasks: Sequence[Mapping[str, Any]]) -> bool:
        """Send a batch; it waits there until a replica is free."""
        call = _Call(self._serving, {task["id"]: Path(task["file"]) for task in tasks})
        with self._calling:
            if not self._running:
                return False
            self._call = call
        call.start(tasks)
        return True

    def leave_off(self) -> bool:
        """Cancel the batch."""
        call = self._call
        if call is None:
            return False
        call.cancel()
        return True

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """The next report. Waiting for a replica that is free is no silence of a replica."""
        call = self._call
        assert call is not None
        while True:
            try:
                return call.said.get(timeout=seconds)
            except queues.Empty:
                if call.replica is not None:
                    raise

    def lose(self) -> None:
        """Tell whoever listens that nothing can be drawn any more."""
        if self._call is not None:
            self._call.said.put({"gone": True})

    def end(self) -> None:
        """Give up the batch, and kill the replica that draws it, which may hang."""
        with self._calling:
            self._running = False
            call = self._call
        if call is not None:
            call.kill()


class _Call:
    """One batch on its way, and what is said of it."""

    def __init__(self, serving: Serving, files: Mapping[str, Path]) -> None:
        self.said: queues.SimpleQueue[dict[str, Any] | None] = queues.SimpleQueue()
        self.process: int | None = None
        self._serving = serving
        self._files = files
        self.replica: str | None = None
        self._response: Any = None
        self._ended = False

    def start(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        try:
            parcel = pack(tasks)
        except OSError as error:  # an upload is gone from the disk
            for id in self._files:
                reason = error.strerror or type(error).__name__
                self.said.put({"failed": id, "error": f"a picture cannot be read ({reason})"})
            self.said.put({"idle": True})
            return
        if self._serving.is_lost:
            self.said.put({"gone": True})
            return
        self._response = self._serving.handle.draw.remote(parcel)
        threading.Thread(target=self._read, daemon=True).start()

    def cancel(self) -> None:
        if self._response is not None and not self._serving.is_lost:
            self._response.cancel()

    def kill(self) -> None:
        if self._ended or self._serving.is_lost:
            return
        self.cancel()
        if self.replica is not None:
            with suppress(ValueError):  # there is none of that name any more
                ray.kill(ray.get_actor(self.replica, namespace="serve"))

    def _read(self) -> None:
        """Pass on what the replica says, in a thread; the pictures go to the disk on the way."""
        last: dict[str, Any] | None = {"idle": True}
        try:
            for values in self._response:
                if "replica" in values:
                    self.replica, self.process = values["replica"], values["process"]
                elif "log" in values:
                    _log.error("on the replica %s: %s", self.replica, values["log"])
                else:
                    self.said.put(self._keep(values))
        except (TaskCancelledError, asyncio.CancelledError):
            pass
        except _ENDS_OF_A_REPLICA as error:
            if self._serving.blames_replica():
                _log.warning("a replica ended: %s", first_line(error))
                last = None
            else:
                last = {"gone": True}
        except Exception as error:
            _log.debug("Ray failed", exc_info=error)
            self._serving.lose(first_line(error))
            last = {"gone": True}
        self._ended = True
        self.said.put(last)

    def _keep(self, values: dict[str, Any]) -> dict[str, Any]:
        """Put a finished picture where the gallery has it."""
        if "finished" not in values:
            return values
        try:
            write_file(values["picture"], self._files[values["finished"]])
        except BridgeError as error:  # the disk is full
            return {"failed": values["finished"], "error": str(error)}
        return {name: value for name, value in values.items() if name != "picture"}


def first_line(error: BaseException) -> str:
    """An error's kind, and what it says first: Ray's go on with other processes' tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
