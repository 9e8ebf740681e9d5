"""The queue: what is drawn together, what goes back, and what outlives the process."""

from collections.abc import Callable
from typing import Any

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.service import open_service
from bridge_diffusion.server.settings import Limits


def prompts(units: list[Any]) -> list[str]:
    return [unit.job.order.prompt for unit in units]


def test_compatible_jobs_are_one_batch(local: Any) -> None:
    local.submit("a", n=2)
    local.submit("b", steps=7)
    local.submit("c", english="x", negative="y", scale=0.5)
    local.submit("d", priority="low")
    local.submit("e", guidance=3)
    queue = local.service.queue
    assert prompts(queue.take(8)) == ["a", "a", "c"]
    assert prompts(queue.take(8)) == ["b"]
    assert prompts(queue.take(8)) == ["e"]
    assert prompts(queue.take(8)) == ["d"]


def test_a_batch_has_an_upper_bound(local: Any) -> None:
    local.submit("a", n=5)
    local.submit("b")
    assert prompts(local.service.queue.take(4)) == ["a"] * 4
    assert prompts(local.service.queue.take(4)) == ["a", "b"]


def test_pictures_with_masks_are_drawn_alone(
    local: Any, picture_bytes: Callable[..., bytes]
) -> None:
    upload = local.upload(picture_bytes())["id"]
    local.submit("a", n=2, init_image=upload, mask=upload)
    assert prompts(local.service.queue.take(8)) == ["a"]


def test_one_initial_picture_is_one_batch(local: Any, picture_bytes: Callable[..., bytes]) -> None:
    first, second = (local.upload(picture_bytes(colour=colour))["id"] for colour in ("red", "blue"))
    for prompt, upload in (("a", first), ("b", second), ("c", first)):
        local.submit(prompt, init_image=upload)
    assert prompts(local.service.queue.take(8)) == ["a", "c"]


def test_a_job_whose_worker_ends_is_tried_alone_and_fails_at_last(local: Any) -> None:
    job = local.submit("a")
    local.submit("b")
    queue = local.service.queue
    queue.give_back(queue.take(8), blame=True)
    for blame in (False, True, True):  # without blame: the server stops
        units = queue.take(8)
        assert prompts(units) == ["a"]  # alone now
        queue.give_back(units, blame=blame)
    assert prompts(queue.take(8)) == ["b"]
    job = local.client.get(f"/api/jobs/{job['id']}").json()
    assert job["state"] == "failed"
    assert "ended 3 times" in job["error"]


def test_a_failed_picture_ends_its_job_alone(local: Any) -> None:
    bad, good = local.submit("a"), local.submit("b")
    first, second = local.service.queue.take(8)
    local.service.queue.fail(first, BridgeError("no"))
    local.service.queue.finish(second, width=1, height=1, blacked_out=False)
    states = [local.client.get(f"/api/jobs/{job['id']}").json() for job in (bad, good)]
    assert [(job["state"], job["error"]) for job in states] == [("failed", "no"), ("done", None)]


def test_nothing_accepted_is_lost(start_local: Callable[..., Any]) -> None:
    local = start_local()
    queued = local.submit("later", seed=1)
    half = local.submit("half", seed=5, n=3, priority="high")
    (done, _) = local.service.queue.take(2)
    local.service.queue.finish(done, width=64, height=64, blacked_out=False)
    # The process ends here without a word; another one opens the same folder.
    again = start_local()
    waiting = again.client.get("/api/queue").json()
    assert [job["id"] for job in waiting] == [half["id"], queued["id"]]
    assert [job["order"] for job in waiting] == [half["order"], queued["order"]]
    assert [picture["id"] for picture in waiting[0]["pictures"]] == [done.id]
    for place, seed in ((1, 6), (2, 7)):
        (unit,) = again.service.queue.take(1)
        assert (unit.place, unit.seed) == (place, seed)
        again.service.queue.finish(unit, width=64, height=64, blacked_out=False)
    job = again.client.get(f"/api/jobs/{half['id']}").json()
    assert (job["state"], [p["seed"] for p in job["pictures"]]) == ("done", [5, 6, 7])


def test_a_job_that_cannot_be_drawn_any_more_fails_at_the_start(
    start_local: Callable[..., Any], picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local()
    upload = local.upload(picture_bytes())["id"]
    job = local.submit(init_image=upload)
    local.service.database.run("DELETE FROM uploads")
    again = start_local()
    job = again.client.get(f"/api/jobs/{job['id']}").json()
    assert job["state"] == "failed"
    assert "no upload" in job["error"]


def test_the_queue_has_room_for_each_client(start_local: Callable[..., Any]) -> None:
    local = start_local(limits=Limits(jobs_of_client=2, jobs=3))
    local.submit()
    second = local.submit()
    answer = local.client.post("/api/jobs", json={"order": {"prompt": "x"}})
    assert answer.status_code == 429
    assert "cancel them" in answer.json()["detail"]
    local.client.delete(f"/api/jobs/{second['id']}")
    local.submit()


def test_what_is_read_of_a_job_belongs_together(local: Any) -> None:
    id, queue = local.submit()["id"], local.service.queue
    ((listed,), waiting) = queue.live(), queue.get(id)
    (unit,) = queue.take(1)
    queue.step(unit, 3, 4, None)
    drawn = queue.get(id)
    queue.note(unit, "cut")
    queue.finish(unit, width=64, height=64, blacked_out=False)
    read = [(job.state, job.ended, job.step, job.notes) for job in (listed, waiting, drawn)]
    assert read == [("queued", None, 0, []), ("queued", None, 0, []), ("running", None, 3, [])]
    assert queue.get(id).notes == ["cut"]


def test_a_cancelled_picture_leaves_no_file(local: Any) -> None:
    job = local.submit()
    (unit,) = local.service.queue.take(1)
    local.client.delete(f"/api/jobs/{job['id']}")
    file = local.service.gallery.file(unit.id)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    local.service.queue.finish(unit, width=1, height=1, blacked_out=False)
    assert not file.exists()
    assert local.client.get("/api/pictures").json() == []


def test_two_servers_do_not_share_a_folder(local: Any) -> None:
    with pytest.raises(BridgeError, match="another server uses"):
        open_service(local.service.settings)
