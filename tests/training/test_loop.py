"""The loop on a task of one small net: a run is a folder that the same command continues."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training import checkpoint
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.run_folder import occupied
from bridge_diffusion.training.seeds import draw_each, stream_generator


class Denoise:
    """Predicts the noise in small random pictures, with dropout, so that every stream counts."""

    def __init__(
        self,
        interrupt_at: int | None = None,
        bad_at: int | None = None,
        signals: tuple[signal.Signals, ...] = (signal.SIGINT,),
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1)
            )
        self.interrupt_at, self.bad_at, self.signals = interrupt_at, bad_at, signals
        self.losses = 0
        self.noises: set[float] = set()

    def batch(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.randn(4, 3, 8, 8, generator=stream_generator(7, index))}

    def loss(
        self, batch: dict[str, torch.Tensor], generators: list[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        noise = draw_each(generators, lambda g: torch.randn(3, 8, 8, generator=g))
        loss = (self.module(batch["x"] + noise) - noise).square().mean()
        self.losses += 1
        self.noises.add(noise.flatten()[0].item())
        if self.losses == self.interrupt_at:
            for number in self.signals:
                os.kill(os.getpid(), number)
        if self.losses == self.bad_at:
            loss = loss * float("nan")
        return {"loss": loss, "largest": batch["x"].abs().max()}

    def samples(self) -> Image.Image:
        return Image.new("RGB", (8, 8))

    def export(self, folder: Path) -> None:
        save_file(self.module.state_dict(), folder / "weights.safetensors")


def options(run_dir: Path, **changes: object) -> LoopConfig:
    config = LoopConfig(
        run_dir=run_dir,
        images=40,
        batch_size=4,
        learning_rate=1e-2,
        warmup_images=8,
        schedule="cosine",
        log_every=8,
        checkpoint_every=12,
        progress=False,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def exported(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "export" / "weights.safetensors")


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_interrupted_and_continued_equals_straight_through(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    straight = train(Denoise(), options(tmp_path / "a", **changes))
    stopped = train(Denoise(interrupt_at=3), options(tmp_path / "b", **changes))
    assert (stopped.interrupted, stopped.finished) == (True, False)
    assert 0 < stopped.images < 40
    continued = train(Denoise(), options(tmp_path / "b", **changes))
    assert continued.finished
    assert continued.images == straight.images == 40
    assert_same_bits(exported(tmp_path / "a"), exported(tmp_path / "b"))
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/00000040/{name}.safetensors"
        assert_same_bits(load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file))


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """As in a terminal: a shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_the_first_signal_ends_the_step_and_a_second_one_ends_all(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    terminated = train(Denoise(interrupt_at=2, signals=(signal.SIGTERM,)), options(tmp_path / "a"))
    assert (terminated.interrupted, terminated.images) == (True, 8)
    twice = Denoise(interrupt_at=2, signals=(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(twice, options(tmp_path / "b"))
    assert signal.getsignal(signal.SIGINT) is before


def test_every_batch_has_noise_of_its_own(tmp_path: Path) -> None:
    task = Denoise()
    train(task, options(tmp_path, accumulate=2))
    assert len(task.noises) == task.losses == 10


def test_drawing_samples_changes_nothing(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path / "a"))
    train(Denoise(), options(tmp_path / "b", sample_every=4))
    assert_same_bits(exported(tmp_path / "a"), exported(tmp_path / "b"))


def test_weights_change_and_the_average_is_what_is_exported(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in Denoise().module.state_dict().items()}
    train(Denoise(), options(tmp_path))
    trained = load_file(tmp_path / "checkpoints/00000040/model.safetensors")
    average = load_file(tmp_path / "checkpoints/00000040/ema.safetensors")
    assert_same_bits(exported(tmp_path), average)
    assert all(not torch.equal(before[name], trained[name]) for name in before)
    assert all(not torch.equal(average[name], trained[name]) for name in before)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path))
    task = Denoise()
    again = train(task, options(tmp_path))
    assert again.finished
    assert task.losses == 0


def test_a_run_that_ended_before_its_export_makes_up_for_it(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, images=20))
    early = exported(tmp_path)

    class Failing(Denoise):
        def export(self, folder: Path) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(Failing(), options(tmp_path))
    assert_same_bits(exported(tmp_path), early)
    task = Denoise()
    assert train(task, options(tmp_path)).finished
    assert task.losses == 0
    average = load_file(tmp_path / "checkpoints/00000040/ema.safetensors")
    assert_same_bits(exported(tmp_path), average)


def test_a_longer_run_goes_on(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path))
    task = Denoise()
    assert train(task, options(tmp_path, images=60)).images == 60
    assert task.losses == 5


def test_the_time_limit_saves_and_exports(tmp_path: Path) -> None:
    result = train(Denoise(), options(tmp_path, time_limit=1e-6))
    assert result.interrupted
    assert result.images == 4
    assert (tmp_path / "checkpoints/00000004/state.json").is_file()
    assert exported(tmp_path)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6), {"data": "a"})
    with pytest.raises(BridgeError, match=r"learning_rate = 0\.01, not 0\.5"):
        train(Denoise(), options(tmp_path, learning_rate=0.5), {"data": "a"})
    with pytest.raises(BridgeError, match="data = 'a', not 'b'"):
        train(Denoise(), options(tmp_path), {"data": "b"})
    with pytest.raises(BridgeError, match="holds no training run"):
        train(Denoise(), options(tmp_path / "checkpoints"))


def test_the_resolved_configuration_is_written(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6), {"data": "a"})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["loop"]["learning_rate"] == 1e-2
    assert written["task"] == {"data": "a"}


def test_old_checkpoints_are_deleted(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, checkpoint_every=4, keep_checkpoints=3))
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert names == ["00000032", "00000036", "00000040"]


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="the loss became nan"):
        train(Denoise(bad_at=3), options(tmp_path, checkpoint_every=4, log_every=0))
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert names == ["00000004", "00000008"]
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        checkpoint.SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    saved = checkpoint.save_file

    def full_disk(tensors: dict[str, torch.Tensor], file: Path) -> None:
        saved(tensors, file)
        if file.parent.name.startswith("00000024") and file.name.startswith("optimizer"):
            raise error

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(BridgeError, match="make room and run the same command again"):
        train(Denoise(), options(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000012"]
    monkeypatch.undo()
    train(Denoise(), options(tmp_path))
    train(Denoise(), options(tmp_path.with_name("straight")))
    assert_same_bits(exported(tmp_path), exported(tmp_path.with_name("straight")))


def test_a_failing_export_keeps_the_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with checkpoint.atomic_folder(target) as folder:
        (folder / "whole").touch()
    with pytest.raises(RuntimeError), checkpoint.atomic_folder(target) as folder:  # noqa: PT012
        (folder / "half").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "whole"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6))
    (tmp_path / "checkpoints/00000004/model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(BridgeError, match=r"00000004 cannot be read .* delete this folder"):
        train(Denoise(), options(tmp_path))


@pytest.mark.parametrize("state", ["{}", "[]", '{"images": null, "step": 1}'])
def test_a_damaged_state_is_named(tmp_path: Path, state: str) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6))
    (tmp_path / "checkpoints/00000004/state.json").write_text(state)
    with pytest.raises(BridgeError, match=r"00000004 cannot be read .* delete this folder"):
        train(Denoise(), options(tmp_path))


def test_what_was_exported_is_exported_again_where_it_is_not_known(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path))
    (tmp_path / "exported.json").write_text("{")
    shutil.rmtree(tmp_path / "export")
    (tmp_path / "export").mkdir()
    train(Denoise(), options(tmp_path))
    assert exported(tmp_path)


def test_two_commands_do_not_train_in_one_folder(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6))
    written = (tmp_path / "config.json").read_bytes()
    with (
        occupied(tmp_path),
        pytest.raises(BridgeError, match=r"another process writes into .* wait for its end"),
    ):
        train(Denoise(), options(tmp_path, images=80))
    assert (tmp_path / "config.json").read_bytes() == written
    assert train(Denoise(), options(tmp_path)).finished


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, time_limit=1e-6))
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").touch()
    with pytest.raises(BridgeError, match=r"could not be written .*Not a directory"):
        train(Denoise(), options(tmp_path))


def test_a_command_that_was_killed_before_it_wrote_is_given_again(tmp_path: Path) -> None:
    with occupied(tmp_path):
        pass
    assert train(Denoise(), options(tmp_path)).finished


def test_sample_grids_are_kept(tmp_path: Path) -> None:
    train(Denoise(), options(tmp_path, sample_every=16))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["00000016.png", "00000032.png", "00000040.png"]


def test_curves_and_grids_are_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Denoise(), options(tmp_path, sample_every=16))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {"loss", "largest", "gradient_norm", "learning_rate"}
    names |= {"images_per_second", "peak_memory_gib"}
    assert set(events.Tags()["scalars"]) == names
    logged = [event.step for event in events.Scalars("loss")]
    assert logged == [8, 12, 16, 24, 32, 36, 40]
    assert [event.step for event in events.Images("samples")] == [16, 32, 40]


def test_half_precision_weights_are_refused(tmp_path: Path) -> None:
    task = Denoise()
    task.module.half()
    with pytest.raises(BridgeError, match=r"torch.float16; load the model in float32"):
        train(task, options(tmp_path))


def test_learning_rate_rises_and_falls() -> None:
    config = options(Path("run"), images=100, warmup_images=20, learning_rate=1.0)
    rates = [config.learning_rate_at(images) for images in (0, 12, 16, 20, 60, 100)]
    assert rates == pytest.approx([0.2, 0.8, 1.0, 1.0, 0.5, 0.0])


def test_impossible_options_are_refused() -> None:
    for name, value in (("images", 0), ("learning_rate", 0.0), ("ema_decay", 1.0)):
        with pytest.raises(BridgeError, match=name):
            options(Path("run"), **{name: value})
