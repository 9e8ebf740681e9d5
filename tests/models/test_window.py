"""The branch in a part of the steps: which ones, and what the pipeline gets in the others."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks
from torch import Tensor

from bridge_diffusion import BridgeError
from bridge_diffusion.models import NativePart, PackLayout, Segment, StepWindow
from bridge_diffusion.models.window import check_window
from bridge_diffusion.text import NativeEmbeddings


@pytest.fixture
def packed(
    layout: PackLayout,
    segment: Segment,
    native: Callable[..., NativeEmbeddings],
    draw: Callable[..., Tensor],
) -> Tensor:
    part = NativePart(native=native(1), scale=torch.ones(1), from_first_step=False)
    return layout.pack(draw(1, 7, 24), {segment: part}, positive=True)


def played(window: Any, layout: PackLayout, packed: Tensor, steps: int) -> list[bool]:
    """Whether the branch is at work in each step of a pipeline that obeys the callback."""
    pipeline = SimpleNamespace(num_timesteps=steps)
    states, active = packed, []
    for step in range(steps):
        on = layout.is_packed(states)
        active.append(on and bool(layout.unpack(states).parts))
        assert torch.equal(layout.english(states) if on else states, layout.english(packed))
        states = window(pipeline, step, None, {"prompt_embeds": states})["prompt_embeds"]
    return active


@pytest.mark.parametrize(
    ("start", "end", "steps", "wanted"),
    [
        (0.25, 0.75, 4, [False, True, True, False]),
        (0.5, 1.0, 4, [False, False, True, True]),
        (0.3, 1.0, 5, [False, False, True, True, True]),
        (0.2, 0.55, 10, [False, False, True, True, True, False, False, False, False, False]),
    ],
)
def test_steps_of_the_window(
    layout: PackLayout, packed: Tensor, start: float, end: float, steps: int, wanted: list[bool]
) -> None:
    assert played(StepWindow(layout, [(start, end)]), layout, packed, steps) == wanted


def test_it_composes_with_a_function_and_with_stock_callbacks(
    layout: PackLayout, packed: Tensor
) -> None:
    seen: list[int] = []

    def mine(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return tensors

    window = StepWindow(layout, [(0.25, 0.75)]).then(mine, ["latents"])
    assert window.tensor_inputs == ["prompt_embeds", "latents"]
    both = MultiPipelineCallbacks([window])
    assert played(both, layout, packed, 4) == [False, True, True, False]
    assert seen == [0, 1, 2, 3]


def test_a_window_without_a_step_is_an_error(layout: PackLayout, packed: Tensor) -> None:
    with pytest.raises(BridgeError, match="none of the 4 steps"):
        played(StepWindow(layout, [(0.3, 0.45)]), layout, packed, 4)
    with pytest.raises(BridgeError, match="none of the 4 steps"):
        played(StepWindow(layout, [(0.0, 0.1)]), layout, packed, 4)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.9, 0.1)])
def test_nonsense_is_refused(start: float, end: float) -> None:
    with pytest.raises(BridgeError, match="0 <= start < end <= 1"):
        check_window((start, end))
