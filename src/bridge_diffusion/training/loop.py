"""The one training loop. A task says what is trained; the loop makes it a run.

A run is a folder. The same command continues it: batches and noise are functions of the seed and
the position alone, so a run that was interrupted ends with the same bits as one that was not.

Several processes share a run by position: batch i of a step is taken by process i modulo their
count. Sums of gradients are the same whoever takes a batch, so a run has the same course, to
rounding, in any number of processes. The first process alone writes.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.checkpoint import (
    TrainingState,
    atomic_folder,
    checkpoints,
    save_checkpoint,
)
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.interruption import Interruption
from bridge_diffusion.training.journal import Journal, SilentJournal
from bridge_diffusion.training.optimizer import initial_state
from bridge_diffusion.training.parallel import shared_loss, whole, without_averaging
from bridge_diffusion.training.prefetching import Drawn, prefetched
from bridge_diffusion.training.processes import ALONE, LostProcess, Processes, lost_processes
from bridge_diffusion.training.run_folder import (
    check_run,
    exported_images,
    note_export,
    occupied,
    open_together,
)
from bridge_diffusion.training.seeds import sample_generators, stream_seed
from bridge_diffusion.training.task import Scored, ShardableTask, Task

_NOISE, _DROPOUT = 0, 1  # positions of the random streams of a seed
_AGAINST_NAN = "start a new run with a lower learning rate, a longer warm-up or precision fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a call of `train` ended."""

    images: int
    """Images that the weights were trained on, earlier calls included."""
    finished: bool
    """The run has reached its last image."""
    interrupted: bool
    """Ended early by Ctrl-C, SIGTERM or the time limit; the same command goes on."""
    seconds: float
    """Duration of this call."""
    loss: float | None
    """Mean loss over the last logged stretch of this call, or None if nothing was logged."""
    export: Path
    """The folder that the task exported into."""


def train(
    task: Task,
    config: LoopConfig,
    details: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
) -> TrainResult:
    """Train until `config.images`, from the newest checkpoint of the run if there is one.

    `details` are the task's own resolved settings as plain JSON values: they are written beside
    the loop's into run_dir/config.json, and must be the same when the run is continued.
    `processes` are those that train together; every one of them calls this alike.

    BridgeError: the folder holds another run, or another command trains in it; the disk is full;
    the loss is not finite; another process is lost, in which case the first one saves the last
    whole step.
    """
    assert config.processes == processes.count
    if config.shard and not isinstance(task, ShardableTask):
        raise BridgeError("--shard is for branches; this training has no large net to split")
    started = time.monotonic()
    with ExitStack() as stack:
        if processes.is_first:
            check_run(config, details or {})
            stack.enter_context(occupied(config.run_dir))
        open_together(config, details or {}, processes)
        return _train(task, config, details, processes, started)


def _train(
    task: Task,
    config: LoopConfig,
    details: Mapping[str, Any] | None,
    processes: Processes,
    started: float,
) -> TrainResult:
    """`train` in a folder that is this run's; started: when, by the monotonic clock."""
    state = initial_state(task.module, config, processes)
    folder, export = config.run_dir / "checkpoints", config.run_dir / "export"
    if newest := checkpoints(folder)[-1:]:
        state.load(newest[0])
    processes.agree({"images already trained on": state.images})
    with (
        _journal(config, state, processes, details) as journal,
        Interruption(launched=processes.count > 1) as interruption,
    ):
        run = _Run(task, config, state, journal, processes)
        if config.images <= state.images == exported_images(config.run_dir):
            journal.say(f"{config.run_dir} has finished its {state.images:,} images already")
        else:
            if newest:
                journal.say(f"continuing {config.run_dir} after {state.images:,} images")
            deadline = started + (config.time_limit or float("inf"))
            try:
                with closing(run.steps()) as steps:
                    for _ in steps:
                        if processes.any(interruption.requested or time.monotonic() >= deadline):
                            break
                run.finish()
            except LostProcess as lost:
                raise run.after(lost) from lost
            if state.images < config.images:
                journal.say(f"stopped after {state.images:,} images; the same command goes on")
    return TrainResult(
        images=state.images,
        finished=state.images >= config.images,
        interrupted=state.images < config.images,
        seconds=time.monotonic() - started,
        loss=run.last_loss,
        export=export,
    )


def _journal(
    config: LoopConfig,
    state: TrainingState,
    processes: Processes,
    details: Mapping[str, Any] | None,
) -> Journal | SilentJournal:
    if not processes.is_first:
        return SilentJournal()
    return Journal(config, state.images, details)


class _Run:
    """The steps of one call of `train`, and what happens between them."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        state: TrainingState,
        journal: Journal | SilentJournal,
        processes: Processes,
    ) -> None:
        self.task, self.config, self.state = task, config, state
        self.journal, self.processes = journal, processes
        self.loss = shared_loss(task, processes)
        self.last_loss: float | None = None
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._saved_at = self._sampled_at = state.images

    def steps(self) -> Generator[None, None, None]:
        """Take the remaining steps one by one; log, sample and save where they are due."""
        config, state = self.config, self.state
        cuda = [torch.device(config.device)] if config.device.startswith("cuda") else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            first = state.images // config.batch_size + self.processes.rank
            self.task.module.train()
            if state.images < config.images:
                self._settle(self._drawn(first))
            batches = stack.enter_context(prefetched(self._drawn, first, self.processes.count))
            while state.images < config.images:
                before = state.images
                self._step(batches)
                self.journal.advance(state.images)
                if self._due(config.log_every, before):
                    self._log()
                if self._due(config.sample_every, before):
                    self._sample()
                if self._due(config.checkpoint_every, before):
                    self._checkpoint()
                yield

    def finish(self) -> None:
        """Log, save, draw and export what the run has come to."""
        self._log()
        self._checkpoint()
        if self._sampled_at != self.state.images:
            self._sample()
        if not self.config.shard:
            # Safetensors, and with it save_pretrained, refuses channels-last tensors.
            self.task.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        with self._averaged():
            self._export()
        self.processes.wait()

    def after(self, lost: LostProcess) -> BridgeError:
        """What to say of a run that lost a process, whose last whole step the first one saves.

        Within a step nothing needs the others once the optimiser has begun, so the state is always
        that of a whole step.
        """
        where = f"the newest checkpoint of {self.config.run_dir}"
        # What is split over the processes is lost with one of them.
        if self.processes.is_first and not self.config.shard and self._is_finite():
            self._save()
            where = f"image {self.state.images:,}"
        return BridgeError(f"{lost}; the same command goes on from {where}")

    def _export(self) -> None:
        run_dir, task = self.config.run_dir, self.task
        gathered = self.state.whole_module() if self.config.shard else None
        if self.processes.is_first:
            with atomic_folder(run_dir / "export") as folder:
                if gathered is None:
                    task.export(folder)
                else:
                    assert isinstance(task, ShardableTask)
                    task.export_of(gathered, folder)
            note_export(run_dir, self.state.images)

    def _due(self, every: int, before: int) -> bool:
        return every > 0 and before // every != self.state.images // every

    def _drawn(self, index: int) -> Drawn:
        """The index-th batch of the run with its samples' generators; called in a thread."""
        size = self.config.batch_size
        generators = sample_generators(self.config.seed, _NOISE, index * size, size)
        return Drawn(index, self.task.batch(index), generators)

    def _settle(self, drawn: Drawn) -> None:
        """One backward pass for nothing, so that DDP is in the state of all later steps.

        After its first pass DDP regroups the weights, and three numbers or more that are summed
        in another order round differently: a continued run would lose its bits at that step.
        """
        if self.processes.count > 1:
            self._backward(drawn)
            self.state.optimizer.zero_grad(set_to_none=True)

    def _backward(self, drawn: Drawn) -> dict[str, Tensor]:
        config = self.config
        # Dropout draws from the global generators: seed them, so that a continued run agrees.
        torch.manual_seed(stream_seed(config.seed, _DROPOUT, drawn.index))
        with lost_processes():
            with _autocast(config):
                losses = self.loss(drawn.batch_on(config.device), drawn.generators)
            (losses["loss"].float() / config.accumulate).backward()
        return losses

    def _gradients(self, batches: Iterator[Drawn]) -> dict[str, Tensor]:
        """Gradients of a step's batches, averaged over all processes, and what to log of them."""
        means: dict[str, Tensor] = {}
        for position in range(1, self.config.accumulate + 1):
            is_last = position == self.config.accumulate
            with without_averaging(self.loss, not is_last):
                losses = self._backward(next(batches))
            for name, value in losses.items():
                value = value.detach().float() / self.config.accumulate
                means[name] = means[name] + value if name in means else value
        return means

    def _step(self, batches: Iterator[Drawn]) -> None:
        """Loss, backward, optimiser, average."""
        config, state = self.config, self.state
        rate = config.learning_rate_at(state.images)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        losses = self._gradients(batches)
        limit = config.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.task.module.parameters(), limit, foreach=True)
        norm = whole(norm)  # of the averaged gradient, so all processes decide alike
        if config.on_nan == "skip" and not norm.isfinite():
            self._skip()
        else:
            self._add({**losses, "gradient_norm": norm})
            state.optimizer.step()
            if state.ema is not None:
                state.ema.step(self.task.module.parameters())
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.images += config.images_per_step

    def _skip(self) -> None:
        """Count a step that is left out. BridgeError if there were too many."""
        state, limit = self.state, self.config.nan_limit
        if state.skipped >= limit:
            raise BridgeError(
                f"after image {state.images:,} the gradient is not finite once more, and "
                f"{state.skipped} steps were skipped for that already; {_AGAINST_NAN}"
            )
        state.skipped += 1
        self.journal.say(
            f"skipped the step after image {state.images:,}: its gradient is not finite "
            f"({state.skipped} of at most {limit})"
        )

    def _add(self, values: Mapping[str, Tensor]) -> None:
        # Sums stay on the device: reading a value would make an accelerator wait at every step.
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def _log(self) -> None:
        """Write the means since the last entry. BridgeError if one is not finite."""
        if not self._count:
            return
        device = self.config.device
        sums = torch.stack([value.to(device) for value in self._sums.values()])
        values = (self.processes.mean(sums.cpu()).double() / self._count).tolist()
        means = dict(zip(self._sums, values, strict=True))
        for name in ("loss", "gradient_norm"):
            if not abs(means[name]) < float("inf"):
                raise BridgeError(
                    f"the {name} became {means[name]} within the "
                    f"{self._count * self.config.images_per_step:,} images before image "
                    f"{self.state.images:,}; nothing of it was saved: go on with --on-nan skip, or "
                    f"{_AGAINST_NAN}"
                )
        means["learning_rate"] = self.state.optimizer.param_groups[0]["lr"]
        if self.config.on_nan == "skip":
            means["skipped_steps"] = self.state.skipped
        self.journal.scalars(means, self.state.images)
        self.last_loss = means["loss"]
        self._sums, self._count = {}, 0

    def _checkpoint(self) -> None:
        self._log()  # also keeps weights that are not finite from being saved
        self._save()
        self.processes.wait()

    def _save(self) -> None:
        if self._saved_at != self.state.images:
            if self.processes.is_first:
                folder = self.config.run_dir / "checkpoints"
                save_checkpoint(self.state, folder, self.config.keep_checkpoints)
            elif self.config.shard:
                self.state.save(None)
            self._saved_at = self.state.images

    def _is_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in self.task.module.parameters())

    def _sample(self) -> None:
        self._log()
        if self.processes.is_first or self.config.shard:
            with self._averaged():
                image = self.task.samples()
                scores = self.task.scores() if isinstance(self.task, Scored) else {}
            if scores:
                self.journal.scores(scores, self.state.images)
            if image is not None:
                self.journal.picture(image, self.state.images)
        self.processes.wait()
        self._sampled_at = self.state.images

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The module with its averaged weights, in evaluation mode, without gradients."""
        module, ema = self.task.module, self.state.ema
        module.eval()
        if ema is not None:
            ema.store(module.parameters())
            ema.copy_to(module.parameters())
        try:
            with torch.no_grad():
                yield
        finally:
            if ema is not None:
                ema.restore(module.parameters())
            module.train()


def _autocast(config: LoopConfig) -> Any:
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(config.device).type, torch.bfloat16)
