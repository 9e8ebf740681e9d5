"""What a user draws with the page: pictures, comparisons, grids, masks; and what stops it."""

import io
from typing import Any

import httpx
import pytest
from PIL import Image


def test_the_first_thing_that_a_new_user_does_works(visit: Any) -> None:
    page = visit.open()
    page.get_by_text("Write what you would like to see").wait_for()
    visit.draw("红包")
    picture = page.get_by_role("region", name="Pictures").get_by_alt_text("红包").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    (job, *_) = visit.get("/api/jobs?limit=1")
    assert (job["order"]["prompt"], job["order"]["bridge"]) == ("红包", "bridge")


def test_a_reload_keeps_settings_and_pictures(visit: Any) -> None:
    page = visit.open()
    page.get_by_label("English prompt (optional)").fill("a fox")
    page.get_by_label("Guidance").first.fill("3.5")
    visit.draw("狐狸")
    page.reload()
    visit.wait_for()
    assert page.get_by_label("Prompt in your language", exact=True).input_value() == "狐狸"
    assert page.get_by_label("English prompt (optional)").input_value() == "a fox"
    assert page.get_by_label("Guidance").first.input_value() == "3.5"
    assert page.locator(".sheet-pictures img").count() == 1


def test_progress_is_shown_and_escape_cancels(visit: Any) -> None:
    page = visit.open()
    page.get_by_label("Steps").first.fill("150")
    page.get_by_label("Size").select_option("given")
    page.get_by_label("Width").fill("64")
    page.get_by_label("Height").fill("64")
    page.get_by_label("Height").blur()
    # So many that they are not done before they are cancelled.
    page.get_by_role("spinbutton", name="Pictures").fill("16")
    visit.write("雪地")
    visit.generate()
    page.locator("img.preview").first.wait_for()
    page.get_by_role("progressbar", name="Progress").wait_for()
    page.keyboard.press("Escape")
    visit.wait_for("Cancelled")
    assert visit.get("/api/queue") == []
    page.get_by_role("button", name="Cancel").wait_for(state="hidden")


def test_a_comparison_has_three_readings_of_one_seed(visit: Any) -> None:
    page = visit.open()
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Your translation of the prompt").fill("red envelope")
    page.get_by_label("English prompt (optional)").fill("blue")
    visit.draw("红包")
    for title in ("As it is", "Translated", "Bridged"):
        page.locator("figure", has_text=title).locator("img").wait_for()
    orders = [job["order"] for job in reversed(visit.get("/api/jobs?limit=3"))]
    read = [(each["bridge"], each["prompt"], each["english"]) for each in orders]
    assert read == [
        ("none", "红包, blue", ""),
        ("none", "red envelope, blue", ""),
        ("bridge", "红包", "blue"),
    ]
    assert len({each["seed"] for each in orders}) == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as one picture").click()
    with Image.open(download.value.path()) as image:
        assert image.width > 3 * 160


def test_a_comparison_needs_a_translation(visit: Any) -> None:
    page = visit.open()
    page.get_by_role("button", name="Compare").click()
    visit.write("红包")
    visit.generate()
    beside = page.locator(".prompt", has_text="Your translation").get_by_role("alert")
    assert "Write your translation" in beside.inner_text()


def test_a_grid_goes_over_two_settings(visit: Any) -> None:
    page = visit.open()
    page.get_by_role("button", name="Grid").click()
    page.get_by_label("Values of the columns").fill("0, 1")
    page.get_by_label("Rows", exact=True).select_option("words")
    page.get_by_label("Values of the rows").fill("红包\n月饼\n狐狸")
    visit.write("雪地红包")
    page.get_by_text("2 × 3 = 6 pictures").wait_for()
    visit.generate()
    visit.wait_for()
    assert page.get_by_role("columnheader").all_inner_texts() == ["0", "1"]
    assert page.get_by_role("rowheader").all_inner_texts() == ["红包", "月饼", "狐狸"]
    assert page.locator("table img").count() == 6
    orders = [job["order"] for job in reversed(visit.get("/api/jobs?limit=6"))]
    assert [(each["prompt"], each["scale"]) for each in orders] == [
        (f"雪地{word}", scale) for word in ("红包", "月饼", "狐狸") for scale in (0, 1)
    ]
    assert len({each["seed"] for each in orders}) == 1


@pytest.mark.parametrize(("text", "said"), [("1, zwei", "not numbers"), ("1..200", "not numbers")])
def test_values_that_cannot_be_read_are_told_beside_them(visit: Any, text: str, said: str) -> None:
    page = visit.open()
    page.get_by_role("button", name="Grid").click()
    page.get_by_label("Values of the columns").fill(text)
    visit.write("红包")
    visit.generate()
    assert said in page.locator(".axis").first.get_by_role("alert").inner_text()


def test_an_empty_prompt_is_told_beside_it(visit: Any) -> None:
    page = visit.open()
    page.locator("body").press("Control+Enter")
    assert "Write first what to draw" in page.locator(".prompt").first.inner_text()
    visit.write("红包")
    visit.wait_for_count(page.get_by_role("alert"), 0)


def test_what_the_server_refuses_is_told_beside_its_cause(visit: Any) -> None:
    visit.expected.append("422")  # the browser itself tells of every refusal
    page = visit.open()
    page.get_by_label("Steps").first.fill("500")
    page.locator("#section-picture > summary").click()  # fold it: what is told there is shown
    visit.write("红包")
    visit.generate()
    steps = page.locator(".field", has=page.get_by_label("Steps")).get_by_role("alert")
    steps.wait_for()
    assert "at most 150" in steps.inner_text()


def test_a_mask_is_painted_with_the_pointer(visit: Any, picture: bytes) -> None:
    page = visit.open()
    start = visit.section("Start from a picture")
    file = {"name": "start.png", "mimeType": "image/png", "buffer": picture}
    start.locator("input[type=file]").set_input_files(file)
    start.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator("#mask-canvas")
    page.locator("#mask-canvas[width='64']").wait_for()
    box = canvas.bounding_box()
    y = box["y"] + box["height"] / 4
    page.mouse.move(box["x"] + box["width"] * 0.2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, y, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Use this mask").click()
    start.get_by_alt_text("Mask", exact=True).wait_for()
    visit.draw()
    (job, *_) = visit.get("/api/jobs?limit=1")
    mask = httpx.get(f"{visit.address}/api/uploads/{job['order']['mask']}.png", timeout=60)
    with Image.open(io.BytesIO(mask.content)) as image:
        grey = image.convert("L")
        assert image.size == (64, 64)
        assert [grey.getpixel(at) for at in ((32, 16), (32, 50), (2, 2))] == [255, 0, 0]


def test_a_mask_can_be_taken_back_erased_and_inverted(visit: Any, picture: bytes) -> None:
    page = visit.open()
    start = visit.section("Start from a picture")
    file = {"name": "start.png", "mimeType": "image/png", "buffer": picture}
    start.locator("input[type=file]").set_input_files(file)
    start.get_by_role("button", name="Paint a mask").click()
    page.locator("#mask-canvas[width='64']").wait_for()
    white = """() => {
        const canvas = document.querySelector("#mask-canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, 64, 64);
        return data.filter((value, at) => at % 4 === 3 && value > 127).length;
    }"""
    canvas = page.locator("#mask-canvas")
    canvas.click()
    dot = page.evaluate(white)
    assert 50 < dot < 300
    page.get_by_role("button", name="Invert").click()
    assert page.evaluate(white) == pytest.approx(64 * 64 - dot, abs=60)
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(white) == dot
    page.get_by_role("button", name="Eraser").click()
    canvas.click()
    assert page.evaluate(white) == 0
    page.get_by_role("button", name="Use this mask").click()
    start.get_by_role("button", name="Paint a mask").wait_for()  # an empty one is none


def test_a_mask_is_painted_with_the_keyboard(visit: Any, picture: bytes) -> None:
    page = visit.open()
    start = visit.section("Start from a picture")
    file = {"name": "start.png", "mimeType": "image/png", "buffer": picture}
    start.locator("input[type=file]").set_input_files(file)
    start.get_by_role("button", name="Paint a mask").click()
    page.locator("#mask-canvas[width='64']").wait_for()
    page.get_by_role("button", name="Clear").focus()
    press = page.keyboard.press
    press("Tab")

    def hear(text: str) -> None:
        page.locator("#mask-said", has_text=text).wait_for()

    hear("50 % from the left, 50 % from the top: not painted")
    for _ in range(4):
        press("-")  # 18 hundredths of 64 pixels => 10, so an arrow moves by 2.1 pixels
    hear("Size 10")
    for _ in range(3):
        press("Shift+ArrowUp")
    press("ArrowLeft")
    press("Space")  # a dot
    hear("47 % from the left, 45 % from the top: painted")
    for _ in range(7):
        press("ArrowRight")
    hear("70 % from the left, 45 % from the top: not painted")
    page.keyboard.down("Space")  # a line
    for _ in range(5):
        press("ArrowDown")
    page.keyboard.up("Space")
    hear("70 % from the left, 62 % from the top: painted")
    painted = """places => places.map(([x, y]) => document.querySelector("#mask-canvas")
        .getContext("2d").getImageData(x, y, 1, 1).data[3] > 127)"""
    spots = [[29, 29], [45, 29], [45, 34], [45, 39], [37, 29], [45, 50]]
    assert page.evaluate(painted, spots) == [True, True, True, True, False, False]
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(painted, spots) == [True, False, False, False, False, False]
    page.get_by_role("button", name="Use this mask").click()
    start.get_by_alt_text("Mask", exact=True).wait_for()


def test_plugins_of_the_community(visit: Any, picture: bytes) -> None:
    page = visit.open()
    plugins = visit.section("LoRA, embeddings, VAE")
    plugins.get_by_label("LoRA").select_option("style")
    plugins.get_by_label("style").first.fill("0.5")
    plugins.get_by_label("style").first.blur()
    plugins.get_by_role("button", name="mood").click()
    assert page.get_by_label("English prompt (optional)").input_value() == "mood"
    control = visit.section("ControlNet")
    control.get_by_label("ControlNet").select_option("edges")
    file = {"name": "start.png", "mimeType": "image/png", "buffer": picture}
    control.locator("input[type=file]").set_input_files(file)
    preview = control.get_by_alt_text("Edges: what the ControlNet sees")
    preview.wait_for()
    visit.draw()
    (job, *_) = visit.get("/api/jobs?limit=1")
    order = job["order"]
    assert (order["lora"], order["embedding"]) == (["style:0.5"], ["mood"])
    assert order["control_net"] == ["edges"]
    assert preview.get_attribute("src") == f"/api/uploads/{order['control'][0]}.png"


def test_every_controlnet_of_a_recalled_picture_is_kept(visit: Any, picture: bytes) -> None:
    """The form sets one; those beside it are told, drawn with again, and may be left out."""
    page = visit.open()
    answer = httpx.post(f"{visit.address}/api/uploads", files={"file": ("x", picture)}, timeout=60)
    upload = answer.json()["id"]
    controls = {"control_net": ["edges"] * 2, "control": [upload] * 2, "control_scale": [0.5, 0.7]}
    kept = {"control_net": "edges", "control": upload, "control_scale": 0.5,
            "more_controls": [{"net": "edges", "picture": upload, "scale": 0.7}]}  # fmt: skip
    page.evaluate(
        "async (order) => (await import('/code/settings.js')).recall(order)",
        {"prompt": "x", "model": "tiny", "bridge": "bridge", "steps": 2, "n": 1, **controls},
    )
    form = page.evaluate("async () => (await import('/code/settings.js')).form.value")
    assert {name: form[name] for name in kept} == kept
    order = page.evaluate(
        "async () => { const s = await import('/code/settings.js');"
        " return s.orderOf(s.form.value); }"
    )
    assert {name: order[name] for name in controls} == controls
    control = visit.section("ControlNet")
    control.get_by_text("And beside it: edges, strength 0.7").wait_for()
    control.get_by_role("button", name="Leave edges out").click()
    form = page.evaluate("async () => (await import('/code/settings.js')).form.value")
    assert form["more_controls"] == []


def test_without_a_bridge_the_model_reads_both_prompts(visit: Any) -> None:
    page = visit.open()
    page.get_by_label("Bridge", exact=True).select_option("none")
    page.get_by_label("English prompt (optional)").fill("a fox")
    page.get_by_text("Without a bridge the model itself reads").wait_for()
    visit.draw("snow")
    (job, *_) = visit.get("/api/jobs?limit=1")
    assert (job["order"]["prompt"], job["order"]["bridge"]) == ("snow, a fox", "none")
