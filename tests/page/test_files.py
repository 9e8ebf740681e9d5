"""The page's files without a browser: how they are served, what they ask for, their texts."""

import json
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from bridge_diffusion.server.access import Gate
from bridge_diffusion.server.page_files import PAGE, PageFiles

CODE = sorted((PAGE / "code").glob("*.js"))
OURS = [*CODE, *PAGE.glob("style/*.css"), PAGE / "index.html"]


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(Gate, token="", most_body=1000)
    app.mount("/", PageFiles())
    return TestClient(app, base_url="http://localhost")


def test_the_page_may_load_nothing_from_elsewhere_nor_run_inline_scripts(
    client: TestClient,
) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy  # that of default-src
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bon\w+=|style=", answer.text) == []


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("code/main.js", "text/javascript"),
        ("style/base.css", "text/css"),
        ("strings/zh.json", "application/json"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_types_and_are_asked_for_anew(
    client: TestClient, file: str, kind: str
) -> None:
    first = client.get(f"/{file}")
    assert first.headers["content-type"] == f"{kind}; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(f"/{file}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


def test_nothing_outside_the_folder_is_served(client: TestClient) -> None:
    for path in ("/../app.py", "/%2e%2e/app.py", "/code/..%2f..%2fapp.py", "/code"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_file_names_another_host_or_runs_text_as_code(path: Path) -> None:
    text = path.read_text("utf-8")
    assert re.findall(r"https?://(?!www\.w3\.org)|[\"'(]//\w|@import|url\(", text) == []
    assert re.findall(r"\beval\(|new Function|innerHTML|dangerouslySetInnerHTML", text) == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_every_module_that_is_imported_is_there(path: Path) -> None:
    for name in re.findall(r'from "([^"]+)"', path.read_text("utf-8")):
        assert (path.parent / name).is_file(), name


def test_both_languages_say_everything_that_is_asked_for() -> None:
    texts = {
        name: json.loads((PAGE / f"strings/{name}.json").read_text("utf-8"))
        for name in ("en", "zh")
    }
    assert set(texts["en"]) == set(texts["zh"])
    for key, english in texts["en"].items():
        places = re.findall(r"\{\w+\}", english)
        assert sorted(re.findall(r"\{\w+\}", texts["zh"][key])) == sorted(places), key
    code = "\n".join(path.read_text("utf-8") for path in CODE)
    asked = set(re.findall(r'\bt\("([^"]+)"', code))
    assert asked - set(texts["en"]) == set()
    # Those with a part that is only known later: t(`mode.${name}`).
    for start in re.findall(r"\bt\(`([\w.]+\.)\$\{", code):
        assert any(key.startswith(start) for key in texts["en"]), start


def test_the_page_stays_small() -> None:
    sizes = {path: path.stat().st_size for path in PAGE.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 300_000
