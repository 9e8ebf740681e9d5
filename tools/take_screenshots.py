"""Draw with `bdm serve`'s page in a headless Chromium, and save the screenshots of docs/page.md.

    python tools/take_screenshots.py [--out docs/pictures] [--steps 30]

Needs the extras `serve` and `browser`, and an installed Chromium. The pictures are drawn with the
emoji world, first seeds, nothing chosen.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/shared"))
from chromium import NoBrowser, launch

PATIENCE = 600_000  # milliseconds
DESK = {"width": 1180, "height": 760}
PHONE = {"width": 390, "height": 780}


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """`bdm serve` in a process of its own; its address."""
    code = "from bridge_diffusion.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def save(page: Page, path: Path) -> None:
    """A screenshot as a WebP of half a PNG's size."""
    page.wait_for_timeout(400)  # pictures fade in
    with Image.open(BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, quality=75, method=6)
    print(f"{path}: {path.stat().st_size // 1024} KiB", flush=True)


def generate(page: Page, done: str = "Done") -> None:
    with page.expect_response(lambda answer: answer.url.endswith("/api/jobs")):
        page.keyboard.press("Control+Enter")
    page.wait_for_timeout(500)  # another sheet is on show from here on
    page.locator(".progress-text", has_text=done).wait_for()
    page.wait_for_timeout(500)


def set_seed(page: Page, seed: int) -> None:
    page.get_by_label("A new seed each time").uncheck()
    page.get_by_label("Seed", exact=True).fill(str(seed))


def draw_pictures(page: Page, out: Path) -> None:
    save(page, out / "page-empty.webp")
    set_seed(page, 1)
    page.get_by_label("Prompt in your language", exact=True).fill("红包")
    page.get_by_label("English prompt (optional)").fill("a blue background")
    page.keyboard.press("Control+Enter")
    page.locator("img.preview").first.wait_for()
    save(page, out / "page-drawing.webp")
    page.locator(".progress-text", has_text="Done").wait_for()
    save(page, out / "page-pictures.webp")


def compare(page: Page, out: Path) -> None:
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Your translation of the prompt").fill("red envelope")
    generate(page)
    save(page, out / "page-compare.webp")


def make_grid(page: Page, out: Path) -> None:
    page.get_by_role("button", name="Grid").click()
    page.get_by_label("Values of the columns").fill("0, 0.5, 1, 1.5")
    page.get_by_label("Rows", exact=True).select_option("words")
    page.get_by_label("Values of the rows").fill("红包\n月饼")
    generate(page)
    page.mouse.move(0, 0)
    page.set_viewport_size({"width": 1180, "height": 1010})
    save(page, out / "page-grid.webp")
    page.set_viewport_size(DESK)
    page.get_by_role("button", name="Pictures", exact=True).click()


def find_again(page: Page, address: str, out: Path) -> None:
    page.goto(f"{address}#gallery")
    page.get_by_label("Search the prompts").fill("红包")
    page.locator(".gallery-pictures .tile-open").nth(5).wait_for()
    page.locator(".gallery-pictures .icon-button").nth(4).click()
    save(page, out / "page-gallery.webp")
    page.locator(".gallery-pictures .tile-open").first.click()
    save(page, out / "page-picture.webp")
    page.get_by_role("button", name="Start from it").click()
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator("#mask-canvas")
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for x, y in ((0.75, 0.2), (0.7, 0.45), (0.3, 0.5)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
    page.mouse.up()
    save(page, out / "page-mask.webp")
    page.get_by_role("button", name="Cancel").click()


def wait_in_line(page: Page, address: str, out: Path) -> None:
    for prompt in ("月饼", "饭团", "红灯笼"):
        order = {"prompt": prompt, "n": 16, "steps": 150}
        page.request.post(f"{address}api/jobs", data={"order": order})
    page.goto(f"{address}#queue")
    page.locator("ol.jobs img").first.wait_for()
    save(page, out / "page-queue.webp")
    page.get_by_role("button", name="Cancel all").click()
    page.get_by_text("Nothing is waiting").wait_for()


def on_a_phone(browser: Any, address: str, out: Path) -> None:
    options = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 1}
    context = browser.new_context(locale="zh-CN", color_scheme="dark", **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("母语提示词", exact=True).fill("蓝色背景上的麻将")
    generate(page, "完成")
    save(page, out / "page-phone-zh.webp")
    page.get_by_label("母语提示词", exact=True).fill("فانوس رمضان على خلفية زرقاء")
    page.get_by_label("页面语言").select_option("en")
    page.evaluate("scrollTo(0, 0)")
    save(page, out / "page-right-to-left.webp")
    context.close()


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as address,
        sync_playwright() as playwright,
    ):
        try:
            browser = launch(playwright)
        except NoBrowser as error:
            sys.exit(str(error))
        page = browser.new_page(viewport=DESK, locale="en-GB")
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector("#field-steps")
        page.get_by_label("Steps").first.fill(str(options.steps))
        page.evaluate("scrollTo(0, 0)")
        draw_pictures(page, options.out)
        compare(page, options.out)
        make_grid(page, options.out)
        find_again(page, address, options.out)
        wait_in_line(page, address, options.out)
        on_a_phone(browser, address, options.out)
        browser.close()


if __name__ == "__main__":
    main()
