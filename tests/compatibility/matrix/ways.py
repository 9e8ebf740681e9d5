"""How a pipeline is run: as it is, offloaded, or compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """One of the ways."""

    name: str
    prepare: Callable[[Any], None]
    before_attaching: bool = False
    """Whether the bridge is attached to what it makes, not to what was there before."""


def device() -> torch.device:
    """The accelerator where there is one; else the CPU computes for offloaded pipelines too."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _nothing(pipe: Any) -> None:
    pass


def _model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device=device())


def _sequential_offload(pipe: Any) -> None:
    pipe.enable_sequential_cpu_offload(device=device())


def _group_offload(pipe: Any) -> None:
    """diffusers' own, module by module as the sequential one."""
    pipe.enable_group_offload(onload_device=device(), offload_type="leaf_level")


def _compile(pipe: Any) -> None:
    """The whole UNet as one graph, which a hook inside would break; run by PyTorch, not C++."""
    torch.compiler.reset()
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)


WAYS = (
    Way(name="plain", prepare=_nothing),
    Way(name="model offload", prepare=_model_offload),
    Way(name="sequential offload", prepare=_sequential_offload),
    Way(name="group offload", prepare=_group_offload),
    Way(name="torch.compile", prepare=_compile, before_attaching=True),
)
