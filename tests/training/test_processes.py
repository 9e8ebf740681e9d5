"""Several processes train one run: the same course as one, each pair once, an end together."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bridge_diffusion.training.order import ShuffledOrder

PAIRS = 24  # of the task in launched.py
FILES = ("model", "ema", "optimizer")


def options(run_dir: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run_dir": run_dir,
        "images": 96,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_images": 16,
        "log_every": 8,
        "checkpoint_every": 24,
        **changes,
    }


def curve(run_dir: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def state(run_dir: Path, images: int = 96) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / f"{images:08d}"
    return {
        f"{file}.{name}": tensor
        for file in FILES
        for name, tensor in load_file(folder / f"{file}.safetensors").items()
    }


def assert_same_bits(a: Path, b: Path) -> None:
    first, second = state(a), state(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_close(a: Path, b: Path) -> None:
    first, second = state(a), state(b)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulate"), [(2, 4, 1), (2, 2, 2), (1, 4, 2), (4, 2, 1)]
)
def test_any_split_of_a_step_has_the_same_course(
    launch: Any, tmp_path: Path, processes: int, batch_size: int, accumulate: int
) -> None:
    launch(1, options(tmp_path / "one", batch_size=8))
    split = options(tmp_path / "split", batch_size=batch_size, accumulate=accumulate)
    ended = launch(processes, split)
    assert ended.codes == [0] * processes, ended.errors
    assert len(curve(tmp_path / "one")) == 12
    for (images, loss), (at, other) in zip(
        curve(tmp_path / "one"), curve(tmp_path / "split"), strict=True
    ):
        assert images == at
        assert loss == pytest.approx(other, rel=1e-5)
    assert_close(tmp_path / "one", tmp_path / "split")


def test_every_pair_is_seen_once_an_epoch(launch: Any, tmp_path: Path) -> None:
    ended = launch(3, options(tmp_path, batch_size=2, images=PAIRS))
    # One pass for nothing, at the start, is not a step.
    seen = [pair for result in ended.results for pair in result["seen"][2:]]
    assert sorted(seen) == list(range(PAIRS))


@given(
    pairs=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_batches_of_all_processes_make_up_epochs(
    pairs: int, batch_size: int, processes: int, seed: int
) -> None:
    order = ShuffledOrder(pairs, batch_size=batch_size, caption_dropout=0.5, seed=seed)
    one = ShuffledOrder(pairs, batch_size=1, caption_dropout=0.5, seed=seed)
    steps = -(-2 * pairs // (batch_size * processes))
    picks = [
        pick
        for step in range(steps)
        for rank in range(processes)
        for pick in order.batch(step * processes + rank)
    ]
    assert sorted(pick.index for pick in picks[:pairs]) == list(range(pairs))
    assert sorted(pick.index for pick in picks[pairs : 2 * pairs]) == list(range(pairs))
    assert picks == [one.batch(place)[0] for place in range(len(picks))]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_process_ends_all_at_the_same_step(
    launch: Any, tmp_path: Path, rank: int
) -> None:
    task = {"signals": [(rank, 4, signal.SIGTERM), (rank, 4, signal.SIGINT)]}
    ended = launch(2, options(tmp_path), task=task)
    assert ended.codes == [0, 0], ended.errors
    assert [result["images"] for result in ended.results] == [24, 24]
    assert (tmp_path / "checkpoints" / "00000024").is_dir()
    assert (tmp_path / "export").is_dir()


def test_a_time_limit_ends_all_at_the_same_step(launch: Any, tmp_path: Path) -> None:
    ended = launch(2, options(tmp_path, time_limit=1e-6))
    assert [result["images"] for result in ended.results] == [8, 8], ended.errors


@pytest.mark.parametrize("processes", [2, 3])
def test_a_continued_run_ends_with_the_same_bits(
    launch: Any, tmp_path: Path, processes: int
) -> None:
    changes = {"batch_size": 12 // processes}
    straight = launch(processes, options(tmp_path / "a", **changes), task={"dropout": 0.1})
    stop = {"dropout": 0.1, "signals": [(1, 4, signal.SIGTERM)]}
    stopped = launch(processes, options(tmp_path / "b", **changes), task=stop)
    assert [result["images"] for result in stopped.results] == [36] * processes
    launch(processes, options(tmp_path / "b", **changes), task={"dropout": 0.1})
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    assert len({result["loss"] for result in straight.results}) == 1


def test_a_run_goes_on_with_another_number_of_processes(launch: Any, tmp_path: Path) -> None:
    launch(1, options(tmp_path / "a", batch_size=8))
    launch(2, options(tmp_path / "b", time_limit=1e-6))
    ended = launch(1, options(tmp_path / "b", accumulate=2))
    assert ended.codes == [0]
    assert_close(tmp_path / "a", tmp_path / "b")


def test_another_global_batch_is_another_run(launch: Any, tmp_path: Path) -> None:
    launch(2, options(tmp_path, time_limit=1e-6))
    ended = launch(1, options(tmp_path))
    assert ended.codes == [2]
    assert "was started with 8 images a step, not 4" in ended.errors[0]


def test_captions_are_told_from_the_pictures_of_all_processes(launch: Any, tmp_path: Path) -> None:
    launch(1, options(tmp_path / "one", batch_size=8), task="match")
    ended = launch(2, options(tmp_path / "two"), task="match")
    assert ended.codes == [0, 0], ended.errors
    for (_, loss), (_, other) in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
    assert_close(tmp_path / "one", tmp_path / "two")


def test_processes_with_different_settings_are_refused(launch: Any, tmp_path: Path) -> None:
    ended = launch(2, options(tmp_path), details={"data": "a"}, details_of_others={"data": "b"})
    assert ended.codes == [2, 2]
    assert all("process 1 of 2 has data = 'b' where process 0 has 'a'" in e for e in ended.errors)
    assert not tmp_path.joinpath("config.json").exists()


def test_a_split_branch_has_the_same_course_and_whole_checkpoints(
    launch: Any, tmp_path: Path
) -> None:
    launch(1, options(tmp_path / "one", batch_size=8))
    halves = options(tmp_path / "two", shard=True)
    stopped = launch(2, halves, task={"signals": [(1, 4, signal.SIGTERM)]})
    assert stopped.codes == [0, 0], stopped.errors
    ended = launch(2, halves)
    assert ended.codes == [0, 0], ended.errors
    assert_close(tmp_path / "one", tmp_path / "two")
    one, two = (tmp_path / name / "export" / "weights.safetensors" for name in ("one", "two"))
    for name, tensor in load_file(one).items():
        torch.testing.assert_close(tensor, load_file(two)[name], rtol=1e-3, atol=1e-5)


def test_a_split_run_is_continued_exactly_and_in_one_process(launch: Any, tmp_path: Path) -> None:
    halves = [options(tmp_path / name, accumulate=2, shard=True) for name in "ab"]
    launch(2, halves[0])
    launch(2, {**halves[1], "time_limit": 1e-6})
    assert launch(2, halves[1]).codes == [0, 0]
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    launch(2, {**halves[1], "run_dir": tmp_path / "c", "time_limit": 1e-6})
    ended = launch(1, options(tmp_path / "c", batch_size=16))
    assert ended.codes == [0], ended.errors
    assert_close(tmp_path / "a", tmp_path / "c")


def test_one_process_has_nothing_to_split(launch: Any, tmp_path: Path) -> None:
    ended = launch(1, options(tmp_path, shard=True))
    assert ended.codes == [2]
    assert "nothing to shard in one process" in ended.errors[0]
