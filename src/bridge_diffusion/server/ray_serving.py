"""The drawing part of `bdm serve --engine ray`: replicas as a Ray Serve application.

The queue stays with the server and forms the batches; Ray Serve keeps the replicas alive and gives
each batch to one that is free.
"""

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, LoggingConfig

from bridge_diffusion import __version__
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.ray_replica import Replica
from bridge_diffusion.server.ray_worker import RayWorker, first_line

_log = logging.getLogger(__name__)

_DEPLOYMENT = "replica"
_BETWEEN_LOOKS = 1.0  # seconds
_BETWEEN_NOTICES = 30.0  # seconds
_MISSES = 3  # looks in a row without an answer, after which a cluster is gone
_SECONDS_TO_ANSWER = 3.0
_SECONDS_TO_LEAVE = 2.0  # of a replica that is told to end while it draws
_SECONDS_OF_HEALTH = 120.0  # a replica may be busy loading a model


class RayServing:
    """The replicas of one server, and the workers that feed them: as many."""

    def __init__(self, application: str, replicas: int) -> None:
        """
        Args:
            application: Its name in Ray Serve.
            replicas: How many.
        """
        self._application = application
        self._address: str = ray.get_runtime_context().gcs_address
        self._replicas = replicas
        self._handle: Any = None
        self._reason: str | None = None
        self._when_lost: Callable[[], None] = lambda: None
        self._losing = threading.Lock()
        self._closed = threading.Event()
        self.workers = [RayWorker(f"ray:{index}", self) for index in range(replicas)]

    @property
    def handle(self) -> Any:
        """Ray Serve's handle of the deployment, whose calls stream."""
        return self._handle

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be drawn there any more."""
        return self._reason is not None

    def deploy(self, device: str, resources: Mapping[str, float]) -> None:
        """Start the replicas, in place of those that a server before this one left, and wait.

        Raises:
            BridgeError: They cannot start.
        """
        quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its import has set it anew
        serve.start(proxy_location="Disabled", logging_config=quiet)  # no port: we are the front
        deployment = serve.deployment(Replica).options(
            name=_DEPLOYMENT,
            num_replicas=self._replicas,
            max_ongoing_requests=1,
            ray_actor_options=dict(resources),
            graceful_shutdown_timeout_s=_SECONDS_TO_LEAVE,
            health_check_timeout_s=_SECONDS_OF_HEALTH,
            logging_config=quiet,
        )
        application = deployment.bind(device, __version__)
        target = serve.RunTarget(application, name=self._application, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        self._handle = handle.options(stream=True)
        threading.Thread(target=self._watch, name="Ray's head", daemon=True).start()
        if not self.wait_until_ready():
            self.raise_if_lost()

    def wait_until_ready(self) -> bool:
        """Wait until every replica is there; False where it is lost before."""
        notice = time.monotonic() + _BETWEEN_NOTICES
        while not self.is_lost and not self._closed.is_set():
            try:
                seen = serve.status().applications.get(self._application)
            except Exception as error:
                self.lose(first_line(error))
                break
            if seen is None or seen.status == ApplicationStatus.DELETING:
                self.lose("its Ray Serve application was deleted")
                break
            if seen.status == ApplicationStatus.RUNNING:
                return True
            if seen.status == ApplicationStatus.DEPLOY_FAILED:
                self.lose(_why(seen))
                break
            if time.monotonic() > notice:
                replica = seen.deployments.get(_DEPLOYMENT)
                there = 0 if replica is None else replica.replica_states.get("RUNNING", 0)
                _log.warning("waiting for Ray: %d of %d replicas are there", there, self._replicas)
                notice += _BETWEEN_NOTICES
            self._closed.wait(_BETWEEN_LOOKS)
        return False

    def when_lost(self, told: Callable[[], None]) -> None:
        """Have something called, in another thread, once nothing can be drawn any more."""
        with self._losing:
            self._when_lost = told
            lost = self.is_lost
        if lost:
            told()

    def lose(self, reason: str) -> None:
        """Say that nothing can be drawn there any more."""
        with self._losing:
            if self.is_lost or self._closed.is_set():
                return
            self._reason = reason
            told = self._when_lost
        for worker in self.workers:
            worker.lose()
        told()

    def raise_if_lost(self) -> None:
        """Raises `BridgeError` where nothing can be drawn any more, with the reason."""
        if self._reason is not None:
            raise BridgeError(
                f"nothing can be drawn on the Ray cluster at {self._address} ({self._reason}); "
                "what was accepted waits: see to the cluster and start bdm serve again"
            )

    def blames_replica(self) -> bool:
        """Whether the cluster is still there, so that an error is a replica's. May take seconds."""
        for _ in range(_MISSES):
            if self.is_lost:
                return False
            if self._answers():
                return True
            self._closed.wait(_BETWEEN_LOOKS)
        self.lose("its head does not answer")
        return False

    def close(self) -> None:
        """Take the replicas away."""
        self._closed.set()
        if not self.is_lost:
            serve.delete(self._application)

    def _watch(self) -> None:
        """Ray itself waits a minute for its head, and then ends the process without a word."""
        misses = 0
        while not self._closed.wait(_BETWEEN_LOOKS):
            misses = 0 if self._answers() else misses + 1
            if misses == _MISSES:
                self.lose("its head does not answer")
                return

    def _answers(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
        except OSError:
            return False
        return True


def application_name(data: Path) -> str:
    """The same at each start over a data folder, so that a server takes up its own replicas."""
    place = f"{socket.gethostname()}:{data.expanduser().resolve()}"
    return "bdm-" + hashlib.sha256(place.encode()).hexdigest()[:12]


def _why(failed: Any) -> str:
    """The reason why an application cannot start: the last line of its replicas' traceback."""
    told = [deployment.message for deployment in failed.deployments.values()]
    lines = [line.strip() for line in "\n".join([failed.message, *told]).splitlines()]
    return [line for line in lines if line][-1]
