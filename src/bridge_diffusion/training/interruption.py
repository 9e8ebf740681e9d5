"""Ctrl-C and SIGTERM as a question that the loop asks between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While this context is open, the first SIGINT or SIGTERM only sets `requested`.

    A second one does what it did before the context, so a run that hangs can still be ended. Not
    so under a launcher: it repeats each signal to its processes, and kills those that hang itself.
    Signals can be caught in the main thread alone; elsewhere the context does nothing.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.requested = False
        self._launched = launched
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
