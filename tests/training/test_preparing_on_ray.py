"""Data prepared on a Ray cluster: what this process would have made, and clear ends.

Ray runs on this machine; it is started by the command itself, and once more as a cluster.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from colours import colour_folder, colour_tars, png
from safetensors import safe_open

from bridge_diffusion.training import preparation
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.prepared import PreparedExamples
from bridge_diffusion.training.preparing import prepare_data

pytest.importorskip("ray")

Requests = tuple[PrepareRequest, PrepareRequest]


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
