"""What happens to jobs, told to whoever listens: from any thread to the server's event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

EventKind = Literal["job", "progress", "picture", "ended"]
_WAITING_EVENTS = 256  # of one listener that reads slowly


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened to a job."""

    job: str
    """The job's id."""
    kind: EventKind
    """"job": a new state; "progress": a step; "picture": one is finished; "ended": the last."""
    data: dict[str, Any]
    """As JSON."""


@dataclass(eq=False, slots=True)
class _Listener:
    job: str | None
    events: "asyncio.Queue[Event | None]" = field(
        default_factory=lambda: asyncio.Queue(_WAITING_EVENTS)
    )

    def put(self, event: Event) -> None:
        if not self.events.full():
            self.events.put_nowait(event)
        elif event.kind != "progress":  # a reader that is so late must ask anew
            self.events.get_nowait()
            self.events.put_nowait(None)


class EventHub:
    """Hands events to listeners. A late one loses progress, and is cut off before it loses more."""

    def __init__(self, most_streams: int) -> None:
        self._most = most_streams
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[_Listener] = set()
        self._streams = 0

    def start(self) -> None:
        """Deliver from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """End all streams."""
        self._loop = None
        for listener in self._listeners:
            while not listener.events.empty():
                listener.events.get_nowait()
            listener.events.put_nowait(None)

    def publish(self, event: Event) -> None:
        """Tell an event; may be called in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: Event) -> None:
        for listener in self._listeners:
            if listener.job in (None, event.job):
                listener.put(event)

    @property
    def full(self) -> bool:
        """Whether there are as many streams as are allowed."""
        return self._streams >= self._most

    @asynccontextmanager
    async def listen(
        self, job: str | None = None, *, is_stream: bool = True
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a job, or of all, from now on.

        Args:
            is_stream: Whether it is one of the streams that are limited.
        """
        listener = _Listener(job)
        self._listeners.add(listener)
        self._streams += is_stream

        async def events() -> AsyncIterator[Event]:
            while (event := await listener.events.get()) is not None:
                yield event

        try:
            yield events()
        finally:
            self._listeners.discard(listener)
            self._streams -= is_stream
