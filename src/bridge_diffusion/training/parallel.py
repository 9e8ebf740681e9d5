"""One loss, computed by several processes: each takes its samples, gradients are averaged.

Either each process holds all weights (DistributedDataParallel), or each holds its part of them and
of what the optimiser and the average keep (FSDP, Zhao et al. 2023, arXiv 2304.11277).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from bridge_diffusion.training.processes import Processes, lost_processes


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
    if processes.count == 1 or isinstance(task.module, FSDPModule):
        return loss
    return DistributedDataParallel(loss, gradient_as_bucket_view=True)


@contextmanager
def without_averaging(loss: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`, gradients only add up: the last batch of a step averages them."""
    if isinstance(loss, DistributedDataParallel):
        if wanted:
            with loss.no_sync():
                yield
            return
    elif isinstance(loss.trained, FSDPModule):
        loss.trained.set_requires_gradient_sync(not wanted)
    yield


def shard(module: nn.Module, processes: Processes, device: str) -> None:
    """Split a module's weights over the processes, to be gathered block by block when needed.

    In place. The module's own `forward` must be what the loss calls.
    """
    mesh = init_device_mesh(device.partition(":")[0], (processes.count,))
    for child in module.children():
        for block in child if isinstance(child, nn.ModuleList) else (child,):
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is split over the processes, gathered; all of them must ask alike."""
    if not isinstance(tensor, DTensor):
        return tensor
    with lost_processes():
        return tensor.full_tensor()


def put(source: Tensor, target: Tensor) -> None:
    """Copy a whole tensor into one that may be split; each process keeps its own part."""
    if isinstance(target, DTensor):
        source = distribute_tensor(
            source.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(source)
