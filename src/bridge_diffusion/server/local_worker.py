"""A worker in a process of its own on this machine; it talks in lines of JSON."""

import json
import logging
import queue as queues
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

_log = logging.getLogger(__name__)


class LocalWorker:
    """`python -m bridge_diffusion.server.worker`, and the pipes to it. A `Worker`."""

    def __init__(self, device: str) -> None:
        """
        Args:
            device: Where it computes: cpu, cuda:1 ...
        """
        self.name = device
        self._process: subprocess.Popen[str] | None = None
        self._said: queues.SimpleQueue[dict[str, Any] | None] = queues.SimpleQueue()

    @property
    def process_id(self) -> int | None:
        """The process's id, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], None]) -> None:
        """Start the process."""
        self._said = queues.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridge_diffusion.server.worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        reading = (self._process, self._said, ready)
        threading.Thread(target=_read, args=reading, daemon=True).start()

    def draw(self, tasks: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the process still listens."""
        return self._send({"draw": tasks})

    def leave_off(self) -> bool:
        """Whether the process still listens."""
        return self._send({"stop": True})

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """The next report."""
        return self._said.get(timeout=seconds)

    def end(self) -> None:
        """Kill the process."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):  # what it did not read any more
                    process.stdin.close()
            self._process = None

    def _send(self, values: Mapping[str, Any]) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            process.stdin.write(json.dumps(values) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            return False
        return True


def _read(
    process: "subprocess.Popen[str]",
    said: "queues.SimpleQueue[dict[str, Any] | None]",
    ready: Callable[[], None],
) -> None:
    """Pass on what a process says; None once it says no more."""
    assert process.stdout is not None
    with process.stdout:
        try:
            for line in process.stdout:
                values = json.loads(line)
                if "ready" in values:  # at once: nobody asks before there is something to draw
                    ready()
                else:
                    said.put(values)
        except (OSError, ValueError):
            _log.exception("a worker's report could not be read")
    said.put(None)
