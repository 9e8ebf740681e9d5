"""The page in a real browser, before a real server that draws with a tiny pipeline."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from chromium import NoBrowser, launch
from PIL import Image
from tiny_models import save_bridge, tiny_pipeline
from tiny_plugins import save_plugins
from whole_server import serving

from bridge_diffusion.server.settings import ServerSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_PATIENCE = 240_000  # milliseconds, for a machine that does other work
# What is drawn with, quickly, unless a test says otherwise.
_TINY = """
if (localStorage.getItem("bdm.form") === null) localStorage.setItem("bdm.form", JSON.stringify(
    {model: "tiny", bridge: "bridge", steps: 2, n: 1}));
"""


def _missing(reason: str) -> None:
    if os.environ.get("BDM_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and BDM_REQUIRE_BROWSER=1 says that the page must be tested")
    pytest.skip(f"{reason}: the page is not tested")


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A headless Chromium, where one is installed."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("no playwright (pip install 'bridge-diffusion[browser]')")
    with sync_playwright() as playwright:
        try:
            opened = launch(playwright)
        except NoBrowser as error:
            _missing(str(error))
        yield opened
        opened.close()


def _submit(address: str, **order: Any) -> dict[str, Any]:
    order = {"model": "tiny", "bridge": "bridge", **order}
    answer = httpx.post(f"{address}/api/jobs", json={"order": order}, timeout=60)
    assert answer.status_code == 202, answer.text
    return answer.json()


def _draw(address: str, **order: Any) -> dict[str, Any]:
    job = _submit(address, **order)
    with httpx.stream("GET", f"{address}/api/jobs/{job['id']}/events", timeout=240) as events:
        for _ in events.iter_lines():
            pass
    return httpx.get(f"{address}/api/jobs/{job['id']}", timeout=60).json()


@pytest.fixture(scope="session")
def address(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the tiny model, its bridge and plug-ins beside the emoji world."""
    folder = tmp_path_factory.mktemp("page")
    tiny_pipeline().save_pretrained(folder / "tiny")
    save_bridge(folder / "tiny", folder / "bridge")
    (folder / "plugins").mkdir()
    save_plugins(folder / "tiny", folder / "plugins")
    settings = ServerSettings(
        data=folder / "data",
        models=(str(folder / "tiny"),),
        bridges=(str(folder / "bridge"),),
        plugins=folder / "plugins",
        devices=("cpu",),
    )
    with serving(settings) as address:
        _draw(address, prompt="雪", steps=1)  # from here on the worker is there, the model open
        yield address


@pytest.fixture(scope="session")
def submit(address: str) -> Callable[..., dict[str, Any]]:
    """Order from the tiny model, as another page would; the job."""
    return partial(_submit, address)


@pytest.fixture(scope="session")
def draw(address: str) -> Callable[..., dict[str, Any]]:
    """Let the tiny model draw; the job when it has ended."""
    return partial(_draw, address)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """The page as one user sees it."""

    page: "Page"
    address: str
    said: list[str] = field(default_factory=list)
    """What the browser's console says of mistakes."""
    expected: list[str] = field(default_factory=list)
    """What it may say: lines that hold one of these."""

    def get(self, path: str) -> Any:
        return httpx.get(self.address + path, timeout=60).json()

    def open(self, place: str = "draw") -> "Page":
        self.page.goto(f"{self.address}/#{place}")
        self.page.wait_for_selector("main")
        return self.page

    def write(self, prompt: str) -> None:
        self.page.get_by_label("Prompt in your language", exact=True).fill(prompt)

    def generate(self) -> None:
        self.page.keyboard.press("Control+Enter")

    def wait_for(self, state: str = "Done") -> None:
        """Until the sheet on show has ended so."""
        self.page.locator(".progress-text", has_text=state).wait_for()

    def draw(self, prompt: str = "红包") -> None:
        self.write(prompt)
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/jobs")):
            self.generate()
        self.wait_for()

    def wait_for_count(self, items: "Locator", count: int) -> None:
        """Until there are as many. A function in text would be forbidden by the page's policy."""
        from playwright.sync_api import expect

        expect(items).to_have_count(count, timeout=_PATIENCE)

    def section(self, title: str) -> "Locator":
        """Unfold a part of the settings."""
        part = self.page.locator("details", has=self.page.get_by_role("heading", name=title))
        if part.get_attribute("open") is None:
            part.locator("summary").click()
        return part


@pytest.fixture
def visit_as(browser: "Browser", address: str) -> Callable[..., Any]:
    """Open the page with settings of the browser's own; at its end the console must be empty."""

    @contextmanager
    def visit(*, form: str = _TINY, **options: Any) -> Iterator[Visit]:
        options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 800}} | options
        context = browser.new_context(**options)
        context.set_default_timeout(_PATIENCE)
        context.add_init_script(form)
        page = context.new_page()
        visit = Visit(page=page, address=address)
        page.on(
            "console",
            lambda line: line.type in ("error", "warning") and visit.said.append(line.text),
        )
        page.on("pageerror", lambda error: visit.said.append(str(error)))
        try:
            yield visit
        finally:
            context.close()
        said = [line for line in visit.said if not any(map(line.__contains__, visit.expected))]
        assert said == []

    return visit


@pytest.fixture
def visit(visit_as: Callable[..., Any]) -> Iterator[Visit]:
    """The page in a window of a desk."""
    with visit_as() as opened:
        yield opened


@pytest.fixture(scope="session")
def drawn(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture's file with all its settings, drawn through the server."""
    order = {
        "prompt": "月饼",
        "english": "a blue background",
        "negative": "雪",
        "scale": 0.75,
        "steps": 3,
        "guidance": 4.5,
        "seed": 11,
        "scheduler": "euler",
        "lora": ["style:0.6"],
    }
    (picture,) = _draw(address, **order)["pictures"]
    path = tmp_path_factory.mktemp("drawn") / "picture.png"
    path.write_bytes(httpx.get(address + picture["url"], timeout=60).content)
    return path


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A picture that says nothing of its making."""
    buffer = io.BytesIO()
    image = Image.new("RGB", (64, 64), "white")
    image.paste((200, 30, 30), (16, 16, 48, 48))
    image.save(buffer, "PNG")
    return buffer.getvalue()
