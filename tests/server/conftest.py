"""A server in this process, without workers; and a whole one that draws with the emoji world."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from whole_server import serving

from bridge_diffusion.server.app import create_app
from bridge_diffusion.server.queue import Unit
from bridge_diffusion.server.service import Service, open_service
from bridge_diffusion.server.settings import ServerSettings


def encode(
    size: tuple[int, int] = (64, 64), colour: str = "red", file_format: str = "PNG", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, file_format, **options)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Local:
    """A service and a client of its application; nothing draws."""

    service: Service
    client: TestClient

    def submit(self, prompt: str = "红包", **values: Any) -> dict[str, Any]:
        queued = {name: values.pop(name) for name in ("priority", "group") if name in values}
        answer = self.client.post(
            "/api/jobs", json={"order": {"prompt": prompt, **values}, **queued}
        )
        assert answer.status_code == 202, answer.text
        return answer.json()

    def upload(self, data: bytes) -> dict[str, Any]:
        answer = self.client.post("/api/uploads", files={"file": ("x", data)})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def finish(self, most: int = 8) -> list[Unit]:
        """Do a worker's part for the next batch: write its files and tell the queue."""
        units = self.service.queue.take(most)
        for unit in units:
            path = self.service.gallery.file(unit.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode())
            self.service.queue.finish(unit, width=64, height=64, blacked_out=False)
        return units


@pytest.fixture(scope="session")
def picture_bytes() -> Callable[..., bytes]:
    """Makes the file of a picture of one colour."""
    return encode


@pytest.fixture
def start_local(tmp_path: Path) -> Iterator[Callable[..., Local]]:
    """Make a local server over the test's data folder; again gives one that is started anew."""
    opened: list[Service] = []

    def start(**values: Any) -> Local:
        for service in opened:  # as when its process ends: nothing is said or saved
            service.database.close()
        service = open_service(replace(ServerSettings(data=tmp_path / "data"), **values))
        opened.append(service)
        service.queue.load()
        client = TestClient(
            create_app(service), base_url="http://localhost", raise_server_exceptions=False
        )
        return Local(service, client)

    yield start
    for service in opened:
        service.database.close()


@pytest.fixture
def local(start_local: Callable[..., Local]) -> Local:
    return start_local()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that draws with the emoji world; tests must not depend on its history."""
    data = tmp_path_factory.mktemp("serving")
    with serving(ServerSettings(data=data, devices=("cpu",))) as address:
        yield address


@pytest.fixture(scope="session")
def ended(address: str) -> Callable[[str], dict[str, Any]]:
    """Wait until a job of the whole server has ended."""

    def wait(id: str) -> dict[str, Any]:
        while True:
            job = httpx.get(f"{address}/api/jobs/{id}", timeout=600).json()
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            time.sleep(0.1)

    return wait
