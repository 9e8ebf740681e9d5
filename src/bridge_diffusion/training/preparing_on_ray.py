"""`bdm data prepare --engine ray`: the steps of preparation.py on a Ray cluster.

Ray Data hands the numbers of shards to actors, one a GPU; each encodes and writes whole shards, and
has their pairs read by tasks on any core of the cluster. Near-duplicates are found by the process
that the user started; taking them out, and hashing the shards, is done by tasks again.
"""

import os
import secrets
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.ray_cluster import (
    Cluster,
    clear_ray_errors,
    connected,
    quiet_ray,
    ray_package,
)
from bridge_diffusion.training.preparation import (
    Encoder,
    Job,
    Reader,
    Seen,
    finish_shard,
    is_made,
    make_shard,
    measures_file,
)

_RETRIES = 2  # of what a process was doing that died
_PARTS_AHEAD = 3  # read before an actor has encoded those before them
_MOST_BLOCKS = 10_000  # of the shards' numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a job is done. Plain values."""

    job: Job
    folder: str
    """The working directory that relative paths of the request start from."""
    run: str
    """Name of this run among all."""
    threads: int
    """Of an actor on CPUs: as many as the local engine has, since sums depend on it."""


@contextmanager
def ray_engine(job: Job) -> Iterator["RayEngine"]:
    """The cluster that the request names, or Ray on this machine, while the block runs.

    BridgeError if it cannot be reached, or has not what is asked for.
    """
    request = job.request
    with connected(request.ray_address, cpus=(request.replicas or 1) + 1) as cluster:
        device, replicas = _share(cluster, request.device, request.replicas)
        place = _Place(
            job=replace(job, device=device),
            folder=os.getcwd(),
            run=secrets.token_hex(8),
            threads=torch.get_num_threads(),
        )
        with clear_ray_errors("preparing the data"):
            yield RayEngine(place, replicas, cluster)


def _share(cluster: Cluster, device: str, replicas: int | None) -> tuple[str, int]:
    """Where the actors encode, and how many there are."""
    if device == "auto":
        device = "cuda" if cluster.gpus else "cpu"
    if device == "cuda":
        if not cluster.gpus or (replicas or 0) > cluster.gpus:
            raise BridgeError(
                f"the Ray cluster has {cluster.gpus} GPUs, and each of --replicas takes one; give "
                "fewer, or --device cpu"
            )
        replicas = replicas or cluster.gpus
    replicas = replicas or 1
    if cluster.cpus < replicas + 1:
        raise BridgeError(
            f"the Ray cluster has {cluster.cpus} cores; {replicas} replicas take one each, and one "
            "more is needed to read: give fewer --replicas"
        )
    return device, replicas


class RayEngine:
    """Makes shards on a cluster that this process is connected to."""

    def __init__(self, place: _Place, replicas: int, cluster: Cluster) -> None:
        self._place, self._replicas, self._cluster = place, replicas, cluster

    def make(self, numbers: Sequence[int]) -> Iterator[int]:
        if not numbers:
            return
        import ray.data

        quiet_ray()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        on_gpu = self._place.job.device == "cuda"
        rows = [{"number": number} for number in numbers]
        blocks = min(len(rows), _MOST_BLOCKS)
        made = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Maker,
            fn_constructor_args=(self._place,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self._replicas, len(rows))),
            num_cpus=1,
            num_gpus=1 if on_gpu else None,
        )
        for row in made.iter_rows():
            if row["error"]:
                raise BridgeError(row["error"])
            parts = self._place.job.parts(row["number"])
            yield parts[-1][1] - parts[0][0]

    def finish(self, kept: Mapping[int, Sequence[int]]) -> Iterator[dict[str, str] | None]:
        arguments = ((self._place, number, list(pairs)) for number, pairs in kept.items())
        yield from _in_order(_finish, arguments, ahead=2 * self._cluster.cpus)


class _Maker:
    """An actor that encodes and writes shards."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._encoder: Encoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Says what went wrong instead of raising it, for Ray to hand it on as it is."""
        try:
            for number in batch["number"]:
                self._make(int(number))
        except BridgeError as error:
            return {"number": batch["number"], "error": [str(error)] * len(batch["number"])}
        return {"number": batch["number"], "error": [""] * len(batch["number"])}

    def _make(self, number: int) -> None:
        place, job = self._place, self._place.job
        if self._encoder is None:
            _settle(place)
            torch.set_num_threads(place.threads)
            self._encoder = Encoder(job.request, job.device)
        if is_made(job, number):  # before the process died that was asked first
            return
        parts = job.parts(number)
        if job.request.scorer is not None:  # it runs where the encoder does
            seen: Iterable[Seen] = (_reader(place).see(*part) for part in parts)
        else:
            seen = _in_order(_see, ((place, *part) for part in parts), ahead=_PARTS_AHEAD)
        with _tried(place, number), clear_ray_errors("reading the data"):
            make_shard(job, number, seen, self._encoder)


@contextmanager
def _tried(place: _Place, number: int) -> Iterator[None]:
    """Count how often a shard was begun: Ray Data starts an actor that dies again without end.

    BridgeError if processes have died of it already, as often as is allowed.
    """
    file = measures_file(place.job.request.out, number).with_suffix(".tries")
    run, _, tries = file.read_text().partition(" ") if file.is_file() else ("", "", "0")
    count = int(tries) if run == place.run else 0
    try:
        if count > _RETRIES:
            raise BridgeError(
                f"{count} processes have died while they made shard {number}; the machine's log "
                "says whether its memory was full"
            )
        write_file(f"{place.run} {count + 1}".encode(), file)
        yield
    finally:
        file.unlink(missing_ok=True)


def _see(place: _Place, first: int, last: int) -> Seen:
    """A task that reads pairs."""
    torch.set_num_threads(1)
    return _reader(place).see(first, last)


@lru_cache(maxsize=1)
def _reader(place: _Place) -> Reader:
    """Opens the data once a process."""
    _settle(place)
    return Reader(place.job)


def _finish(place: _Place, number: int, kept: Sequence[int]) -> dict[str, str] | None:
    """A task that takes pairs out of a shard, and hashes it."""
    _settle(place)
    return finish_shard(place.job.request.out, number, kept)


def _settle(place: _Place) -> None:
    """Go where the user is, on whatever machine. BridgeError if that folder is not there."""
    try:
        os.chdir(place.folder)
    except OSError as error:
        raise BridgeError(
            f"the machine {socket.gethostname()} of the Ray cluster has no {place.folder} "
            f"({error.strerror}): the data, the models, --out and the folder that bdm is started "
            "in must be on a disk that all machines share"
        ) from error


def _in_order(task: Any, arguments: Iterable[tuple[Any, ...]], *, ahead: int) -> Iterator[Any]:
    """Results of a task for each of the arguments, in their order; few are waited for at once."""
    ray = ray_package()
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(task)
    waiting: deque[Any] = deque()
    for each in arguments:
        waiting.append(remote.remote(*each))
        if len(waiting) > ahead:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())
