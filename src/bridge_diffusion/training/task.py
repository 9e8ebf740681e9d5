"""The contract between the training loop and what it trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

#: What a task trains on in one go: tensors (moved to the device by the loop) and plain values.
Batch = Mapping[str, Any]


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

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Scalars by name, means over the batch: "loss" is minimised, the others are logged.

        `generators`: one for each sample of the batch, for its noise.
        """

    def samples(self) -> Image.Image | None:
        """A labelled grid for the log, or None. Called with the averaged weights in place."""

    def export(self, folder: Path) -> None:
        """Save for use into an empty folder. Called with the averaged weights in place."""


@runtime_checkable
class Scored(Protocol):
    """A task that can say how good its samples are."""

    def scores(self) -> dict[str, float]:
        """Curves by name, drawn and scored anew. Called with the averaged weights in place."""


@runtime_checkable
class ShardableTask(Task, Protocol):
    """A task whose module may be split over the processes: the loss calls its `forward`."""

    def export_of(self, module: nn.Module, folder: Path) -> None:
        """What `export` does, of a whole copy of the trained module."""
