"""`bdm train` under the launchers themselves: two real processes, one bridge."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.worlds.emoji.paths import bridge_folder

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--cpu", "--num_processes", "2"],
}


def launched(launcher: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "bridge_diffusion.cli", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def curve(run_dir: Path) -> dict[int, float]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        ("torchrun", []),
        pytest.param("torchrun", ["--shard"], marks=pytest.mark.full),
        pytest.param("accelerate", [], marks=pytest.mark.full),
    ],
)
def test_two_processes_train_the_bridge_that_one_trains(
    tmp_path: Path, launcher: str, options: list[str]
) -> None:
    request = TrainRequest(
        data="emoji:zh",
        out=tmp_path / "one",
        text_encoder=str(bridge_folder("zh") / "text_encoder"),
        recipe="debug",
        images=32,
        batch_size=4,
        device="cpu",
    )
    arguments = [
        *("train", "--data", request.data, "--text-encoder", str(request.text_encoder)),
        *("--recipe", "debug", "--images", "32", "--batch-size", "2", "--device", "cpu"),
        *("--out", "two", *options),
    ]
    two = launched(launcher, arguments, tmp_path)
    assert two.returncode == 0, two.stderr
    assert two.stdout.splitlines() == ["two/export"]
    assert two.stderr.count("encoding pictures: 16 done") == 1
    Bridge.from_pretrained(tmp_path / "two" / "export")
    settings = json.loads((tmp_path / "two" / "config.json").read_text())["loop"]
    assert (settings["processes"], settings["images_per_step"]) == (2, 4)
    train_branch(replace(request, cache=tmp_path / "cache"))
    one = curve(tmp_path / "one")
    assert one.keys() == {16, 32}
    assert curve(tmp_path / "two") == pytest.approx(one, rel=1e-4)


@pytest.mark.full
def test_each_process_says_which_one_fails(tmp_path: Path) -> None:
    arguments = ["train", "--data", "nowhere", "--text-encoder", "nowhere", "--out", "run"]
    failed = launched("torchrun", [*arguments, "--device", "cpu"], tmp_path)
    assert failed.returncode != 0
    assert "bdm: error in process" in failed.stderr
    assert not (tmp_path / "run").exists()
