"""What a run starts with: the weights on their device, the optimiser, the average."""

import copy
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.checkpoint import TrainingState
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.parallel import shard
from bridge_diffusion.training.processes import Processes


def initial_state(module: nn.Module, config: LoopConfig, processes: Processes) -> TrainingState:
    """The state of a run before its first step.

    Without sharding the first process alone keeps an average.

    BridgeError unless the weights to train are float32.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not weights or any(weight.dtype != torch.float32 for weight in weights):
        kinds = sorted({str(weight.dtype) for weight in weights}) or ["none"]
        raise BridgeError(f"weights to train are {', '.join(kinds)}; load the model in float32")
    module.to(config.device)
    twin = None
    if config.shard:
        twin = copy.deepcopy(module).to("meta") if processes.is_first else None
        shard(module, processes, config.device)
    # bitsandbytes puts weights back into plain order at its first step, and its moments not.
    elif config.channels_last and config.optimizer == "adamw":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    ema = None
    if config.ema_decay and (processes.is_first or config.shard):
        # Its decay rises as (1 + step) / (10 + step) up to ema_decay. torch cannot copy several
        # split tensors at once.
        ema = EMAModel(module.parameters(), decay=config.ema_decay, foreach=not config.shard)
    return TrainingState(module, _adamw(weights, config), ema, twin)


def _adamw(weights: list[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices and kernels alone."""
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, betas = config.learning_rate, config.betas
    if config.optimizer == "adamw8bit":
        return _adamw_8bit(groups, rate, betas)
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


def _adamw_8bit(
    groups: list[dict[str, Any]], rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW whose moments are kept in 8 bits (Dettmers et al. 2022, arXiv 2110.02861)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BridgeError(
            "the optimizer adamw8bit is bitsandbytes', which is not installed: "
            "pip install 'bridge-diffusion[8bit]', or take adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=rate, betas=betas)
    return optimizer
