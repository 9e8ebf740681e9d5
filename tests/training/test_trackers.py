"""Trackers: refused in one line where their package is missing, and fed where it is not."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import TRACKERS, LoopConfig
from bridge_diffusion.training.journal import Journal
from bridge_diffusion.training.trackers import open_trackers


def journal(run_dir: Path, *trackers: str) -> Journal:
    config = LoopConfig(
        run_dir=run_dir, images=64, batch_size=16, trackers=trackers, progress=False
    )
    return Journal(config, 0, {"data": "pairs"})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(BridgeError, match=rf"shown in {name}, which is not installed.*--log"):
        open_trackers((name,), tmp_path, 0, {})


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="no tracker 'mlflow'; choose of tensorboard, wandb"):
        journal(tmp_path, "mlflow")


def test_tensorboard_gets_curves_and_samples(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with journal(tmp_path, "tensorboard") as told:
        told.scalars({"loss": 0.5, "band:sum": 3.0, "band:count": 2.0}, 16)
        told.picture(Image.new("RGB", (8, 8), "red"), 16)
        told.scores({"probe/native_top1": 0.25}, 16)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("band")] == [1.5]
    assert events.Scalars("images_per_second")[0].value > 0
    assert events.Scalars("probe/native_top1")[0].step == 16
    assert events.Images("samples")[0].step == 16


def test_a_line_before_the_first_entry_names_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bridge_diffusion.training.journal._PLAIN_LINE_SECONDS", 0)
    config = LoopConfig(run_dir=tmp_path, images=64, batch_size=16, trackers=())
    with Journal(config, 0) as told:
        told.advance(16)
        told.scalars({"loss": 0.5}, 16)
        told.advance(32)
    before, after = capsys.readouterr().err.splitlines()
    assert before.startswith("16/64 images, ")
    assert "loss not yet" in before
    assert "loss 0.5000" in after


def test_without_a_tracker_the_folder_still_has_the_curves(tmp_path: Path) -> None:
    with journal(tmp_path) as told:
        told.scalars({"loss": 0.5}, 16)
    line = json.loads((tmp_path / "curves.jsonl").read_text())
    assert line["loss"] == 0.5
    assert line["peak_memory_gib"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["curves.jsonl"]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_optional_trackers_take_a_run_without_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    with journal(tmp_path, name) as told:
        told.scalars({"loss": 0.5}, 16)
        told.picture(Image.new("RGB", (8, 8), "red"), 16)
        told.scalars({"loss": 0.25}, 32)
    written = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert any(path.stat().st_size for path in written)
