"""What the server refuses is said in the page's language, beside what is to blame."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

ENGLISH = {
    "prompt": "Prompt in your language",
    "steps": "Steps",
    "size": "Size",
    "width": "Width",
    "start": "Start from a picture",
    "steps_told": "Steps: at most 150 on this server.",
    "size_told": "12x512 does not fit the model: both sides must be multiples of 8",
    "upload_told": "This file cannot be read as a picture",
    "gone_told": "The server does not keep this picture any more; choose it again.",
    "failed": "Failed",
}
CHINESE = {
    "prompt": "母语提示词",
    "steps": "步数",
    "size": "尺寸",
    "width": "宽",
    "start": "从图片开始",
    "steps_told": "步数：这里最多允许 150。",
    "size_told": "12x512 不适合这个模型：两边都必须是 8 的倍数",
    "upload_told": "无法把这个文件读作图片",
    "gone_told": "服务器已不再保存这张图片；请重新选择。",
    "failed": "失败",
}


@pytest.mark.parametrize(("locale", "words"), [("en-GB", ENGLISH), ("zh-CN", CHINESE)])
def test_refusals_are_said_in_the_language_of_the_page(
    visit_as: Callable[..., Any], locale: str, words: dict[str, str]
) -> None:
    with visit_as(locale=locale) as visit:
        visit.expected.append("422")  # the browser itself tells of every refusal
        page = visit.open()
        field = page.get_by_label
        field(words["prompt"], exact=True).fill("红包")
        # The order is refused.
        steps = field(words["steps"]).first
        steps.fill("500")
        visit.generate()
        page.get_by_text(words["steps_told"]).wait_for()
        # What is uploaded is refused.
        start = visit.section(words["start"])
        start.locator("input[type=file]").set_input_files(
            {"name": "start.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
        start.get_by_role("alert").filter(has_text=words["upload_told"]).wait_for()
        # The drawing fails.
        steps.fill("1")
        field(words["size"]).select_option("given")
        field(words["width"], exact=True).fill("12")
        page.locator("input[list=sides]").nth(1).fill("512")
        visit.generate()
        page.get_by_role("alert").filter(has_text=words["size_told"]).wait_for()
        visit.wait_for(words["failed"])
        page.goto(f"{visit.address}/#queue")
        page.locator("ul.jobs > li").first.get_by_text(words["size_told"]).wait_for()


@pytest.mark.parametrize(("locale", "words"), [("en-GB", ENGLISH), ("zh-CN", CHINESE)])
def test_a_picture_that_the_server_no_longer_keeps_is_taken_out(
    visit_as: Callable[..., Any], locale: str, words: dict[str, str]
) -> None:
    form = """localStorage.setItem("bdm.form", JSON.stringify({init_image: "0".repeat(64)}));
        localStorage.setItem("bdm.sections", JSON.stringify({start: true}));"""
    with visit_as(locale=locale, form=form) as visit:
        visit.expected.append("422")
        page = visit.open()
        page.get_by_text(words["gone_told"]).wait_for()
        assert page.locator("#section-start img").count() == 0


def picture_of(width: int, height: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return {"name": "start.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def test_a_model_is_drawn_with_at_its_own_size(visit: Any) -> None:
    page = visit.open()
    size = page.get_by_label("Size", exact=True)
    size.get_by_text("The model's own: 16 × 16").wait_for(state="attached")
    size.select_option("given")
    assert page.get_by_label("Width").input_value() == "16"
    page.get_by_label("Width").fill("512")
    page.get_by_label("Model", exact=True).select_option("emoji")
    size.get_by_text("The model's own: 64 × 64").wait_for(state="attached")
    assert size.input_value() == "own"
    assert page.get_by_label("Width").count() == 0


def test_a_picture_of_any_size_may_be_started_from(visit: Any) -> None:
    page = visit.open()
    start = visit.section("Start from a picture")
    start.locator("input[type=file]").set_input_files(picture_of(90, 301))
    width = page.get_by_label("Width")
    width.wait_for()
    assert (width.input_value(), page.get_by_label("Height").input_value()) == ("8", "32")
    visit.draw()
    (job, *_) = visit.get("/api/jobs?limit=1")
    assert (job["state"], job["pictures"][0]["width"]) == ("done", 8)
    start.get_by_role("button", name="Remove").click()
    visit.wait_for_count(width, 0)
    start.locator("input[type=file]").set_input_files(picture_of(16, 24))
    start.get_by_alt_text("Picture to start from").wait_for()
    page.get_by_label("Size", exact=True).get_by_text("That of the picture to start from").wait_for(
        state="attached"
    )
    assert width.count() == 0  # its own size can be drawn
