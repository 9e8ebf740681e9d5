"""Training a part of a branch: LoRAs instead of its weights, and blocks that stay as they are."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Self

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch

_ADAPTER = "trained"
# The projections of the attention blocks that a fresh branch copies from the backbone.
_LORA_LAYERS = [
    "attn1.to_k", "attn1.to_v", "to_q", "to_out.0", "proj_in", "proj_out",
    "ff.net.0.proj", "ff.net.2",
]  # fmt: skip
_READING_LAYERS = ["attn2.to_k", "attn2.to_v"]
# What no LoRA can stand for: the 1x1 convolutions start at zero, and what reads the native text
# starts fresh wherever its width is not the backbone's, as do the projections where there are any;
# what reads behind these is a copy, too.
_TRAINED_WHOLE = ("controlnet_*", "*prompt_embeds_projection.*")


def choose_weights(
    branch: BridgeBranch, *, lora_rank: int | None, freeze: Sequence[str], seed: int
) -> None:
    """Make exactly the weights that are to be trained require a gradient.

    Args:
        lora_rank: Rank of LoRAs on the copied attention projections, which then stay as they are,
            as do the residual blocks; trained beside them are the 1x1 convolutions and what reads
            the native text. None trains every weight.
        freeze: Names of weights or blocks, such as "down_blocks.0"; "*" and "?" as in file names.
        seed: Of the LoRAs' first weights.

    Raises:
        BridgeError: A pattern matches no weight, nothing is left to train, or LoRAs of that rank
            were larger than what they stand for.
    """
    names = [name for name, _ in branch.named_parameters()]
    for pattern in freeze:
        if not any(_matches(name, pattern) for name in names):
            parts = sorted({_block(name) for name in names})
            raise BridgeError(
                f"--freeze {pattern} matches nothing in the branch; it has {', '.join(parts)}"
            )
    branch.requires_grad_(True)
    if lora_rank is not None:
        _add_lora(branch, lora_rank, seed)
    for name, weight in branch.named_parameters():
        if any(_matches(name, pattern) for pattern in freeze):
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in branch.parameters()):
        raise BridgeError(f"--freeze {','.join(freeze)} leaves nothing to train; freeze less")


def reorder_for_norms(branch: BridgeBranch) -> None:
    """Give a trained GroupNorm behind frozen blocks its input in contiguous memory, on a CPU.

    In channels-last order torch (2.13) dies there in the backward pass: it writes the gradient of
    the input even if none is asked for.
    """

    def contiguous(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        is_behind = norm.weight.requires_grad and not x.requires_grad
        return (x.contiguous(),) if is_behind and x.device.type == "cpu" else inputs

    for module in branch.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(contiguous)


def merged(branch: BridgeBranch) -> BridgeBranch:
    """The same branch as plain weights in contiguous memory, its LoRAs added to what they change.

    A copy; `branch` stays as it is.
    """
    state = branch.state_dict()
    for name, module in branch.named_modules():
        if isinstance(module, BaseTunerLayer):
            weight = state[f"{name}.base_layer.weight"]
            state[f"{name}.base_layer.weight"] = weight + module.get_delta_weight(_ADAPTER)
    plain = {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if ".lora_" not in name
    }
    copy = BridgeBranch.from_config(branch.config).to(next(branch.parameters()).device)
    copy.load_state_dict(plain)
    return copy.eval()


class TrainedPart(nn.Module):
    """The weights of a net that require a gradient, under the names that they have in it.

    Checkpoints, the moving average and the optimiser then hold nothing that stays as it is. The
    net itself is not a part of it; `train` and `eval` set its mode too.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple, so that it is not registered
        for name, weight in net.named_parameters():
            if weight.requires_grad:
                self._place(name.split("."), weight)

    def train(self, mode: bool = True) -> Self:
        self._net[0].train(mode)
        return super().train(mode)

    def _place(self, path: list[str], weight: nn.Parameter) -> None:
        module: nn.Module = self
        for name in path[:-1]:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        module.register_parameter(path[-1], weight)


def _add_lora(branch: BridgeBranch, rank: int, seed: int) -> None:
    projects = branch.config.projected_from is not None
    layers = [*_LORA_LAYERS, *(_READING_LAYERS if projects else [])]
    trained_whole = [*_TRAINED_WHOLE, *([] if projects else [f"*.{n}.*" for n in _READING_LAYERS])]
    most = max(
        min(module.weight.shape)
        for name, module in branch.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(layers))
    )
    if rank > most:
        raise BridgeError(
            f"--lora-rank is {rank}, and no matrix that it is for has a higher rank than {most}: "
            "give a smaller one, or leave it out to train all weights"
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch.add_adapter(config, _ADAPTER)
    for name, weight in branch.named_parameters():
        whole = any(fnmatchcase(name, pattern) for pattern in trained_whole)
        weight.requires_grad_(whole or ".lora_" in name)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _block(name: str) -> str:
    """The block that a weight belongs to: "down_blocks.0", "mid_block"."""
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if second.isdigit() else first
