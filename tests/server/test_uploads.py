"""Uploads go when nobody needs them any more, and never before."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.settings import ServerSettings

DAY = 86_400.0
FIELDS = ("init_image", "mask", "control", "ip_image")


def pass_days(local: Any, days: float) -> None:
    """As if what was done so far had been done so many days earlier."""
    ago = days * DAY
    database = local.service.database
    database.run("UPDATE uploads SET created = created - ?", (ago,))
    database.run("UPDATE jobs SET ended = ended - ?", (ago,))
    for file in folder_of(local).iterdir():
        os.utime(file, (time.time() - ago, file.stat().st_mtime - ago))


def folder_of(local: Any) -> Path:
    return local.service.settings.data / "uploads"


def is_there(local: Any, upload: dict[str, Any]) -> bool:
    """Whether an upload is served, and has its file; its row and its file always go together."""
    answer = local.client.get(upload["url"])
    assert (answer.status_code == 200) == (folder_of(local) / f"{upload['id']}.png").exists()
    return answer.status_code == 200


def test_what_nobody_used_for_the_time_goes(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local(keep_uploads=3)
    old = local.upload(picture_bytes(colour="red"))
    pass_days(local, 2)
    new = local.upload(picture_bytes(colour="green"))
    pass_days(local, 2)
    assert local.service.uploads.prune() == 1
    assert not is_there(local, old)
    assert is_there(local, new)
    answer = local.client.post("/api/jobs", json={"order": {"prompt": "x", "mask": old["id"]}})
    assert "no upload" in answer.json()["detail"]
    assert is_there(local, local.upload(picture_bytes(colour="red")))  # it may come again


@pytest.mark.parametrize("again", ["sent", "looked at"])
def test_each_use_counts(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes], again: str
) -> None:
    local = start_local(keep_uploads=3)
    upload = local.upload(picture_bytes())
    pass_days(local, 2)
    if again == "sent":
        local.upload(picture_bytes())
    else:
        assert is_there(local, upload)
    pass_days(local, 2)
    assert local.service.uploads.prune() == 0
    assert is_there(local, upload)


@pytest.mark.parametrize("field", FIELDS)
def test_what_a_job_or_a_picture_mentions_stays(
    local: Any, picture_bytes: Callable[..., bytes], field: str
) -> None:
    upload = local.upload(picture_bytes(colour="blue"))
    other = local.upload(picture_bytes(colour="white"))
    job = local.submit()
    # Plug-ins that go with some of these pictures are not here, so the order is written as it is.
    local.service.database.run(
        "UPDATE jobs SET fields = json_set(fields, ?, ?) WHERE id = ?",
        (f"$.{field}", upload["id"], job["id"]),
    )
    pass_days(local, 8)
    assert local.service.uploads.prune() == 1  # the other one
    assert not is_there(local, other)
    assert is_there(local, upload)
    local.service.database.run("UPDATE jobs SET ended = ?, state = 'done'", (time.time(),))
    fields = local.service.database.row("SELECT fields FROM jobs")["fields"]
    local.service.database.run(
        "INSERT INTO pictures (id, job, place, created, seed, width, height, blacked_out, fields,"
        " words) VALUES ('p', ?, 0, 0, 0, 8, 8, 0, ?, '')",
        (job["id"], fields),
    )
    for _ in range(2):  # the job is forgotten by then, the picture never
        pass_days(local, 8)
        assert local.service.uploads.prune() == 0
    assert is_there(local, upload)
    local.service.database.run("DELETE FROM pictures")
    pass_days(local, 8)
    assert local.service.uploads.prune() == 1
    assert not is_there(local, upload)


def test_an_order_that_waits_keeps_its_pictures_over_a_restart(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local()
    upload = local.upload(picture_bytes())
    job = local.submit(init_image=upload["id"], strength=0.5)
    pass_days(local, 100)
    local = start_local()
    assert local.service.uploads.prune() == 0
    (unit,) = local.service.queue.take(1)
    assert unit.job.id == job["id"]
    assert unit.job.request.init_image.is_file()


def test_files_without_a_row_go(local: Any, picture_bytes: Callable[..., bytes]) -> None:
    old, new = (folder_of(local) / f"{digit * 64}.png" for digit in "01")
    for path in (old, new):
        path.write_bytes(picture_bytes())
    os.utime(old, (0, time.time() - 8 * DAY))
    assert local.service.uploads.prune() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_server_prunes_when_it_starts(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local(devices=("cpu",))
    upload = local.upload(picture_bytes())
    pass_days(local, 8)
    path = folder_of(local) / f"{upload['id']}.png"
    with local.client:  # the application's lifespan
        while path.exists():
            time.sleep(0.02)


@pytest.mark.parametrize("days", [0, -1, float("nan"), 1e9])
def test_a_time_that_makes_no_sense_is_refused(tmp_path: Path, days: float) -> None:
    with pytest.raises(BridgeError, match=r"keep-uploads is .* allowed: 0\.01 to 36500"):
        ServerSettings(data=tmp_path, keep_uploads=days)
