"""`bdm serve --engine ray`: find the cluster, count what it has, and put replicas on it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.ray_cluster import connected
from bridge_diffusion.server.settings import ServerSettings

if TYPE_CHECKING:
    from bridge_diffusion.server.ray_serving import RayServing


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is put on a cluster."""

    replicas: int
    """How many."""
    device: str
    """Where each computes: "cpu" or "cuda"."""
    resources: Mapping[str, float]
    """What Ray keeps for each: CPUs, and one GPU or none."""


def plan_replicas(asked: int | None, *, cpus: int, gpus: int, all_cpus: bool) -> Plan:
    """One replica a GPU; without GPUs as many as asked, or one.

    Args:
        asked: How many are wanted; None for what the cluster has room for.
        cpus: What the cluster has.
        gpus: What the cluster has.
        all_cpus: Whether replicas without a GPU share all CPUs; else they take one each.

    Raises:
        BridgeError: The cluster has no room for so many.
    """
    if gpus:
        if asked is not None and asked > gpus:
            raise BridgeError(
                f"--replicas is {asked}, and the Ray cluster has GPUs for {gpus}; each "
                "replica takes one"
            )
        resources = {"num_cpus": 1.0, "num_gpus": 1.0}
        return Plan(replicas=asked or gpus, device="cuda", resources=resources)
    replicas = asked or 1
    if replicas > cpus:
        raise BridgeError(
            f"--replicas is {replicas}, and the Ray cluster has {cpus} CPUs; each replica takes "
            "at least one"
        )
    share = float(cpus // replicas) if all_cpus else 1.0
    return Plan(replicas=replicas, device="cpu", resources={"num_cpus": share})


@contextmanager
def ray_replicas(settings: ServerSettings) -> Iterator["RayServing"]:
    """Replicas on the cluster that the settings name, or on one of our own, until the block ends.

    Raises:
        BridgeError: Ray is not installed, the cluster cannot be reached or has no room, or the
            replicas cannot start.
    """
    own = settings.ray_address is None
    with connected(settings.ray_address, cpus=settings.replicas or 1) as cluster:
        from bridge_diffusion.server.ray_serving import RayServing, application_name

        plan = plan_replicas(settings.replicas, cpus=cluster.cpus, gpus=cluster.gpus, all_cpus=own)
        serving = RayServing(application_name(settings.data), plan.replicas)
        try:
            serving.deploy(plan.device, plan.resources)
            yield serving
        finally:
            serving.close()


def with_whole_paths(settings: ServerSettings) -> ServerSettings:
    """Settings that name the same files in a process that runs in another folder."""

    def whole(source: str) -> str:
        path = Path(source).expanduser()
        return os.path.abspath(path) if path.exists() else source

    return replace(
        settings,
        models=tuple(map(whole, settings.models)),
        bridges=tuple(map(whole, settings.bridges)),
        text_encoder=None if settings.text_encoder is None else whole(settings.text_encoder),
        plugins=None if settings.plugins is None else Path(os.path.abspath(settings.plugins)),
    )
