"""Ray, where it is installed: a cluster or an instance of our own, clear errors, a clean end."""

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge_diffusion.errors import BridgeError

_SECONDS_TO_ANSWER = 5.0
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do from a later version on
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a late call starts another Ray once ours has ended
}
# Of an instance of our own: its workers do the work that was asked for, nothing in the background;
# on a busy machine its own processes may take long to start.
_OF_OUR_OWN = {"RAY_worker_niceness": "0", "RAY_agent_register_timeout_ms": "600000"}
_LOGGERS = ("ray", "ray.data", "ray.serve", "ray.util")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a cluster has in all, in use or not."""

    cpus: int
    """Cores."""
    gpus: int
    """GPUs."""
    machines: int
    """Machines that are alive."""


def ray_package() -> Any:
    """The package `ray`, its usage statistics off. BridgeError if it is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise BridgeError(
            "--engine ray needs the extra `ray`: pip install 'bridge-diffusion[ray]'"
        ) from error
    return ray


def quiet_ray() -> None:
    """Keep Ray's own log out of ours, but for --debug: what it says of an error is in the error.

    Called again after `ray.data` or `ray.serve` is imported, which set their loggers up then.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(_log_level())


@contextlib.contextmanager
def connected(address: str | None = None, *, cpus: int = 1) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start an instance of our own, and leave it at the end.

    Args:
        address: HOST:PORT of the cluster's head, or "auto" for the one that this machine belongs
            to; None starts an instance on this machine, which ends with the block, and whose files
            under /tmp are removed. A program that has called `ray.init` itself keeps its
            connection, which is used then.
        cpus: An instance of our own says that it has as many cores, or as many as there are, so
            that what was asked for is never waited for in vain.

    Raises:
        BridgeError: Ray is not installed, cannot be started, or nothing answers.
    """
    ray = ray_package()
    if ray.is_initialized():
        if address is not None:
            raise BridgeError(
                f"this process is connected to Ray already, and --ray-address is {address}; leave "
                "it out, or call ray.shutdown() first"
            )
        yield _what_it_has(ray)
        return
    options: dict[str, Any] = {"log_to_driver": _debugging(), "logging_level": _log_level()}
    folder = None
    if address is None:
        for name, value in _OF_OUR_OWN.items():
            os.environ.setdefault(name, value)
        # Sockets lie below it, and their paths may have 107 bytes: $TMPDIR may be too long.
        folder = tempfile.mkdtemp(prefix="bdm-", dir="/tmp")
        options |= {
            "address": "local",
            "num_cpus": max(cpus, os.cpu_count() or 1),
            "include_dashboard": False,
            "_temp_dir": folder,
        }
    else:
        _check_address(address)
        options |= {"address": address}
    try:
        try:
            ray.init(**options)
        except Exception as error:  # of many kinds, and not all of them Ray's
            place = "on this machine" if address is None else f"to {address}"
            line = " ".join(str(error).split())
            raise BridgeError(f"Ray cannot be {_verb(address)} {place} ({line})") from error
        quiet_ray()
        yield _what_it_has(ray)
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _what_it_has(ray: Any) -> Cluster:
    has = ray.cluster_resources()
    return Cluster(
        cpus=int(has.get("CPU", 0)),
        gpus=int(has.get("GPU", 0)),
        machines=sum(node["Alive"] for node in ray.nodes()),
    )


@contextlib.contextmanager
def clear_ray_errors(what: str) -> Iterator[None]:
    """Raise `BridgeError` for what fails in a task, an actor, or Ray itself.

    what: what is being done, for the message. A BridgeError that a task raised keeps its words.
    """
    ray = ray_package()
    try:
        yield
    except ray.exceptions.RayError as error:
        root = _root(error, ray.exceptions.RayError)
        # Here and in `_root`: a task's error is of two classes, Ray's and that of what it raised.
        if isinstance(root, BridgeError) and not isinstance(root, ray.exceptions.RayError):
            raise BridgeError(str(root)) from error
        if isinstance(root, _died(ray.exceptions)):
            raise BridgeError(
                f"{what} failed on Ray: a worker process died, again and again; the machine's log "
                "says whether its memory was full"
            ) from error
        lines = [line.strip() for line in str(root).splitlines() if line.strip()]
        said = f": {lines[0]}" if lines else ""
        raise BridgeError(f"{what} failed on Ray ({type(root).__name__}{said})") from error


def _died(exceptions: Any) -> tuple[type[BaseException], ...]:
    return (
        exceptions.WorkerCrashedError,
        exceptions.ActorDiedError,
        exceptions.ActorUnavailableError,
        exceptions.OutOfMemoryError,
    )


def _root(error: BaseException, rays: type[BaseException]) -> BaseException:
    """What lies under an error of Ray's: what a task raised, or else the first error of Ray's."""
    while isinstance(error, rays):
        below = getattr(error, "cause", None) or error.__cause__
        if not isinstance(below, BaseException) or below is error:
            break
        error = below
    return error


def _check_address(address: str) -> None:
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise BridgeError(
            f"--ray-address is {address!r}; give HOST:PORT of the cluster's head (port 6379, if "
            'none was chosen), or "auto" on a machine of the cluster'
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER):
            pass
    except OSError as error:
        raise BridgeError(
            f"nothing answers at --ray-address {address} ({error.strerror or error}); is the "
            "cluster up, and this machine one of it? `ray start --head` prints the address"
        ) from error


def _verb(address: str | None) -> str:
    return "started" if address is None else "connected"


def _log_level() -> int:
    return logging.INFO if _debugging() else logging.CRITICAL


def _debugging() -> bool:
    return bool(os.environ.get("BDM_DEBUG"))
