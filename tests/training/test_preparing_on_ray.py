"""Data prepared on a Ray cluster: what this process would have made, and clear ends.

The cluster is this machine: one instance of Ray for all tests here.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from colours import colour_folder, colour_tars, png
from safetensors import safe_open

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.ray_cluster import Cluster, clear_ray_errors, connected
from bridge_diffusion.training import preparation
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.prepared import PreparedExamples
from bridge_diffusion.training.preparing import prepare_data
from bridge_diffusion.training.preparing_on_ray import _in_order, _Place, _share, _tried, ray_engine

pytest.importorskip("ray")

Requests = tuple[PrepareRequest, PrepareRequest]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    with connected(cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def requests(
    reference_weights: Path, chinese_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Requests:
    """The same preparation by both engines: two data sets, aspects, damage, near-duplicates."""
    root = tmp_path_factory.mktemp("data")
    folder = colour_folder(root / "pairs")
    (folder / "red.txt").write_text("红色\n一张红色的图\nx", encoding="utf-8")
    (folder / "red.en.txt").write_text("on a beach", encoding="utf-8")
    shutil.copy(folder / "green.png", folder / "zz.png")
    (folder / "zz.txt").write_text("也是绿色", encoding="utf-8")
    (folder / "wide.png").write_bytes(png("black", (64, 24)))
    (folder / "wide.txt").write_text("黑色", encoding="utf-8")
    (folder / "damaged.png").write_bytes(b"no picture")
    (folder / "damaged.txt").write_text("坏", encoding="utf-8")
    local = PrepareRequest(
        data=(f"{folder},weight=3", f"{colour_tars(root / 'tars')},weight=1"),
        out=root / "local",
        model=str(reference_weights),
        text_encoder=str(chinese_clip_folder),
        size=32,
        buckets=True,
        min_caption=2,
        near_duplicates=0,
        device="cpu",
    )
    return local, dataclasses.replace(local, engine="ray", out=root / "ray")


@pytest.fixture(scope="module")
def small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "SHARD_PAIRS", 4)
        yield


def contents(folder: Path) -> dict[str, object]:
    """What the files of a prepared folder say, but for its tensors."""
    said: dict[str, object] = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("manifest.json", "report.json", "report.html", "started.json")
    }
    for file in sorted(folder.glob("measures/*")):
        said[f"measures/{file.name}"] = file.read_text(encoding="utf-8")
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            said[file.name] = json.loads(opened.metadata()["about"])
    return said


def test_a_cluster_makes_what_this_process_makes(requests: Requests, small_shards: None) -> None:
    local, on_ray = requests
    a, b = prepare_data(local), prepare_data(on_ray)
    assert a.lines() == b.lines()
    assert a.to_json()["dropped"].keys() == {"unusable", "near-duplicate"}
    first, second = contents(local.out), contents(on_ray.out)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    for file in local.out.glob("*.safetensors"):
        with safe_open(file, "pt") as one, safe_open(on_ray.out / file.name, "pt") as other:
            for name in one.keys():  # noqa: SIM118
                x, y = one.get_tensor(name), other.get_tensor(name)
                assert x.shape == y.shape
                assert torch.allclose(x.float(), y.float(), rtol=0, atol=1e-6)
    assert PreparedExamples(on_ray.out).fingerprint == PreparedExamples(local.out).fingerprint
    # Either engine goes on where the other was interrupted, and makes a lost shard again.
    (on_ray.out / "manifest.json").unlink()
    (on_ray.out / "00001.safetensors").unlink()
    prepare_data(dataclasses.replace(on_ray, engine="local"))
    assert contents(on_ray.out) == first


@pytest.fixture
def job(requests: Requests, tmp_path: Path) -> preparation.Job:
    return preparation.Job(
        request=dataclasses.replace(requests[1], out=tmp_path / "prepared"),
        pairs=12,
        size=32,
        shapes=((32, 32),),
        shard_pairs=4,
        device="cpu",
    )


def test_a_mistake_on_the_cluster_keeps_its_words(job: preparation.Job) -> None:
    # There are 11 pairs: as if the machine saw other data.
    other = r"^there were 12 pairs, and another process finds 11:"
    with pytest.raises(BridgeError, match=other), ray_engine(job) as engine:
        list(engine.make([0, 1]))
    assert not list(job.request.out.glob("*.safetensors"))
    missing = r"00002\.safetensors is damaged"
    with pytest.raises(BridgeError, match=missing), ray_engine(job) as engine:
        list(engine.finish({0: [], 2: [8]}))


def test_a_task_whose_process_dies_is_done_again_and_not_for_ever(tmp_path: Path) -> None:
    def die(place: Path, times: int) -> str:
        """A task whose process ends without a word, so often."""
        with place.open("a") as file:
            file.write("x")
        if place.stat().st_size <= times:
            os._exit(9)
        return place.name

    files = [(tmp_path / "once", 1), (tmp_path / "never", 0)]
    assert list(_in_order(die, files, ahead=2)) == ["once", "never"]
    died = r"^reading failed on Ray: a worker process died, again"
    with pytest.raises(BridgeError, match=died), clear_ray_errors("reading"):
        list(_in_order(die, [(tmp_path / "always", 99)], ahead=2))
    assert (tmp_path / "always").stat().st_size == 3


def test_a_shard_that_its_process_dies_of_is_given_up(job: preparation.Job) -> None:
    place = _Place(job=job, folder=".", run="this", threads=1)
    for _ in range(3):
        if (child := os.fork()) == 0:
            with _tried(place, 7):
                os._exit(9)
        os.waitpid(child, 0)
    died = "3 processes have died while they made shard 7"
    with pytest.raises(BridgeError, match=died), _tried(place, 7):
        raise AssertionError
    with _tried(dataclasses.replace(place, run="the next"), 7):
        pass
    assert not list(job.request.out.glob("measures/*"))


@pytest.mark.parametrize(
    ("has", "device", "replicas", "gives"),
    [
        ((4, 0), "auto", None, ("cpu", 1)),
        ((4, 0), "auto", 3, ("cpu", 3)),
        ((4, 0), "auto", 4, "has 4 cores; 4 replicas take one each"),
        ((4, 0), "cuda", None, "has 0 GPUs"),
        ((9, 8), "auto", None, ("cuda", 8)),
        ((99, 8), "auto", 9, "has 8 GPUs, and each of --replicas takes one"),
        ((99, 8), "cpu", 9, ("cpu", 9)),
    ],
)
def test_one_replica_a_gpu(has: tuple[int, int], device: str, replicas: int, gives: object) -> None:
    cluster = Cluster(cpus=has[0], gpus=has[1], machines=1)
    if isinstance(gives, str):
        with pytest.raises(BridgeError, match=gives):
            _share(cluster, device, replicas)
    else:
        assert _share(cluster, device, replicas) == gives


def test_another_cluster_than_the_program_is_connected_to() -> None:
    words = "connected to Ray already, and --ray-address is here:1"
    with pytest.raises(BridgeError, match=words), connected("here:1"):
        pass
