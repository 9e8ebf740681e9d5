"""A replica: an engine behind Ray Serve, on whatever machine Ray puts it."""

import asyncio
import logging
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from bridge_diffusion import __version__
from bridge_diffusion.server.parcels import Parcel, unpack

_log = logging.getLogger(__name__)

_FOLDER = "bdm-replica-"  # then its process id: whose pictures lie there while they are used


class Replica:
    """Draws one batch after another, in a thread of its own, and streams the engine's reports."""

    def __init__(self, device: str, version: str) -> None:
        """
        Args:
            device: Where it computes: cpu or cuda.
            version: The server's.
        """
        if version != __version__:
            raise RuntimeError(
                f"the server is of bridge-diffusion {version}, the cluster has {__version__}; "
                "install the same version on each machine"
            )
        from bridge_diffusion.server.engine import Engine
        from bridge_diffusion.server.worker import quiet_libraries

        quiet_libraries()
        remove_leftovers(Path(tempfile.gettempdir()))
        self._batches: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._drawn: _Batch | None = None
        self._engine = Engine(device, self._report, self._is_stopped)
        logging.getLogger("bridge_diffusion").addHandler(_Errors(self._tell))
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    async def draw(self, parcel: Parcel) -> AsyncIterator[dict[str, Any]]:
        """Draw a batch.

        Yields:
            {"replica": the actor's name, "process": its process id}, then the engine's reports, of
            which "finished" has the file, {"picture": bytes}, and {"log": errors for the server's
            log}. A caller that goes away stops it.
        """
        batch = _Batch(parcel)
        self._batches.put(batch)
        try:
            yield {"replica": _own_name(), "process": os.getpid()}
            while (values := await batch.said.get()) is not None:
                yield values
        finally:
            batch.stopped.set()

    def _work(self) -> None:
        from bridge_diffusion.server.engine import Task

        while True:
            batch = self._drawn = self._batches.get()
            try:
                if batch.stopped.is_set():
                    continue
                with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-") as folder:
                    tasks = unpack(batch.parcel, Path(folder))
                    batch.files = {task["id"]: Path(task["file"]) for task in tasks}
                    self._engine.draw([Task.from_json(task) for task in tasks])
            except Exception as error:  # the engine raises nothing, but a disk may be full
                _log.exception("a batch could not be drawn")
                line = f"the replica failed ({type(error).__name__}); the server's log says more"
                for task in batch.parcel.tasks:
                    batch.tell({"failed": task["id"], "error": line})
            finally:
                batch.tell(None)

    def _report(self, values: dict[str, Any]) -> None:
        batch = self._drawn
        assert batch is not None
        if "finished" in values:
            file = batch.files[values["finished"]]
            values = {**values, "picture": file.read_bytes()}
            file.unlink()
        batch.tell(values)

    def _tell(self, values: dict[str, Any]) -> None:
        if self._drawn is not None:
            self._drawn.tell(values)

    def _is_stopped(self) -> bool:
        return self._drawn is not None and self._drawn.stopped.is_set()


def remove_leftovers(place: Path) -> None:
    """Remove what replicas on this machine that were killed had of clients' pictures."""
    for folder in place.glob(f"{_FOLDER}*"):
        process = folder.name.removeprefix(_FOLDER).partition("-")[0]
        try:
            os.kill(int(process), 0)  # asks whether it is there
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, ValueError):  # another user's
            continue


class _Batch:
    """What one call of `draw` waits for. Made in the event loop of the call."""

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.stopped = threading.Event()
        self.said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.files: dict[str, Path] = {}
        self._loop = asyncio.get_running_loop()

    def tell(self, values: dict[str, Any] | None) -> None:
        """Pass a report on from the engine's thread; None is the last."""
        self._loop.call_soon_threadsafe(self.said.put_nowait, values)


class _Errors(logging.Handler):
    """Reports our own log's errors, which nobody would read on this machine."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report({"log": self.format(record)})


def _own_name() -> str:
    """The name by which Ray finds this actor."""
    from ray import serve

    return str(serve.get_replica_context().replica_id.to_full_id_str())
