"""`bdm serve --engine ray` as it is started: one Ray for all tests here, in other processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.ray_engine import plan_replicas, with_whole_paths
from bridge_diffusion.server.settings import ServerSettings

pytest.importorskip("ray", reason="the extra ray is not installed")


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    address: str
    data: Path

    def submit(self, **order: Any) -> str:
        answer = httpx.post(f"{self.address}/api/jobs", json={"order": order}, timeout=60)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, id: str) -> dict[str, Any]:
        return httpx.get(f"{self.address}/api/jobs/{id}", timeout=60).json()

    def until(self, id: str, reached: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The job once it is so, or has ended."""
        while True:
            job = self.job(id)
            if reached(job) or job["ended"]:
                return job
            time.sleep(0.1)

    def ended(self, id: str) -> dict[str, Any]:
        return self.until(id, lambda job: False)

    def picture(self, job: str) -> bytes:
        return httpx.get(f"{self.address}/api/pictures/{job}-000.png", timeout=60).content

    def upload(self, data: bytes) -> str:
        answer = httpx.post(f"{self.address}/api/uploads", files={"file": ("x", data)}, timeout=60)
        return answer.json()["id"]

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes below the server's that are called so."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if name in " ".join(_words(process))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


@contextmanager
def started(data: Path, *options: str) -> Iterator[Server]:
    """A server; it is told to end at the end, and no process stays."""
    command = [sys.executable, "-m", "bridge_diffusion.cli", "serve", "--port", "0"]
    with (
        (data / "stderr").open("w") as errors,
        subprocess.Popen(
            [*command, "--data", str(data), *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Sums agree where threads do; what killed replicas leave is looked for.
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(data)},
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (data / "stderr").read_text()
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        try:
            yield Server(process, line.split()[-1].rstrip("/"), data)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            # Where a test has killed Ray's head, its agents take a minute to notice.
            _, alive = psutil.wait_procs(family, timeout=5)
            for each in alive:
                each.kill()


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("ray"), "--engine", "ray") as server:
        yield server


@pytest.fixture(scope="module")
def on_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("local"), "--device", "cpu") as server:
        yield server


REPLICA = "ray::ServeReplica"


def test_pictures_are_those_of_a_local_worker(
    on_ray: Server, on_this_machine: Server, picture_bytes: Callable[..., bytes]
) -> None:
    red, white = picture_bytes(colour="red"), picture_bytes((32, 32), colour="white")
    for values in (
        {"english": "a blue background", "seed": 7},
        {"init_image": red, "seed": 8, "strength": 0.6},
        {"init_image": red, "mask": white, "seed": 9, "steps": 4},
    ):
        drawn = []
        for server in (on_ray, on_this_machine):
            uploads = {k: server.upload(v) for k, v in values.items() if isinstance(v, bytes)}
            job = server.ended(server.submit(**{"prompt": "红包", "steps": 3, **values, **uploads}))
            assert (job["state"], job["error"]) == ("done", None)
            drawn.append(server.picture(job["id"]))
        assert drawn[0] == drawn[1], values


def test_a_batch_streams_steps_and_previews(on_ray: Server) -> None:
    job = on_ray.submit(prompt="红包" * 1000, n=2, steps=4, seed=1)
    told = httpx.get(f"{on_ray.address}/api/jobs/{job}/events", timeout=600).text
    assert told.count("event: progress") == 2 * 4
    assert "data:image/jpeg;base64," in told
    ended = on_ray.ended(job)
    assert [picture["seed"] for picture in ended["pictures"]] == [1, 2]
    assert "cut off" in ended["notes"][0]


def test_what_cannot_be_drawn_is_told(on_ray: Server) -> None:
    job = on_ray.ended(on_ray.submit(prompt="红包", size=[100, 64]))
    assert job["state"] == "failed"
    assert "multiples of 8" in job["error"]


def test_a_cancelled_batch_frees_its_replica(on_ray: Server) -> None:
    job = on_ray.submit(prompt="红包", steps=150, n=4)
    on_ray.until(job, lambda job: job["step"])
    before = [process.pid for process in on_ray.processes(REPLICA)]
    httpx.delete(f"{on_ray.address}/api/jobs/{job}")
    assert on_ray.ended(on_ray.submit(prompt="月饼", steps=1))["state"] == "done"
    assert [process.pid for process in on_ray.processes(REPLICA)] == before
    assert on_ray.job(job)["pictures"] == []


def test_a_replica_that_dies_loses_no_job(on_ray: Server) -> None:
    job, behind = (
        on_ray.submit(prompt="红包", steps=40, n=2),
        on_ray.submit(prompt="月饼", steps=1),
    )
    on_ray.until(job, lambda job: job["step"])
    (replica,) = on_ray.processes(REPLICA)
    (pictures,) = on_ray.data.glob(f"bdm-replica-{replica.pid}-*")
    replica.kill()
    for id, count in ((job, 2), (behind, 1)):
        ended = on_ray.ended(id)
        assert (ended["state"], len(ended["pictures"])) == ("done", count)
    assert [process.pid for process in on_ray.processes(REPLICA)] != [replica.pid]
    assert not pictures.exists()
    (device,) = httpx.get(f"{on_ray.address}/api/status").json()["devices"]
    assert device == {"name": "ray:0", "state": "idle"}


def test_a_cluster_that_goes_away_ends_the_server_and_loses_no_job(
    on_ray: Server,
) -> None:
    """The last test here: nothing draws after it."""
    job = on_ray.submit(prompt="红包", steps=150, n=2)
    on_ray.until(job, lambda job: job["step"])
    (head,) = on_ray.processes("gcs_server")
    head.kill()
    assert on_ray.process.wait() == 2
    line = (on_ray.data / "stderr").read_text().splitlines()[-1]
    assert "Ray cluster" in line
    assert "start bdm serve again" in line


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "planned"),
    [
        (None, 8, 0, (1, "cpu", {"num_cpus": 8})),
        (3, 8, 0, (3, "cpu", {"num_cpus": 2})),
        (None, 8, 4, (4, "cuda", {"num_cpus": 1, "num_gpus": 1})),
        (2, 8, 4, (2, "cuda", {"num_cpus": 1, "num_gpus": 1})),
    ],
)
def test_a_replica_has_a_gpu_or_its_share_of_cpus(
    asked: int | None, cpus: int, gpus: int, planned: tuple
) -> None:
    plan = plan_replicas(asked, cpus=cpus, gpus=gpus, all_cpus=True)
    assert (plan.replicas, plan.device, plan.resources) == planned


def test_a_cluster_of_others_gives_a_cpu_for_each_replica() -> None:
    assert plan_replicas(2, cpus=8, gpus=0, all_cpus=False).resources == {"num_cpus": 1}


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 0), (64, 2)])
def test_more_replicas_than_there_is_room_for_are_refused(cpus: int, gpus: int) -> None:
    with pytest.raises(BridgeError, match="--replicas is 3, and the Ray cluster has"):
        plan_replicas(3, cpus=cpus, gpus=gpus, all_cpus=True)


def test_a_replica_finds_what_was_named_from_the_servers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    named = ServerSettings(data=Path("data"), models=("model", "owner/name"), plugins=Path("model"))
    settings = with_whole_paths(named)
    assert settings.models == (str(tmp_path / "model"), "owner/name")
    assert settings.plugins == tmp_path / "model"
