"""Who is let in."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.settings import Limits, ServerSettings

TOKEN = "a-long-random-text"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "localhost.evil"])
def test_other_addresses_need_a_token(tmp_path: Any, host: str) -> None:
    with pytest.raises(BridgeError, match="BDM_TOKEN"):
        ServerSettings(data=tmp_path, host=host)
    with pytest.raises(BridgeError, match="at least 16"):
        ServerSettings(data=tmp_path, host=host, token="short")
    ServerSettings(data=tmp_path, host=host, token=TOKEN)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil:7860"])
def test_other_host_names_get_nothing_without_a_token(local: Any, host: str) -> None:
    answer = local.client.get("/api/status", headers={"Host": host})
    assert answer.status_code == 403
    assert "token" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860"])
def test_loopback_names_are_answered(local: Any, host: str) -> None:
    assert local.client.get("/api/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1234"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_change_nothing(local: Any, headers: dict) -> None:
    order = {"order": {"prompt": "x"}}
    assert local.client.post("/api/jobs", json=order, headers=headers).status_code == 403
    assert local.client.get("/api/queue").json() == []
    answer = local.client.get("/api/queue", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert local.client.post("/api/jobs", json=order, headers=own).status_code == 202


def test_a_token_is_asked_for_everywhere(start_local: Callable[..., Any]) -> None:
    local = start_local(token=TOKEN)
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for path in ("/", "/openapi.json", "/api/status", "/v1/models", "/sdapi/v1/options"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic ?"}):
            assert local.client.get(path, headers=headers).status_code == 401, path
        for header in (f"Bearer {TOKEN}", f"Basic {basic}"):
            answer = local.client.get(
                path, headers={"Authorization": header, "Host": "server.example"}
            )
            assert answer.status_code == 200, path
    assert local.client.get("/v1/models").json()["error"]["type"] == "authentication_error"


def test_a_browser_signs_in_by_its_address(start_local: Callable[..., Any]) -> None:
    client = start_local(token=TOKEN).client
    answer = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/api/status").status_code == 200
    client.cookies.clear()
    assert client.get("/", params={"token": "wrong"}).status_code == 401
    assert client.get("/api/status", params={"token": TOKEN}).status_code == 401


def test_bodies_have_an_upper_bound(start_local: Callable[..., Any]) -> None:
    client = start_local(limits=Limits(body=1000)).client
    assert client.post("/api/jobs", content=b"x" * 1001).status_code == 413

    def parts() -> Iterator[bytes]:  # sent without a length
        for _ in range(3):
            yield b"x" * 500

    headers = {"content-type": "application/json"}
    assert client.post("/api/jobs", content=parts(), headers=headers).status_code == 413


def test_answers_carry_safe_headers(local: Any) -> None:
    headers = local.client.get("/api/status").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_failure_shows_nothing_of_its_inside(local: Any) -> None:
    local.service.database.run("DROP TABLE pictures")
    answer: httpx.Response = local.client.get("/api/pictures")
    assert (answer.status_code, answer.json()) == (
        500,
        {"detail": "the server failed; its log says more", "code": "server_failed", "values": {}},
    )
