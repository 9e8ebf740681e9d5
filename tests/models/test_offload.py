"""Branches leave the device with a UNet that a pipeline offloads.

The only device here is the CPU, so what is seen is whether a branch was told to go.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import UserCpuOffloadHook
from diffusers import UNet2DConditionModel
from torch import Tensor

from bridge_diffusion.models import BackboneHooks, BridgeBranch

Draw = Callable[..., Tensor]
Pair = Callable[..., Tensor]


@pytest.fixture
def moves(branch: BridgeBranch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the branch was sent."""
    places: list[str] = []
    move = branch.to

    def to(place: Any) -> BridgeBranch:
        places.append(str(place))
        return move(place)

    monkeypatch.setattr(branch, "to", to)
    return places


def offloaded(unet: UNet2DConditionModel) -> UserCpuOffloadHook:
    """As `enable_model_cpu_offload` does it, with the CPU as the accelerator."""
    _, hook = cpu_offload_with_hook(unet, torch.device("cpu"))
    return hook


@pytest.mark.parametrize("way", ["offload", "remove"])
def test_the_branch_goes_with_its_backbone(
    unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    moves: list[str],
    draw: Draw,
    pair: Pair,
    way: str,
) -> None:
    for _ in range(2):  # a pipeline makes new hooks for every call
        hook = offloaded(unet)
        sample, states = draw(2, 4, 8, 8), pair(1)
        with torch.no_grad():
            unet(sample, 10, states)
            unet(sample, 9, states)
        assert moves == []
        getattr(hook, way)()
        assert moves == ["cpu"]
        hook.remove()
        moves.clear()


def test_the_picture_is_that_of_a_pipeline_without_offload(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    with torch.no_grad():
        want = unet(sample, 10, states).sample
        offloaded(unet)
        assert torch.equal(unet(sample, 10, states.clone()).sample, want)


def test_detaching_leaves_the_offload_hook_as_it_was(
    unet: UNet2DConditionModel, hooks: BackboneHooks, moves: list[str], draw: Draw, pair: Pair
) -> None:
    hook = offloaded(unet)
    before = copy.copy(vars(hook.hook))
    with torch.no_grad():
        unet(draw(2, 4, 8, 8), 10, pair(1))
    assert vars(hook.hook) != before
    hooks.remove(hooks.layout.segments[0])
    assert vars(hook.hook) == before
    hook.offload()
    assert moves == []
