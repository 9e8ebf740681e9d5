"""What goes wrong is injected for real: killed and stopped processes, a full disk, NaN."""

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bridge_diffusion.worlds.emoji.paths import bridge_folder

IMAGES, INTERVAL = 96, 24


def options(run_dir: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_dir": run_dir,
        "images": IMAGES,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "log_every": 8,
        "checkpoint_every": INTERVAL,
        **changes,
    }


def newest(run_dir: Path) -> int:
    """Images of the newest checkpoint; 0 if there is none."""
    folder = run_dir / "checkpoints"
    names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def state(run_dir: Path, images: int = IMAGES) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / f"{images:08d}"
    return {
        f"{file}.{name}": tensor
        for file in ("model", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def assert_same_bits(a: Path, b: Path, images: int = IMAGES) -> None:
    first, second = state(a, images), state(b, images)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def straight(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert launch(2, options(run_dir)).codes == [0, 0]
    return run_dir


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_leaves_the_others_a_clear_end(
    launch: Any, straight: Path, tmp_path: Path, rank: int
) -> None:
    # The first loss is for nothing: the sixth is that of the fifth step, after 32 images.
    ended = launch(2, options(tmp_path), task={"signals": [(rank, 6, signal.SIGKILL)]})
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 2
    error = ended.errors[1 - rank]
    assert "another process of this run has ended" in error
    # The first process saves the last whole step; without it the newest checkpoint is there.
    assert ("image 32" if rank == 1 else "newest checkpoint") in error
    assert newest(tmp_path) == (32 if rank == 1 else INTERVAL)
    assert launch(2, options(tmp_path)).codes == [0, 0]
    assert_same_bits(straight, tmp_path)


def test_a_process_that_fails_ends_the_others(launch: Any, straight: Path, tmp_path: Path) -> None:
    ended = launch(3, options(tmp_path, batch_size=8), task={"raise_at": [1, 3]})
    assert ended.codes == [2, 2, 2]
    assert ended.errors[1] == "an accident"
    assert "another process of this run has ended" in ended.errors[0]
    assert newest(tmp_path) == 24


def test_a_process_that_does_not_answer_is_given_up(launch: Any, tmp_path: Path) -> None:
    ended = launch(
        2,
        options(tmp_path),
        task={"signals": [(1, 6, signal.SIGSTOP)]},
        stall_minutes=0.2,
        kill_after_first=True,
    )
    assert ended.codes == [2, -signal.SIGKILL]
    assert "does not answer" in ended.errors[0]
    assert newest(tmp_path) == 32


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_keeps_the_previous_checkpoint(
    launch: Any, straight: Path, tmp_path: Path, processes: int
) -> None:
    config = options(tmp_path, batch_size=8 // processes)
    # Weights fit into the largest file (8 KiB of them), both moments do not.
    full = {"disk_full_at": 5, "largest_file": 12_000}
    ended = launch(processes, config, task=full)
    assert ended.codes == [2] * processes
    assert "could not be written" in ended.errors[0]
    assert "what was saved before is untouched: make room" in ended.errors[0]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{INTERVAL:08d}"]
    assert_same_bits_at(tmp_path, straight, launch, config)


def assert_same_bits_at(run_dir: Path, straight: Path, launch: Any, config: dict[str, Any]) -> None:
    """The run goes on once there is room, and ends as if nothing had been."""
    processes = 8 // config["batch_size"]
    assert launch(processes, config).codes == [0] * processes
    other = straight
    if processes == 1:
        other = run_dir.with_name("one-process")
        launch(1, options(other, batch_size=8))
    assert_same_bits(other, run_dir)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_not_finite_stops_all_processes(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    config = options(tmp_path, batch_size=8 // processes)
    ended = launch(processes, config, task={"nan_at": [7]})
    assert ended.codes == [2] * processes
    assert all("became nan" in error and "--on-nan skip" in error for error in ended.errors)
    assert newest(tmp_path) == 48 if processes == 1 else INTERVAL


@pytest.mark.parametrize("processes", [1, 2])
def test_steps_that_are_not_finite_are_skipped_and_counted(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    config = options(tmp_path, batch_size=8 // processes, on_nan="skip")
    ended = launch(processes, config, task={"nan_at": [5, 9]})
    assert ended.codes == [0] * processes, ended.errors
    counts = json.loads((tmp_path / "checkpoints" / f"{IMAGES:08d}" / "state.json").read_text())
    assert counts == {"images": IMAGES, "step": 12, "skipped": 2}
    assert all(tensor.isfinite().all() for tensor in state(tmp_path).values())
    assert all(tensor == 10 for name, tensor in state(tmp_path).items() if name.endswith(".step"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("skipped_steps")[-1].value == 2
    limited = options(tmp_path / "limited", batch_size=8 // processes, on_nan="skip", nan_limit=1)
    ended = launch(processes, limited, task={"nan_at": [5, 9]})
    assert ended.codes == [2] * processes
    assert all("1 steps were skipped for that already" in error for error in ended.errors)


def test_a_run_with_skipped_steps_is_continued_exactly(launch: Any, tmp_path: Path) -> None:
    whole, parts = (options(tmp_path / name, batch_size=8, on_nan="skip") for name in "ab")
    launch(1, whole, task={"nan_at": [3]})
    launch(1, parts, task={"nan_at": [3], "signals": [(0, 5, signal.SIGTERM)]})
    assert launch(1, parts).codes == [0]
    assert_same_bits(tmp_path / "a", tmp_path / "b")


@dataclass(frozen=True)
class Series:
    """Runs that are killed at random moments, again and again."""

    launch: Any
    processes: int
    folder: Path
    config: dict[str, Any] | None
    """Of the loop on a small net, without its folder; None for `bdm train`."""
    request: dict[str, Any] | None = None
    """Of `bdm train`, without its folder."""

    @property
    def images(self) -> int:
        return (self.config or self.request)["images"]

    def start(self, name: str, **asked: Any) -> Any:
        run_dir = self.folder / name
        if self.config is not None:
            task = {"dropout": 0.1, "trace": self.folder / "trace"}
            return self.launch(
                self.processes, {**self.config, "run_dir": run_dir}, task=task, **asked
            )
        return self.launch(self.processes, None, request={**self.request, "out": run_dir}, **asked)

    def reached(self, before: int) -> int:
        """Images of the last whole step that the killed process wrote down."""
        trace = self.folder / "trace"
        losses = trace.stat().st_size - (self.processes > 1) if trace.exists() else 0
        trace.unlink(missing_ok=True)
        return before + 8 * max(0, losses - 1)

    def run(self, kills: int) -> dict[str, int]:
        """Kill until there were so many; each run must end as if nothing had been.

        Gives what happened: kills, whole runs, kills before a checkpoint, most images lost.
        """
        seconds = self.start("straight").results[0]["seconds"]
        self.reached(0)
        count = {"kills": 0, "runs": 0, "before_a_checkpoint": 0, "most_images_lost": 0}
        attempt = 0
        while count["kills"] < kills:
            run_dir, codes = self.folder / f"run{count['runs']}", [1]
            while codes != [0] * self.processes:
                attempt += 1
                before = newest(run_dir)
                kill = {"kill_within": seconds, "kill_seed": attempt}
                ended = self.start(run_dir.name, **(kill if count["kills"] < kills else {}))
                codes = ended.codes
                reached = self.reached(before)
                if -signal.SIGKILL not in codes:
                    assert codes == [0] * self.processes, ended.errors
                    continue
                assert set(codes) <= {-signal.SIGKILL, 2, 0}, ended.errors
                count["kills"] += 1
                lost = max(count["most_images_lost"], reached - newest(run_dir))
                count["most_images_lost"] = lost
                count["before_a_checkpoint"] += newest(run_dir) == 0
            assert_same_bits(self.folder / "straight", run_dir, self.images)
            count["runs"] += 1
            shutil.rmtree(run_dir)
        return count


def net_series(launch: Any, folder: Path, processes: int) -> Series:
    config = options(folder, images=480, checkpoint_every=48, batch_size=8 // processes)
    return Series(launch, processes, folder, config)


@pytest.mark.parametrize("processes", [1, 2])
def test_runs_that_are_killed_at_random_end_with_the_same_bits(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    told = net_series(launch, tmp_path, processes).run(kills=3)
    assert told["most_images_lost"] <= 48


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
def test_many_runs_that_are_killed_at_random_end_with_the_same_bits(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    told = net_series(launch, tmp_path, processes).run(kills=25)
    print(f"\n{processes} processes, a small net: {told}")
    assert told["most_images_lost"] <= 48


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
def test_many_runs_of_the_debug_recipe_that_are_killed_end_with_the_same_bits(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    request = {
        "data": "emoji:zh",
        "text_encoder": str(bridge_folder("zh") / "text_encoder"),
        "recipe": "debug",
        "images": 64,
        "batch_size": 4 // processes,
        "device": "cpu",
        "cache": str(tmp_path / "cache"),
    }
    told = Series(launch, processes, tmp_path, None, request).run(kills=20)
    print(f"\n{processes} processes, the debug recipe: {told}")
