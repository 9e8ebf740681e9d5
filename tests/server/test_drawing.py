"""A whole server that draws with the emoji world, asked by the clients that people use."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import webuiapi
from PIL import Image

from bridge_diffusion.images.metadata import read_metadata

SIZE = (64, 64)  # the emoji world's own


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)


@pytest.fixture
def web_ui(address: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1", sampler="DPM++ 2M", steps=2)


def submit(address: str, **order: Any) -> dict[str, Any]:
    answer = httpx.post(f"{address}/api/jobs", json={"order": {"steps": 2, **order}}, timeout=600)
    assert answer.status_code == 202, answer.text
    return answer.json()


def drawn_with_events(
    address: str, **order: Any
) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """A job, and all events from before its first step to its end."""
    # Another job is before it until its events are listened to, or they might come too early.
    before = submit(address, prompt="雪", steps=150, n=16)
    job = submit(address, **order)
    path = f"{address}/api/jobs/{job['id']}/events"
    told, kind = [], ""
    with httpx.stream("GET", path, timeout=600) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.append((kind, json.loads(line.removeprefix("data: "))))
                if len(told) == 1:
                    httpx.delete(f"{address}/api/jobs/{before['id']}", timeout=600)
    return job, told


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_progress_is_told_with_previews(address: str) -> None:
    _, told = drawn_with_events(address, prompt="红包", steps=4, seed=1)
    assert told[0][0] == "job"
    assert told[-1][0] == "ended"
    assert told[-1][1]["state"] == "done"
    progress = [data for kind, data in told if kind == "progress"]
    assert progress[-1]["step"] == progress[-1]["steps"] == 4
    previews = [data["preview"] for data in progress if data["preview"]]
    assert opened(previews[0].partition(",")[2]).size == (64, 64)  # 16x16 cells, enlarged


def test_a_picture_is_the_one_of_bdm_generate(
    address: str, ended: Callable[[str], dict], tmp_path: Path
) -> None:
    job = ended(submit(address, prompt="红包", english="a blue background", seed=7)["id"])
    file = tmp_path / "picture.png"
    file.write_bytes(httpx.get(address + job["pictures"][0]["url"], timeout=600).content)
    # A process of its own, as the worker is: other tests may have set this one's threads.
    again = tmp_path / "again.png"
    command = [sys.executable, "-m", "bridge_diffusion.cli", "generate"]
    subprocess.run([*command, "--from", file, "--out", again], check=True, capture_output=True)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(again)))
    assert "/" not in json.dumps(read_metadata(file).record)  # no path of the server
    info = httpx.post(f"{address}/api/info", files={"file": file.read_bytes()}, timeout=600).json()
    assert info["order"] == job["pictures"][0]["order"]


def test_a_preview_looks_like_the_picture(address: str, ended: Callable[[str], dict]) -> None:
    order = {"prompt": "红包", "english": "a blue background", "seed": 7, "steps": 8}
    job, told = drawn_with_events(address, **order)
    last = [data["preview"] for kind, data in told if kind == "progress" and data["preview"]][-1]
    picture = httpx.get(f"{address}/api/pictures/{job['id']}-000.png", timeout=600).content
    small = [
        np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=float).ravel()
        for image in (opened(last.partition(",")[2]), Image.open(io.BytesIO(picture)))
    ]
    assert np.corrcoef(*small)[0, 1] > 0.9


def test_openai_draws(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["emoji"]
    assert client.models.retrieve("emoji").id == "emoji"
    answer = client.images.generate(
        model="emoji",
        prompt="a blue background",
        n=2,
        size="64x64",
        extra_body={"native_prompt": "红包", "seed": 3, "steps": 2, "bridge_scale": 0.9},
    )
    assert answer.data is not None
    pictures = [opened(data.b64_json) for data in answer.data]
    assert [picture.size for picture in pictures] == [SIZE] * 2
    infotext = pictures[1].info["parameters"]
    for part in ("a blue background\n", "Native prompt: 红包", "Seed: 4", "Bridge scale: 0.9"):
        assert part in infotext


def test_openai_gives_addresses_and_other_formats(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": "红包", "extra_body": {"steps": 1, "seed": 3}}
    answer = client.images.generate(**asked, response_format="url")
    assert answer.data is not None
    assert answer.data[0].url is not None
    assert Image.open(io.BytesIO(httpx.get(answer.data[0].url, timeout=600).content)).size == SIZE
    answer = client.images.generate(**asked, output_format="webp")
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).format == "WEBP"


def test_openai_edits(client: openai.OpenAI, picture_bytes: Callable[..., bytes]) -> None:
    mask = Image.new("RGBA", SIZE, "black")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    answer = client.images.edit(
        image=("red.png", picture_bytes(SIZE, "red")),
        mask=("mask.png", buffer.getvalue()),
        prompt="月饼",
        extra_body={"steps": 2, "strength": 1.0, "seed": 2},
    )
    assert answer.data is not None
    pixels = np.asarray(opened(answer.data[0].b64_json).convert("RGB"), dtype=float)
    red = np.array([255.0, 0.0, 0.0])
    kept, redrawn = (np.abs(part - red).mean() for part in (pixels[:, 36:], pixels[:, :28]))
    assert kept < redrawn / 2
    answer = client.images.edit(
        image=("red.png", picture_bytes(SIZE, "red")), prompt="月饼", extra_body={"steps": 3}
    )
    assert answer.data is not None


def test_openai_is_told_what_is_wrong(
    client: openai.OpenAI, picture_bytes: Callable[..., bytes]
) -> None:
    with pytest.raises(openai.NotFoundError, match="there are: emoji"):
        client.images.generate(model="dall-e-3", prompt="x")
    with pytest.raises(openai.UnprocessableEntityError, match="multiples of 8"):
        client.images.generate(prompt="x", size="99x99")  # type: ignore[call-overload]
    with pytest.raises(openai.UnprocessableEntityError, match="quality"):
        client.images.generate(prompt="x", quality="hd")
    with pytest.raises(openai.UnprocessableEntityError, match="got 2 pictures"):
        client.images.edit(prompt="x", image=[("a.png", picture_bytes()), ("b.png", b"")])
    with pytest.raises(openai.UnprocessableEntityError, match="cannot be read"):
        client.images.edit(prompt="x", image=("a.png", b"nothing"))


def test_web_ui_draws(web_ui: webuiapi.WebUIApi) -> None:
    result = web_ui.txt2img(
        prompt="红包", negative_prompt="月饼", seed=5, width=64, height=64, batch_size=2
    )
    assert [image.size for image in result.images] == [SIZE] * 2
    assert result.info["all_seeds"] == [5, 6]
    assert "Native prompt: 红包" in result.info["infotexts"][0]
    told = web_ui.png_info(result.images[0])
    assert told.json["parameters"]["Seed"] == "5"
    again = web_ui.img2img(
        images=[result.images[0]],
        mask_image=Image.new("L", SIZE, 255),
        prompt="月饼",
        denoising_strength=0.6,
        steps=4,
        width=64,
        height=64,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
    )
    assert again.image.size == SIZE
    assert "Denoising strength: 0.6" in again.info["infotexts"][0]
    whole = web_ui.img2img(images=[again.image], prompt="月饼", width=64, height=64, seed=1)
    assert whole.info["seed"] == 1


def test_web_ui_lists_and_options(web_ui: webuiapi.WebUIApi) -> None:
    assert "Euler a" in web_ui.util_get_sampler_names()
    assert web_ui.util_get_model_names() == ["emoji"]
    web_ui.util_set_model("emoji")
    assert web_ui.util_get_current_model() == "emoji"
    assert [lora["name"] for lora in web_ui.get_loras()] == ["comic", "ink"]
    assert list(web_ui.get_embeddings()["loaded"]) == ["lemon"]
    assert web_ui.get_upscalers() == []
    assert web_ui.get_progress()["progress"] == 0
    assert web_ui.interrupt() == {}
    web_ui.refresh_checkpoints()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"styles": ["x"]}, "styles"),
        ({"sampler_name": "DPM fast"}, "no sampler"),
        ({"scheduler": "Exponential"}, "scheduler"),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, "no model"),
        ({"override_settings": {"x": 1}}, "option"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, "ADetailer"),
    ],
)
def test_web_ui_is_told_what_is_not_here(
    web_ui: webuiapi.WebUIApi, asked: dict, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        web_ui.txt2img(prompt="x", **asked)


def test_web_ui_interrupts(address: str, ended: Callable[[str], dict]) -> None:
    with (
        httpx.Client(base_url=address, timeout=600) as client,
        client.stream("GET", "/api/events") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == "event: open"
        asked = {"prompt": "红包", "steps": 150, "batch_size": 4}
        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(
                httpx.post, f"{address}/sdapi/v1/txt2img", json=asked, timeout=600
            )
            next(line for line in lines if line == "event: progress")
            progress = client.get("/sdapi/v1/progress").json()
            assert 0 < progress["progress"] < 1
            assert opened(progress["current_image"]).size == (64, 64)
            client.post("/sdapi/v1/interrupt")
            assert "cancelled" in drawing.result().json()["detail"]
    assert httpx.get(f"{address}/api/queue", timeout=600).json() == []


def test_what_cannot_be_drawn_fails_alone(address: str, ended: Callable[[str], dict]) -> None:
    bad = submit(address, prompt="红包", size=[100, 64])
    good = submit(address, prompt="红包")
    assert ended(good["id"])["state"] == "done"
    failed = ended(bad["id"])
    assert failed["state"] == "failed"
    assert "multiples of 8" in failed["error"]


def test_the_drawing_tells_what_it_cut(address: str, ended: Callable[[str], dict]) -> None:
    job = ended(submit(address, prompt="红包" * 1000)["id"])
    assert job["state"] == "done"
    assert "cut off" in job["notes"][0]
