"""Refusals carry a code and values, and the page has words for each of them in both languages."""

import ast
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server import database
from bridge_diffusion.server.page_files import PAGE
from bridge_diffusion.server.settings import Limits

SOURCES = Path(database.__file__).parent.parent
TEXTS = {
    name: json.loads((PAGE / f"strings/{name}.json").read_text("utf-8")) for name in ("en", "zh")
}
NONE = "0" * 64
ERRORS = ("BridgeError", "QueueFull", "Missing")
CHOICE = ("body", "orelse")  # of "a" if x else "b"


def words(code: str, values: dict[str, Any]) -> dict[str, str]:
    """What the page says of a refusal in each language; every place must have its value."""
    given = {**values, "detail": "…"}
    said = {}
    for language, texts in TEXTS.items():
        text = texts[f"refusal.{code}"]
        said[language] = re.sub(r"\{(\w+)\}", lambda match: str(given[match[1]]), text)
    return said


@pytest.mark.parametrize(
    ("order", "code", "values"),
    [
        ({"prompt": " "}, "empty_prompt", {"field": "prompt"}),
        ({"prompt": "<lora:none>"}, "no_plugin", {"field": "lora", "name": "none"}),
        ({"prompt": "x", "steps": 151}, "too_large", {"field": "steps", "most": 150}),
        ({"prompt": "x", "steps": 0}, "too_small", {"field": "steps", "least": 1}),
        ({"prompt": "x", "steps": 1e400}, "invalid_value", {"field": "steps"}),
        ({"prompt": "x", "n": 17}, "too_large", {"field": "n", "most": 16}),
        ({"prompt": "x", "seed": -1}, "too_small", {"field": "seed", "least": 0}),
        ({"prompt": "x", "seed": 2**63}, "too_large", {"field": "seed", "most": 2**63 - 1}),
        ({"prompt": "x", "seed": 2**63 - 1, "n": 2}, "too_large", {"field": "seed"}),
        ({"prompt": "x", "scale": 11}, "too_large", {"field": "scale", "most": 10}),
        ({"prompt": "x", "scheduler": "no"}, "invalid_value", {"field": "scheduler"}),
        ({"prompt": "x", "size": [4096, 64]}, "too_large", {"field": "size", "most": 2048}),
        ({"prompt": "x", "size": [0, 64]}, "too_small", {"field": "size", "least": 1}),
        ({"prompt": "x" * 4001}, "too_long", {"field": "prompt", "most": 4000}),
        ({"prompt": "x" * 100_001}, "too_long", {"field": "prompt", "most": 100_000}),
        ({"prompt": "\ud800"}, "invalid_value", {"field": "prompt"}),
        ({"prompt": "x", "negative": "<lora:a>"}, "lora_in_negative", {"field": "negative"}),
        ({"prompt": "x <lora:a:b:c>"}, "bad_tag", {"tag": "<lora:a:b:c>"}),
        ({"prompt": "x <hypernet:a>"}, "bad_tag", {"tag": "<hypernet:a>"}),
        ({"prompt": "x <lora:a:999>"}, "bad_weight", {"weight": "999", "most": 100}),
        ({"prompt": "x", "lora": ["a"] * 9}, "too_many", {"field": "lora", "most": 8}),
        ({"prompt": "x", "lora": ["a:1"]}, "no_plugin", {"field": "lora", "name": "a"}),
        ({"prompt": "x", "vae": "a"}, "no_plugin", {"field": "vae", "name": "a"}),
        ({"prompt": "x", "model": "a"}, "no_model", {"field": "model", "name": "a"}),
        (
            {"prompt": "x", "bridge": "a"},
            "no_bridge",
            {"field": "bridge", "name": "a", "model": "emoji"},
        ),
        ({"prompt": "x", "start": 0.5, "end": 0.5}, "window_empty", {"start": 0.5, "end": 0.5}),
        ({"prompt": "x", "init_image": NONE}, "no_upload", {"field": "init_image"}),
        ({"prompt": "x", "mask": NONE}, "no_upload", {"field": "mask"}),
    ],
)
def test_an_order_that_is_refused_says_why_in_both_languages(
    local: Any, order: dict[str, Any], code: str, values: dict[str, Any]
) -> None:
    answer = local.client.post(
        "/api/jobs",
        content=json.dumps({"order": order}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    refusal = answer.json()
    assert refusal["code"] == code
    assert refusal["values"].items() >= values.items()
    assert len(refusal["detail"].splitlines()) == 1
    said = words(refusal["code"], refusal["values"])
    assert said["en"] != said["zh"]


def test_pictures_that_are_refused_say_why(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local(limits=Limits(upload_pixels=1000, body=2**20, side=64))
    for path in ("/api/uploads", "/api/info"):
        for data, status, code, values in (
            (b"nothing", 422, "unreadable_picture", {}),
            (picture_bytes((20, 20))[:60], 422, "unreadable_picture", {}),
            (picture_bytes((40, 40)), 422, "too_many_pixels", {"most": 1000}),
            (b"x" * 2**21, 413, "body_too_large", {"most": 1}),
        ):
            answer = local.client.post(path, files={"file": ("x", data)})
            refusal = answer.json()
            assert (answer.status_code, refusal["code"]) == (status, code), path
            assert refusal["values"] == values
            words(code, values)
    wide = local.upload(picture_bytes((72, 8)))
    order = {"prompt": "x", "init_image": wide["id"]}
    refusal = local.client.post("/api/jobs", json={"order": order}).json()
    assert (refusal["code"], refusal["values"]["size"]) == ("initial_too_large", "72x8")
    order = {"prompt": "x", "init_image": wide["id"], "size": [64, 8], "strength": 0.01}
    refusal = local.client.post("/api/jobs", json={"order": order}).json()
    assert refusal["code"] == "no_step_left"
    words("no_step_left", refusal["values"])


def test_other_refusals_say_why(start_local: Callable[..., Any]) -> None:
    local = start_local(limits=Limits(jobs_of_client=1))
    job = local.submit()
    answer = local.client.post("/api/jobs", json={"order": {"prompt": "x"}})
    assert (answer.status_code, answer.json()["code"]) == (429, "own_queue_full")
    local.client.delete(f"/api/jobs/{job['id']}")
    for method, path, status, code in (
        ("PATCH", f"/api/jobs/{job['id']}", 422, "job_ended"),
        ("GET", f"/api/jobs/{'0' * 16}", 404, "no_job"),
        ("GET", f"/api/jobs/{'0' * 16}/events", 404, "no_job"),
        ("GET", f"/api/pictures/{'0' * 16}-000", 404, "no_picture"),
        ("DELETE", f"/api/pictures/{'0' * 16}-000", 404, "no_picture"),
        ("GET", f"/api/uploads/{NONE}.png", 422, "no_upload"),
    ):
        body = {"priority": "high"} if method == "PATCH" else None
        answer = local.client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        words(code, answer.json()["values"])
    local = start_local(limits=Limits(jobs=0))
    answer = local.client.post("/api/jobs", json={"order": {"prompt": "x"}})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    local = start_local(token="a-token-of-many-letters")
    answer = local.client.get("/api/status")
    assert (answer.status_code, answer.json()["code"]) == (401, "token")


def test_openai_clients_get_the_code_too(local: Any) -> None:
    answer = local.client.post("/v1/images/generations", json={"prompt": "x", "steps": 151})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "too_large"


def test_a_job_that_failed_keeps_its_reason_over_a_restart(
    start_local: Callable[..., Any],
) -> None:
    local = start_local()
    job = local.submit()
    (unit,) = local.service.queue.take(1)
    local.service.queue.fail(unit, BridgeError("no --size", "size_multiple", near="8x8"))
    for _ in range(2):
        view = local.client.get(f"/api/jobs/{job['id']}").json()
        assert (view["state"], view["error"]) == ("failed", "no size")
        assert (view["error_code"], view["error_values"]) == ("size_multiple", {"near": "8x8"})
        local = start_local()


def test_a_data_folder_of_the_first_format_is_taken_over(
    start_local: Callable[..., Any], tmp_path: Path
) -> None:
    job = start_local().submit("旧")
    start_local().service.database.close()
    file = sqlite3.connect(tmp_path / "data/bdm.sqlite", isolation_level=None)
    file.execute("ALTER TABLE jobs DROP COLUMN error_code")
    file.execute("ALTER TABLE jobs DROP COLUMN error_values")
    file.execute("PRAGMA user_version=1")
    file.close()
    view = start_local().client.get(f"/api/jobs/{job['id']}").json()
    assert (view["order"]["prompt"], view["error_code"], view["error_values"]) == ("旧", "", {})


def codes() -> set[str]:
    """Every code that stands in the library's source beside a message."""
    found = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                given = [getattr(each, name, each) for each in node.args[1:2] for name in CHOICE]
                found |= {each.value for each in given if isinstance(each, ast.Constant)}
    return {code for code in found if isinstance(code, str) and code}


def test_the_page_has_words_for_each_code() -> None:
    known = codes()
    assert {"size_multiple", "no_plugin", "several_plugins", "plugin_unfit"} <= known
    for texts in TEXTS.values():
        assert known - {key.removeprefix("refusal.") for key in texts} == set()


def test_the_page_has_words_for_no_other_code() -> None:
    in_code = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    for key in TEXTS["en"]:
        if key.startswith("refusal."):
            assert f'"{key.removeprefix("refusal.")}"' in in_code, key
