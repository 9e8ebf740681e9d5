"""The native interface, with the tests in the place of a worker."""

import io
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from PIL import Image

from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.images.metadata import ImageMetadata, encode_image
from bridge_diffusion.server.orders import Order

OF_THE_SERVER = {"text_encoder", "plugins", "device", "dtype", "offload", "safety_checker"}


def test_an_order_has_the_fields_and_defaults_of_a_request() -> None:
    wanted = {f.name: f.default for f in fields(GenerationRequest) if f.name not in OF_THE_SERVER}
    assert Order.model_fields.keys() == wanted.keys()
    for name, default in wanted.items():
        if name != "prompt":
            given = Order.model_fields[name].default
            assert (tuple(given) if isinstance(given, list) else given) == default, name


def test_a_job_waits_and_is_drawn(local: Any) -> None:
    job = local.submit("红包", seed=7, n=2)
    assert (job["state"], job["position"], job["fraction"]) == ("queued", 0, 0)
    assert local.submit()["position"] == 1
    (first, second) = local.service.queue.take(2)
    local.service.queue.step(first, 5, 10, "data:image/jpeg;base64,AA==")
    job = local.client.get(f"/api/jobs/{job['id']}").json()
    assert (job["state"], job["step"], job["steps"], job["fraction"]) == ("running", 5, 10, 0.5)
    assert job["preview"].startswith("data:image/jpeg")
    for unit in (first, second):
        local.service.queue.finish(unit, width=64, height=48, blacked_out=False)
    job = local.client.get(f"/api/jobs/{job['id']}").json()
    assert (job["state"], job["fraction"]) == ("done", 1)
    assert [picture["seed"] for picture in job["pictures"]] == [7, 8]
    assert job["pictures"][1]["order"] | {"seed": 7, "n": 2} == job["order"]
    assert (job["pictures"][0]["width"], job["pictures"][0]["height"]) == (64, 48)


def test_a_seed_is_drawn_when_the_order_is_accepted(local: Any) -> None:
    seeds = {local.submit()["order"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert None not in seeds


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x", "nonsense": 1}, "order.nonsense"),
        ({"prompt": "x", "steps": 151}, "steps is 151; this server allows at most 150"),
        ({"prompt": "x", "n": 17}, "n is 17"),
        ({"prompt": "x", "size": [4096, 64]}, "a side of size is 4096"),
        ({"prompt": "x" * 4001}, "at most 4000"),
        ({"prompt": "x", "model": "../../etc/passwd"}, "no model"),
        ({"prompt": "x", "bridge": "/tmp"}, "no bridge"),
        ({"prompt": "x", "lora": ["/tmp/x.safetensors:1"]}, "no plug-in"),
        ({"prompt": "x <lora:../x:1>"}, "no plug-in"),
        ({"prompt": "x", "vae": "/tmp"}, "no plug-in"),
        ({"prompt": "x", "mask": "0" * 64}, "no upload"),
        ({"prompt": "x", "init_image": "/etc/passwd"}, "order.init_image"),
        ({"prompt": "x", "strength": 0.5}, "strength needs init_image"),
        ({"prompt": "x", "start": 0.5, "end": 0.5}, "start 0.5 is not before end"),
    ],
)
def test_what_is_not_allowed_is_said(local: Any, order: dict, message: str) -> None:
    answer = local.client.post("/api/jobs", json={"order": order})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_the_emoji_world_is_named_as_bdm_generate_knows_it(local: Any) -> None:
    assert local.submit(model="emoji")["order"]["model"] is None


def test_priorities_and_groups(local: Any) -> None:
    low = local.submit(priority="low")
    first, second = local.submit(group="grid"), local.submit(group="grid", priority="high")
    order = [job["id"] for job in local.client.get("/api/queue").json()]
    assert order == [second["id"], first["id"], low["id"]]
    group = local.client.get("/api/jobs", params={"group": "grid"}).json()
    assert [job["id"] for job in group] == [second["id"], first["id"]]
    older = local.client.get("/api/jobs", params={"before": second["next"], "limit": 1}).json()
    assert [job["id"] for job in older] == [first["id"]]
    changed = local.client.patch(f"/api/jobs/{low['id']}", json={"priority": "high"})
    assert changed.json()["position"] == 0  # it is the oldest


def test_a_cancelled_job_keeps_what_is_finished(local: Any) -> None:
    job = local.submit(n=2)
    (unit,) = local.finish(1)
    local.client.delete(f"/api/jobs/{job['id']}")
    job = local.client.get(f"/api/jobs/{job['id']}").json()
    assert (job["state"], len(job["pictures"]), job["fraction"]) == ("cancelled", 1, 0.5)
    assert not local.service.queue.is_wanted(unit)
    assert local.client.patch(f"/api/jobs/{job['id']}", json={"priority": "low"}).status_code == 422
    assert local.client.delete("/api/jobs/" + "0" * 16).status_code == 404


@pytest.mark.parametrize(
    ("prompt", "found", "not_found"),
    [
        ("除夕夜，一家人在包饺子", "饺子", "月饼"),
        ("فَانُوسٌ رَمَضَان", "فانوس", "قمر"),
        ("दीपावली का दीया", "दीया", "होली"),
        ("ＦＯＸ im Schnee", "fox schnee", "fox gras"),
        ("100% of_it", "0% of_", "0%f"),
    ],
)
def test_pictures_are_found_in_any_script(
    local: Any, prompt: str, found: str, not_found: str
) -> None:
    local.submit(prompt)
    local.submit("another")
    local.finish(2)
    pictures = local.client.get("/api/pictures", params={"search": found}).json()
    assert [picture["order"]["prompt"] for picture in pictures] == [prompt]
    assert local.client.get("/api/pictures", params={"search": not_found}).json() == []


def test_pictures_are_marked_paged_and_deleted(local: Any) -> None:
    local.submit(n=3)
    ids = [unit.id for unit in local.finish(3)]
    page = local.client.get("/api/pictures", params={"limit": 2}).json()
    assert [picture["id"] for picture in page] == [ids[2], ids[1]]
    rest = local.client.get("/api/pictures", params={"before": page[-1]["next"]}).json()
    assert [picture["id"] for picture in rest] == [ids[0]]
    assert local.client.patch(f"/api/pictures/{ids[0]}", json={"favourite": True}).json()[
        "favourite"
    ]
    liked = local.client.get("/api/pictures", params={"favourite": True}).json()
    assert [picture["id"] for picture in liked] == [ids[0]]
    small = local.client.get(page[0]["thumbnail"])
    assert Image.open(io.BytesIO(small.content)).format == "WEBP"
    assert local.client.get(page[0]["url"]).headers["content-type"] == "image/png"
    file = local.service.gallery.file(ids[2])
    assert local.client.delete(f"/api/pictures/{ids[2]}").status_code == 204
    assert not file.exists()
    for request in (local.client.get, local.client.delete):
        assert request(f"/api/pictures/{ids[2]}").status_code == 404
    assert local.client.get(page[0]["url"]).status_code == 404


def test_uploads_are_written_anew_and_named_by_their_pixels(
    local: Any, picture_bytes: Callable[..., bytes]
) -> None:
    data = picture_bytes((40, 30), file_format="PNG")
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    with_secret = picture_bytes((40, 30), file_format="PNG", exif=exif)
    assert b"a secret" in with_secret
    first = local.upload(data)
    assert local.upload(with_secret + b"trailing")["id"] == first["id"]
    assert (first["width"], first["height"]) == (40, 30)
    kept = local.client.get(first["url"]).content
    assert b"a secret" not in kept
    assert Image.open(io.BytesIO(kept)).size == (40, 30)
    job = local.submit(init_image=first["id"], strength=0.5)
    assert job["order"]["init_image"] == first["id"]


def test_edges_of_an_upload_are_an_upload(local: Any) -> None:
    image = Image.new("RGB", (32, 32), "white")
    image.paste("black", (8, 8, 24, 24))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    upload = local.upload(buffer.getvalue())
    edges = local.client.post(f"/api/uploads/{upload['id']}/edges").json()
    drawn = Image.open(io.BytesIO(local.client.get(edges["url"]).content)).convert("L")
    assert drawn.getpixel((16, 16)) == 0
    assert max(drawn.getpixel((x, 16)) for x in range(6, 10)) == 255


def test_a_picture_tells_the_order_that_draws_it_again(local: Any) -> None:
    record = {
        "request": {"prompt": "红包", "seed": 3, "model": "emoji", "init_image": "/home/x.png"}
    }
    metadata = ImageMetadata(infotext="a\nSteps: 3, Seed: 3, Size: 8x8", record=record)
    data = encode_image(Image.new("RGB", (8, 8)), ".png", metadata)
    info = local.client.post("/api/info", files={"file": ("x", data)}).json()
    assert info["order"]["prompt"] == "红包"
    assert info["order"]["init_image"] is None
    assert (info["prompt"], info["parameters"]["Seed"]) == ("a", "3")
    plain = encode_image(Image.new("RGB", (8, 8)), ".png", ImageMetadata())
    assert local.client.post("/api/info", files={"file": ("x", plain)}).json()["order"] is None


def test_lists(local: Any) -> None:
    (model,) = local.client.get("/api/models").json()
    assert (model["name"], model["size"]) == ("emoji", [64, 64])
    assert model["bridges"][0] == "zh"
    assert model["bridges"][-1] == "none"
    assert "dpm++" in [each["name"] for each in local.client.get("/api/schedulers").json()]
    assert local.client.get("/api/status").json()["limits"]["steps"] == 150
    schema = local.client.get("/openapi.json").json()
    assert "/api/jobs/{id}/events" in schema["paths"]
    assert local.client.get("/docs").status_code == 404  # it would load scripts from elsewhere
