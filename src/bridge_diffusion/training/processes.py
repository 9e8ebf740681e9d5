"""The processes that train one run together, as `torchrun` or `accelerate launch` starts them.

Each takes its share of every step; the first one alone writes. What they tell each other beside
gradients (shall we stop? are we the same run?) goes over the CPU, so no accelerator waits for it.
"""

import ctypes
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from bridge_diffusion.errors import BridgeError

_log = logging.getLogger(__name__)

#: Settings of `accelerate launch`, and what they say of nothing in particular.
_UNREAD = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_USE_DEEPSPEED": "false",
    "ACCELERATE_USE_FSDP": "false",
}

#: While the first process encodes, draws or saves, the others wait as long as it lives.
_PATIENCE = timedelta(days=7)


class LostProcess(BridgeError):
    """Another process of the run has ended, or does not answer."""


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among those of a run, and what they do together."""

    rank: int = 0
    """Position of this process, 0..count-1."""
    count: int = 1
    """How many train together."""
    local_rank: int = 0
    """Position of this process among those of its machine."""
    patient: Any = None
    """The group for waits that have no limit; None if this process is alone."""

    @property
    def is_first(self) -> bool:
        """This process writes what the run writes."""
        return self.rank == 0

    def any(self, wanted: bool) -> bool:
        """Whether at least one process wants it; all get the same answer."""
        if self.count == 1:
            return wanted
        said = torch.tensor(int(wanted))
        with lost_processes():
            dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values."""
        if self.count == 1:
            return value
        value = value.clone()
        with lost_processes():
            dist.all_reduce(value)
        return value / self.count

    def gathered(self, rows: Tensor) -> Tensor:
        """All processes' rows, [rows, ...] => [count * rows, ...], in the order of the processes.

        The gradient of each row goes back to the process that it came from, so a loss over all
        rows that every process computes has, averaged over the processes, its own gradient.
        """
        return rows if self.count == 1 else _Gather.apply(rows, self)

    def wait(self) -> None:
        """Until all processes are here, however long one that lives has to work before."""
        if self.count > 1:
            with lost_processes():
                dist.monitored_barrier(self.patient, timeout=_PATIENCE, wait_all_ranks=True)

    def agree(self, what: Mapping[str, Any]) -> None:
        """BridgeError unless all processes hold the same plain values. `what`: by name."""
        if self.count == 1:
            return
        told = self._told(json.loads(json.dumps(dict(what), default=str)))
        for rank, name in itertools.product(range(1, self.count), told[0]):
            if told[rank].get(name) != told[0][name]:
                raise BridgeError(
                    f"process {rank} of {self.count} has {name} = {_short(told[rank].get(name))} "
                    f"where process 0 has {_short(told[0][name])}: start all of them with the same "
                    "command, and keep data, models and the run's folder where all can read them"
                )

    def merged(self, values: Mapping[str, str]) -> dict[str, str]:
        """The entries of all processes."""
        if self.count == 1:
            return dict(values)
        return {key: value for told in self._told(dict(values)) for key, value in told.items()}

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The block runs in the first process, then in one of each machine, then in the others.

        So what it leaves on a disk is made once, whether the machines share that disk or not.
        """
        turn = 0 if self.is_first else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()

    def _told(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        """What each process says, as JSON: `all_gather_object` would unpickle it."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with lost_processes():
            sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor(len(own)), group=self.patient)
            longest = int(max(sizes))
            padded = torch.cat([own, own.new_zeros(longest - len(own))])
            rows = [torch.empty_like(padded) for _ in range(self.count)]
            dist.all_gather(rows, padded, group=self.patient)
        return [
            json.loads(bytes(row[:size].tolist()))
            for row, size in zip(rows, map(int, sizes), strict=True)
        ]


ALONE = Processes()
"""The one process of an ordinary run."""


def launched_count() -> int:
    """How many processes the launcher started; 1 without one."""
    return _number("WORLD_SIZE", 1)


def own_device(device: str) -> str:
    """The device of this process: of several on one machine each has its own GPU.

    BridgeError if there are too few, or if one was named for all.
    """
    if launched_count() == 1 or device == "cpu":
        return device
    if device != "cuda":
        raise BridgeError(
            f"--device {device} is one device, and {launched_count()} processes train: give "
            "--device cuda, of which each takes its own, or cpu"
        )
    local_rank = _number("LOCAL_RANK", 0)
    if local_rank >= torch.cuda.device_count():
        raise BridgeError(
            f"this machine has {torch.cuda.device_count()} GPUs and process {local_rank} of it "
            "would need one more: start as many processes as there are GPUs, or give --device cpu"
        )
    return f"cuda:{local_rank}"


@contextmanager
def joined(device: str, stall_minutes: float) -> Iterator[Processes]:
    """Join the processes that the launcher started, until the block ends; ALONE without one.

    device: this process's own. stall_minutes: how long they wait within a step for one of them.
    BridgeError if they cannot find each other.
    """
    count = launched_count()
    _warn_of_unread_settings()
    if count == 1:
        yield ALONE
        return
    rank, local_rank = _number("RANK", 0), _number("LOCAL_RANK", 0)
    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=stall_minutes))
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise BridgeError(
            f"process {rank} of {count} found not all of the others ({_first_line(error)}): start "
            "them with torchrun or accelerate launch, and see that they reach MASTER_ADDR"
        ) from error
    try:
        yield Processes(rank, count, local_rank, patient)
    except BaseException:
        # gloo's threads may still hold tensors of a collective that failed, and need Python's lock
        # to let go of them; a group that is deleted meanwhile waits for them and holds the lock.
        # So the groups are never deleted: this process is about to end.
        for group in (dist.group.WORLD, patient):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def lost_processes() -> Iterator[None]:
    """Raise `LostProcess` where the block failed because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not _tells_a_loss(error):
            raise
        raise LostProcess(
            f"another process of this run has ended or does not answer ({_first_line(error)})"
        ) from error


def _warn_of_unread_settings() -> None:
    """accelerate hands its configuration on in the environment; ours is the run's own."""
    for name, harmless in _UNREAD.items():
        if os.environ.get(name, "no").lower() not in ("", "no", "false", "0", harmless):
            _log.warning(
                "accelerate's setting %s=%s has no effect: give --precision, --accumulate and "
                "the other options of this command instead",
                name,
                os.environ[name],
            )


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums what every process found for a row."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, processes: Processes) -> Tensor:
        ctx.first = processes.rank * len(rows)  # type: ignore[attr-defined]
        ctx.size = len(rows)  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(processes.count)]
        with lost_processes():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone()
        with lost_processes():
            dist.all_reduce(summed)
        return summed[ctx.first : ctx.first + ctx.size], None


def _tells_a_loss(error: RuntimeError) -> bool:
    # gloo's errors have no class of their own: they name the place in its source.
    return (
        isinstance(error, dist.DistError)
        or "gloo" in str(error)
        or "monitoredBarrier" in str(error)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(name: str, default: int) -> int:
    """A number that the launcher put into the environment."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise BridgeError(f"the environment says {name}={os.environ[name]!r}, no number") from None
