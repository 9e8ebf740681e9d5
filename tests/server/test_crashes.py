"""`bdm serve` as it is started, killed in the middle of a batch, and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge_diffusion.server.devices import Device
from bridge_diffusion.server.local_worker import LocalWorker


@contextmanager
def started(data: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server of its own process, and its address; it is killed at the end."""
    command = [sys.executable, "-m", "bridge_diffusion.cli", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--device", "cpu", "--data", str(data)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[-1].rstrip("/")
        finally:
            process.kill()


def wait_for(condition: Any) -> Any:
    while not (value := condition()):
        time.sleep(0.05)
    return value


def test_nothing_is_lost_where_the_server_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as (process, address):

        def submit(**order: Any) -> str:
            sent = {"order": {"prompt": "红包", "seed": 1, **order}}
            answer = httpx.post(f"{address}/api/jobs", json=sent, timeout=600)
            assert answer.status_code == 202
            return answer.json()["id"]

        def job(id: str) -> dict[str, Any]:
            return httpx.get(f"{address}/api/jobs/{id}", timeout=600).json()

        done = submit(steps=1)
        wait_for(lambda: job(done)["state"] == "done")
        picture = httpx.get(f"{address}/api/pictures/{done}-000.png", timeout=600).content
        with httpx.stream("GET", f"{address}/api/events", timeout=600) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: open"
            drawn, queued = submit(steps=30, n=2), submit(steps=2)
            # Told, not asked for: a machine that does other work asks too late.
            next(line for line in lines if line == "event: progress")
            process.send_signal(signal.SIGKILL)
        process.wait()
    with started(tmp_path) as (_, address):
        assert httpx.get(f"{address}/api/pictures/{done}-000.png", timeout=600).content == picture
        for id, count in ((drawn, 2), (queued, 1)):
            ended = wait_for(lambda id=id: job(id)["ended"] and job(id))
            assert (ended["state"], len(ended["pictures"])) == ("done", count)
            assert [picture["seed"] for picture in ended["pictures"]] == [1, 2][:count]


def test_ctrl_c_ends_the_server_and_its_worker(tmp_path: Path) -> None:
    with started(tmp_path) as (process, address):
        wait_for(lambda: httpx.get(f"{address}/api/status", timeout=600).json()["devices"])
        process.send_signal(signal.SIGINT)
        process.wait()
        assert process.returncode == 0


def test_a_worker_that_is_ready_says_so_before_anything_is_ordered(local: Any) -> None:
    device = Device(
        LocalWorker("cpu"),
        queue=local.service.queue,
        gallery=local.service.gallery,
        batch=4,
        stall=600,
    )
    device.start()
    try:
        wait_for(lambda: device.state != "starting")
        assert device.state == "idle"
    finally:
        local.service.queue.close()
        device.stop()


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_worker_that_ends_or_hangs_is_replaced(local: Any, how: str) -> None:
    """Killed: by its id in the middle of a job. Silent: it does not speak within the time."""
    job = local.submit("红包", steps=2 if how == "silent" else 150, n=1)
    worker = LocalWorker("cpu")
    device = Device(
        worker,
        queue=local.service.queue,
        gallery=local.service.gallery,
        batch=4,
        stall=0.01 if how == "silent" else 600,
    )
    device.start()
    try:
        if how == "killed":
            wait_for(lambda: local.service.queue.get(job["id"]).step)
            first = worker.process_id
            assert first is not None
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: local.service.queue.get(job["id"]).attempts == 1)
            wait_for(lambda: worker.process_id not in (None, first))
            local.service.queue.cancel(job["id"])
        else:
            wait_for(lambda: local.service.queue.get(job["id"]).state == "failed")
            assert "ended 3 times" in local.service.queue.get(job["id"]).error
    finally:
        local.service.queue.close()
        device.stop()
    assert worker.process_id is None
