"""The worker process: `python -m bridge_diffusion.server.worker DEVICE`.

It reads one JSON object a line from standard input ({"draw": [task, ...]} or {"stop": true}) and
writes its reports likewise. It ends when its input does, so that it outlives no server.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO


def main() -> None:
    """Draw until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends us
    # The reports have the standard output to themselves, whatever a library prints.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    inbox = _Inbox(sys.stdin)
    quiet_libraries()
    from bridge_diffusion.server.engine import Engine, Task

    def report(values: dict[str, Any]) -> None:
        output.write(json.dumps(values) + "\n")

    engine = Engine(sys.argv[1], report, inbox.is_stopped)
    report({"ready": True})
    while True:
        tasks = inbox.take()
        engine.draw([Task.from_json(values) for values in tasks])
        report({"idle": True})


def quiet_libraries() -> None:
    """Errors reach the client as reports; bars and hints of the libraries reach nobody."""
    import warnings

    warnings.simplefilter("ignore")
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()


class _Inbox:
    """What the server says, read in a thread of its own, so that a stop is heard in between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._batches: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def take(self) -> list[dict[str, Any]]:
        return self._batches.get()

    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def _read(self) -> None:
        for line in self._stream:
            values = json.loads(line)
            if "draw" in values:
                self._stop.clear()
                self._batches.put(values["draw"])
            else:
                self._stop.set()
        os._exit(0)  # the server is gone; nobody wants what is being drawn


if __name__ == "__main__":
    main()
