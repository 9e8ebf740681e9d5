"""Run the server: one process with the page and the interfaces, until it is told to end."""

import socket
from contextlib import suppress
from functools import partial

import uvicorn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.app import create_app
from bridge_diffusion.server.service import Service, open_service
from bridge_diffusion.server.settings import ServerSettings

_SECONDS_TO_END = 3


def serve(settings: ServerSettings) -> None:
    """Serve until a signal.

    Raises:
        BridgeError: The address is taken, the data folder cannot be used, a source is wrong, or
            Ray is not there or goes away.
    """
    listening = listen(settings.host, settings.port)
    with listening:
        if settings.engine == "local":
            _run(_server(open_service(settings)), settings, listening)
            return
        from bridge_diffusion.ray_cluster import ray_package
        from bridge_diffusion.server.ray_engine import ray_replicas, with_whole_paths

        ray_package()  # before anything is written
        settings = with_whole_paths(settings)
        service = open_service(settings)  # first: no other server over its folder has replicas
        with ray_replicas(settings) as replicas:
            service.workers.extend(replicas.workers)
            server = _server(service)
            replicas.when_lost(partial(setattr, server, "should_exit", True))
            _run(server, settings, listening)
            replicas.raise_if_lost()


def _server(service: Service) -> uvicorn.Server:
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _run(server: uvicorn.Server, settings: ServerSettings, listening: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listening.getsockname()[1]}/"
    print(f"bdm serves at {address}" + ("?token=TOKEN" if settings.token else ""), flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn has ended well, and tells of Ctrl-C once more
        server.run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `BridgeError` where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise BridgeError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); give another --port"
        ) from error
    return listening
