"""A server with its workers, for tests that draw."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from bridge_diffusion.server.app import create_app
from bridge_diffusion.server.running import listen
from bridge_diffusion.server.service import open_service
from bridge_diffusion.server.settings import ServerSettings


@contextmanager
def serving(settings: ServerSettings) -> Iterator[str]:
    """A whole server in a thread, on a free port; its address."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(create_app(open_service(settings)), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
