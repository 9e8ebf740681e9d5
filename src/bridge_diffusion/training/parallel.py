"""One loss, computed by several processes: each takes its samples, gradients are averaged."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bridge_diffusion.training.processes import Processes


class Loss(nn.Module):
    """A task's loss as a module over its trained weights, which is what DDP can wrap."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.trained = task.module
        self._of_batch = task.loss

    def forward(self, batch: Any, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return self._of_batch(batch, generators)


def shared_loss(task: Any, processes: Processes) -> nn.Module:
    """The loss whose backward pass averages the gradients of all processes."""
    loss = Loss(task)
    if processes.count == 1:
        return loss
    # Weights are the same already: each process made or loaded them by the same rule.
    return DistributedDataParallel(loss, gradient_as_bucket_view=True)


def without_averaging(loss: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Inside, if `wanted`, gradients only add up: the last batch of a step averages them."""
    if wanted and isinstance(loss, DistributedDataParallel):
        return loss.no_sync()
    return nullcontext()
