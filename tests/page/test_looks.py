"""How the page looks and reads: a phone, right to left, two languages, those who do not see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def serious(page: Any) -> list[str]:
    """What axe finds that keeps people out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['target']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def overflow(page: Any) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_the_page_fits_a_phone(visit_as: Callable[..., Any], drawn: Path) -> None:
    with visit_as(**PHONE) as visit:
        for place in ("gallery", "queue", "draw"):
            page = visit.open(place)
            assert overflow(page) == 0, place
        for mode in ("Compare", "Grid", "Pictures"):
            page.get_by_role("button", name=mode, exact=True).click()
            assert overflow(page) == 0, mode
            button = page.get_by_role("button", name="Generate").bounding_box()
            assert button["y"] + button["height"] <= 740
        visit.write("红包")
        visit.section("LoRA, embeddings, VAE").scroll_into_view_if_needed()
        page.get_by_role("button", name="Generate").tap()
        visit.wait_for()
        bar = page.locator(".progress-text").bounding_box()
        assert 0 < bar["y"] < 740  # from the settings far below one comes back to the pictures
        assert overflow(page) == 0
        page.locator(".sheet .tile-open").tap()
        page.get_by_role("dialog").wait_for()
        assert overflow(page) == 0


@pytest.mark.parametrize(
    ("text", "language", "direction"),
    [
        ("فانوس رمضان", "ar", "rtl"),
        ("فانوس چراغ", "fa", "rtl"),
        ("עששית", "he", "rtl"),
        ("红包", "zh", "ltr"),
        ("おにぎり", "ja", "ltr"),
        ("लालटेन", "hi", "ltr"),
    ],
)
def test_a_prompt_has_the_direction_of_its_script(
    visit: Any, text: str, language: str, direction: str
) -> None:
    page = visit.open()
    visit.write(text)
    prompt = page.get_by_label("Prompt in your language", exact=True)
    assert prompt.get_attribute("lang") == language
    assert prompt.evaluate("box => getComputedStyle(box).direction") == direction
    english = page.get_by_label("English prompt (optional)")
    assert english.evaluate("box => getComputedStyle(box).direction") == "ltr"


def test_a_prompt_in_a_language_that_the_bridge_does_not_read_is_told(visit_as: Any) -> None:
    with visit_as(form=";") as visit:  # the emoji world, whose bridge reads Chinese
        visit.open()
        told = visit.page.get_by_text("The bridge reads 中文")
        for text, count in (("红包", 0), ("فانوس رمضان", 1), ("red envelope", 1), ("红包 x", 0)):
            visit.write(text)
            visit.wait_for_count(told, count)
        visit.page.get_by_label("Bridge", exact=True).select_option("none")
        visit.write("red envelope")
        visit.wait_for_count(told, 0)


def test_a_chosen_language_has_the_last_word(visit: Any) -> None:
    page = visit.open()
    page.get_by_label("Language of the prompt").select_option("ur")
    visit.write("lantern")
    prompt = page.get_by_label("Prompt in your language", exact=True)
    assert (prompt.get_attribute("lang"), prompt.get_attribute("dir")) == ("ur", "rtl")


def test_the_page_speaks_chinese(visit_as: Callable[..., Any]) -> None:
    with visit_as(locale="zh-CN") as visit:
        page = visit.open()
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"
        page.get_by_label("母语提示词", exact=True).fill("红包")
        visit.generate()
        visit.wait_for("完成")
        page.get_by_label("页面语言").select_option("en")
        page.get_by_role("button", name="Generate").wait_for()
        page.reload()
        page.get_by_role("button", name="Generate").wait_for()


def test_the_keyboard_is_enough_to_look_at_pictures(visit: Any, drawn: Path) -> None:
    page = visit.open("gallery")
    page.locator(".gallery-pictures .tile-open").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    first = dialog.locator("img").get_attribute("src")
    page.keyboard.press("ArrowRight")
    dialog.locator(f"img:not([src='{first}'])").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.locator(".tile-open:focus").wait_for()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_serious_finding_of_axe(
    visit_as: Callable[..., Any], drawn: Path, picture: bytes, colours: str
) -> None:
    with visit_as(color_scheme=colours) as visit:
        page = visit.open()
        assert serious(page) == []
        for title in ("LoRA, embeddings, VAE", "ControlNet", "Picture as a prompt"):
            visit.section(title)
        page.get_by_role("button", name="Negative prompts").click()
        visit.section("LoRA, embeddings, VAE").get_by_label("LoRA").select_option("style")
        start = visit.section("Start from a picture")
        file = {"name": "start.png", "mimeType": "image/png", "buffer": picture}
        start.locator("input[type=file]").set_input_files(file)
        start.get_by_role("button", name="Paint a mask").click()
        page.locator("#mask-canvas[width='64']").wait_for()
        page.get_by_role("button", name="Clear").focus()
        page.keyboard.press("Tab")
        page.locator(".mask-brush").wait_for()
        assert serious(page) == []
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Compare").click()
        page.keyboard.press("Control+Enter")  # nothing is written: an error is shown
        page.get_by_role("alert").first.wait_for()
        assert serious(page) == []
        page.get_by_role("button", name="Grid").click()
        page.get_by_label("Columns", exact=True).select_option("scheduler")
        assert serious(page) == []
        visit.open("gallery")
        page.locator(".gallery-pictures .tile-open").first.click()
        assert serious(page) == []
        page.keyboard.press("Escape")
        assert serious(page) == []
        visit.open("queue")
        page.locator("ul.jobs > li").first.wait_for()
        assert serious(page) == []
