"""What a user finds again: the gallery, the settings in a file, the queue."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
    document.body.dispatchEvent(new DragEvent("dragover", options));
    document.body.dispatchEvent(new DragEvent("drop", options));
}"""


def drop(page: Any, data: bytes) -> None:
    """Drop a file on the page, as from a folder's window."""
    page.evaluate(_DROP, ["picture.png", base64.b64encode(data).decode()])


def test_a_dropped_picture_brings_its_settings_back(visit: Any, drawn: Path) -> None:
    page = visit.open("gallery")
    drop(page, drawn.read_bytes())
    page.get_by_text("All settings of the picture are back.").wait_for()
    field = page.get_by_label
    visit.section("LoRA, embeddings, VAE")
    assert field("Prompt in your language", exact=True).input_value() == "月饼"
    assert field("English prompt (optional)").input_value() == "a blue background"
    assert field("Strength of the bridge").first.input_value() == "0.75"
    assert field("Guidance").first.input_value() == "4.5"
    assert field("Seed", exact=True).input_value() == "11"
    assert field("Sampler").input_value() == "euler"
    assert field("style").first.input_value() == "0.6"
    before = visit.get("/api/pictures?search=月饼&limit=1")[0]
    visit.generate()
    visit.wait_for()
    after = visit.get("/api/pictures?search=月饼&limit=1")[0]
    assert before["id"] != after["id"]
    assert before["order"] == after["order"]


def test_a_picture_of_another_program_is_drawn_without_a_bridge(visit: Any) -> None:
    page = visit.open()
    notes = PngInfo()
    notes.add_text(
        "parameters",
        "a fox\nNegative prompt: snow\n"
        "Steps: 12, Sampler: Euler a, CFG scale: 6.5, Seed: 77, Size: 64x32",
    )
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, "PNG", pnginfo=notes)
    drop(page, buffer.getvalue())
    page.get_by_text("Settings of another program's picture").wait_for()
    assert page.get_by_label("Prompt in your language", exact=True).input_value() == "a fox"
    assert page.get_by_label("Bridge", exact=True).input_value() == "none"
    assert page.get_by_label("Sampler").input_value() == "euler-a"
    assert page.get_by_label("Steps").first.input_value() == "12"
    assert page.get_by_label("Width").input_value() == "64"
    assert page.get_by_label("Height").input_value() == "32"


def test_a_picture_that_says_nothing_may_be_started_from(visit: Any, picture: bytes) -> None:
    page = visit.open()
    drop(page, picture)
    page.get_by_text("This picture does not say how it was made.").wait_for()
    page.get_by_role("button", name="Start from it").click()
    page.get_by_alt_text("Picture to start from").wait_for()
    page.get_by_label("How far to leave it").first.wait_for()


def test_the_gallery_is_searched_in_any_language_and_recalls_settings(
    visit: Any, draw: Callable[..., Any]
) -> None:
    draw(prompt="فَانُوس رمضان", seed=5, steps=1, guidance=2.5)
    draw(prompt="雪地里的熊猫", seed=6, steps=1)
    page = visit.open("gallery")
    tiles = page.locator(".gallery-pictures li")
    search = page.get_by_label("Search the prompts")
    search.fill("熊猫")
    visit.wait_for_count(tiles, 1)
    assert "雪地里的熊猫" in tiles.inner_text()
    search.fill("فانوس")  # without the vowel marks
    page.get_by_text("فَانُوس رمضان").wait_for()
    assert tiles.count() == 1
    tiles.get_by_role("button", name="Favourite").click()
    search.fill("")
    page.get_by_label("Favourites only").check()
    visit.wait_for_count(tiles, 1)
    tiles.get_by_role("button", name="Look at").click()
    page.get_by_role("button", name="Use all its settings").click()
    assert page.get_by_label("Prompt in your language", exact=True).input_value() == "فَانُوس رمضان"
    assert page.get_by_label("Guidance").first.input_value() == "2.5"
    assert page.get_by_label("Seed", exact=True).input_value() == "5"


def test_a_picture_is_downloaded_with_its_settings_and_deleted(
    visit: Any, draw: Callable[..., Any]
) -> None:
    draw(prompt="将被删除", steps=1)
    page = visit.open("gallery")
    page.get_by_label("Search the prompts").fill("将被删除")
    tiles = page.locator(".gallery-pictures li")
    visit.wait_for_count(tiles, 1)
    tiles.get_by_role("button", name="Look at").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    with Image.open(download.value.path()) as image:
        assert "将被删除" in image.text["parameters"]
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Really delete?").click()
    page.get_by_text("Nothing found").wait_for()
    assert visit.get("/api/pictures?search=将被删除") == []


def test_the_queue_lists_and_cancels(visit: Any, submit: Callable[..., Any]) -> None:
    for prompt in ("第一", "第二"):
        submit(prompt=prompt, steps=150, n=16)
    page = visit.open("queue")
    waiting = page.locator("ol.jobs > li")
    waiting.nth(1).wait_for()
    assert "第二" in waiting.nth(1).inner_text()
    waiting.nth(1).get_by_role("button", name="Cancel").click()
    visit.wait_for_count(waiting, 1)
    waiting.get_by_role("button", name="Cancel").click()
    page.get_by_text("Nothing is waiting").wait_for()
    assert visit.get("/api/queue") == []
    assert "Cancelled" in page.locator("ul.jobs > li", has_text="第二").first.inner_text()
