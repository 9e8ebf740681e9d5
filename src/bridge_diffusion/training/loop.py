"""The one training loop. A task says what is trained; the loop makes it a run.

A run is a folder. The same command continues it: batches and noise are functions of the seed and
the position alone, so a run that was interrupted ends with the same bits as one that was not.
"""

import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.training_utils import EMAModel
from PIL import Image
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
from bridge_diffusion.training.journal import Journal
from bridge_diffusion.training.run_folder import exported_images, note_export, open_run
from bridge_diffusion.training.seeds import stream_generator, stream_seed

#: What a task trains on in one go: tensors (moved to the device by the loop) and plain values.
Batch = Mapping[str, Any]

_PREFETCHED_BATCHES = 3
_NOISE, _DROPOUT = 0, 1  # positions of the random streams of a seed


@runtime_checkable
class Task(Protocol):
    """What is trained, on what, and against which loss."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained (a ModuleDict if several nets), in float32."""

    def batch(self, index: int) -> Batch:
        """The index-th batch: a function of the task's seed and the index alone.

        Called in a background thread, while a step runs in another.
        """

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name: "loss" is minimised, the others are logged. Noise from `generator`."""

    def samples(self) -> Image.Image | None:
        """A labelled grid for the log, or None. Called with the averaged weights in place."""

    def export(self, folder: Path) -> None:
        """Save for use into an empty folder. Called with the averaged weights in place."""


@runtime_checkable
class Scored(Protocol):
    """A task that can say how good its samples are."""

    def scores(self) -> dict[str, float]:
        """Curves by name, drawn and scored anew. Called with the averaged weights in place."""


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


def train(task: Task, config: LoopConfig, details: Mapping[str, Any] | None = None) -> TrainResult:
    """Train until `config.images`, from the newest checkpoint of the run if there is one.

    `details` are the task's own resolved settings as plain JSON values: they are written beside
    the loop's into run_dir/config.json, and must be the same when the run is continued.

    BridgeError: the folder holds another run; the disk is full; the loss is not finite.
    """
    started = time.monotonic()
    open_run(config, details or {})
    state = _initial_state(task.module, config)
    folder, export = config.run_dir / "checkpoints", config.run_dir / "export"
    if newest := checkpoints(folder)[-1:]:
        state.load(newest[0])
    loss = None
    with (
        Journal(config, state.images, details) as journal,
        Interruption() as interruption,
    ):
        if config.images <= state.images == exported_images(config.run_dir):
            journal.say(f"{config.run_dir} has finished its {state.images:,} images already")
        else:
            if newest:
                journal.say(f"continuing {config.run_dir} after {state.images:,} images")
            deadline = started + (config.time_limit or float("inf"))
            run = _Run(task, config, state, journal)
            with closing(run.steps()) as steps:
                for _ in steps:
                    if interruption.requested or time.monotonic() >= deadline:
                        break
            run.finish()
            loss = run.last_loss
            if state.images < config.images:
                journal.say(f"stopped after {state.images:,} images; the same command goes on")
    return TrainResult(
        images=state.images,
        finished=state.images >= config.images,
        interrupted=state.images < config.images,
        seconds=time.monotonic() - started,
        loss=loss,
        export=export,
    )


def _initial_state(module: nn.Module, config: LoopConfig) -> TrainingState:
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not weights or any(weight.dtype != torch.float32 for weight in weights):
        kinds = sorted({str(weight.dtype) for weight in weights}) or ["none"]
        raise BridgeError(f"weights to train are {', '.join(kinds)}; load the model in float32")
    module.to(config.device)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )
    ema = None
    if config.ema_decay:
        # Its decay rises as (1 + step) / (10 + step) up to ema_decay.
        ema = EMAModel(module.parameters(), decay=config.ema_decay, foreach=True)
    return TrainingState(module, optimizer, ema)


class _Run:
    """The steps of one call of `train`, and what happens between them."""

    def __init__(
        self, task: Task, config: LoopConfig, state: TrainingState, journal: Journal
    ) -> None:
        self.task, self.config, self.state, self.journal = task, config, state, journal
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
            first = state.step * config.accumulate
            batches = stack.enter_context(_prefetched(self.task, first))
            self.task.module.train()
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
        # Safetensors, and with it save_pretrained, refuses channels-last tensors.
        self.task.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        with self._averaged(), atomic_folder(self.config.run_dir / "export") as folder:
            self.task.export(folder)
        note_export(self.config.run_dir, self.state.images)

    def _due(self, every: int, before: int) -> bool:
        return every > 0 and before // every != self.state.images // every

    def _step(self, batches: Iterator[Batch]) -> None:
        """Loss, backward, optimiser, average."""
        config, state = self.config, self.state
        rate = config.learning_rate_at(state.images)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        first = state.step * config.accumulate
        # Dropout draws from the global generators: seed them, so that a continued run agrees.
        torch.manual_seed(stream_seed(config.seed, _DROPOUT, state.step))
        for index in range(first, first + config.accumulate):
            batch = _to_device(next(batches), config.device)
            with _autocast(config):
                losses = self.task.loss(batch, stream_generator(config.seed, _NOISE, index))
            (losses["loss"].float() / config.accumulate).backward()
            self._add({name: value / config.accumulate for name, value in losses.items()})
        limit = config.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.task.module.parameters(), limit, foreach=True)
        self._add({"gradient_norm": norm})
        self._count += 1
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.step(self.task.module.parameters())
        state.step += 1
        state.images += config.images_per_step

    def _add(self, values: Mapping[str, Tensor]) -> None:
        # Sums stay on the device: reading a value would make an accelerator wait at every step.
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _log(self) -> None:
        """Write the means since the last entry. BridgeError if one is not finite."""
        if not self._count:
            return
        means = {name: value.item() / self._count for name, value in self._sums.items()}
        for name in ("loss", "gradient_norm"):
            if not abs(means[name]) < float("inf"):
                raise BridgeError(
                    f"the {name} became {means[name]} within the "
                    f"{self._count * self.config.images_per_step:,} images before image "
                    f"{self.state.images:,}; nothing of it was saved: start a new run with a "
                    "lower learning rate, a longer warm-up or precision fp32"
                )
        means["learning_rate"] = self.state.optimizer.param_groups[0]["lr"]
        self.journal.scalars(means, self.state.images)
        self.last_loss = means["loss"]
        self._sums, self._count = {}, 0

    def _checkpoint(self) -> None:
        self._log()  # also keeps weights that are not finite from being saved
        if self._saved_at != self.state.images:
            folder = self.config.run_dir / "checkpoints"
            save_checkpoint(self.state, folder, self.config.keep_checkpoints)
            self._saved_at = self.state.images

    def _sample(self) -> None:
        self._log()
        with self._averaged():
            image = self.task.samples()
            scores = self.task.scores() if isinstance(self.task, Scored) else {}
        if scores:
            self.journal.scores(scores, self.state.images)
        if image is not None:
            self.journal.picture(image, self.state.images)
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


@contextmanager
def _prefetched(task: Task, first: int) -> Iterator[Iterator[Batch]]:
    """The batches from `first` on, made in one background thread a little ahead of their use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:

        def batches() -> Iterator[Batch]:
            waiting: list[Future[Batch]] = []
            for index in itertools.count(first):
                while len(waiting) < _PREFETCHED_BATCHES:
                    waiting.append(pool.submit(task.batch, index + len(waiting)))
                yield waiting.pop(0).result()

        try:
            yield batches()
        finally:
            pool.shutdown(cancel_futures=True)


def _to_device(batch: Batch, device: str) -> Batch:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _autocast(config: LoopConfig) -> Any:
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(config.device).type, torch.bfloat16)
