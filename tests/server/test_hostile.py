"""What nobody should send: damaged pictures, bombs, and what schemathesis makes up."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image, PngImagePlugin
from schemathesis import GenerationMode

from bridge_diffusion.server.app import create_app
from bridge_diffusion.server.service import open_service
from bridge_diffusion.server.settings import Limits, ServerSettings

FEW_LIMITS = Limits(upload_pixels=100_000, jobs=50, jobs_of_client=50)


def png_bomb(side: int) -> bytes:
    """A small PNG of a huge black square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packer.flush()
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose text chunk unpacks to 80 MiB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * (80 * 2**20), zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [lambda: png_bomb(20_000), text_bomb])
def test_bombs_are_refused(local: Any, make: Callable[[], bytes]) -> None:
    data = make()
    assert len(data) < 2**20
    answer = local.client.post("/api/info", files={"file": ("x", data)})
    assert answer.status_code == 422
    if make is not text_bomb:  # whose pixels are few; its text is not unpacked for them
        assert local.client.post("/api/uploads", files={"file": ("x", data)}).status_code == 422


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(
    local: Any, picture_bytes: Callable[..., bytes], file_format: str
) -> None:
    data = picture_bytes(file_format=file_format)
    for path in ("/api/uploads", "/api/info"):
        answer = local.client.post(path, files={"file": ("x.png", data)})
        assert answer.status_code == 422, path
        assert "PNG, JPEG or WebP" in answer.json()["detail"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    file_format=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    cut=st.integers(0, 300),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=5),
)
def test_damaged_pictures_are_told(
    local: Any,
    picture_bytes: Callable[..., bytes],
    file_format: str,
    cut: int,
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(picture_bytes((20, 20), "teal", file_format))
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data[: max(1, len(data) - cut)])
    for path in ("/api/uploads", "/api/info"):
        answer = local.client.post(path, files={"file": ("x", damaged)})
        assert answer.status_code in (200, 201, 422), answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"order": {"prompt": "\\ud800"}}',
        b'{"order": {"prompt": "x", "scale": NaN}}',
        b'{"order": {"prompt": "x", "guidance": Infinity}}',
        b'{"order": {"prompt": "x", "seed": 1' + b"0" * 5000 + b"}}",
        b'{"order": {"prompt": "x", "size": [1' + b"0" * 40 + b", 8]}}",
        b'{"order": {"prompt": "x", "seed": 9223372036854775807, "n": 2}}',
        b'{"order": {"prompt": "x"}, "group": "\\udcff"}',
        b'{"order": {"prompt": "\\u0000"}}',
        b"\xff\xfe",
        b"",
    ],
)
def test_strange_bodies(local: Any, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = local.client.post("/api/jobs", content=body, headers=headers)
    assert answer.status_code in (202, 400, 422), answer.text
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"):
        answer = local.client.post(path, content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text


def ask_made_up(folder: Path, examples: int, modes: Sequence[GenerationMode]) -> None:
    """Ask every interface what schemathesis makes up from the OpenAPI document.

    Each job ends as soon as it is accepted, so that no request waits for a picture.
    """
    service = open_service(ServerSettings(data=folder, limits=FEW_LIMITS))
    submit = service.queue.submit

    def submit_and_cancel(*arguments: Any, **values: Any) -> Any:
        job = submit(*arguments, **values)
        service.queue.cancel(job.id)
        return job

    service.queue.submit = submit_and_cancel  # type: ignore[method-assign]
    app = create_app(service)
    document = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    quiet = list(HealthCheck)
    # A stream of all events never ends by itself.
    for found in document.exclude(path="/api/events").get_all_operations():
        for mode in modes:

            @settings(max_examples=examples, deadline=None, suppress_health_check=quiet)
            @given(case=found.ok().as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                answer = case.call(session=client)
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)

            with contextlib.suppress(Unsatisfiable):  # nothing wrong can be asked there
                ask()
    service.database.close()


def test_made_up_requests_are_answered(tmp_path: Path) -> None:
    ask_made_up(tmp_path, 3, [GenerationMode.POSITIVE])


@pytest.mark.full
def test_many_made_up_requests_are_answered(tmp_path: Path) -> None:
    ask_made_up(tmp_path, 100, [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
