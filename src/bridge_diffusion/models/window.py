"""Branches at work for a part of the steps only, as ControlNet's guidance window."""

from collections.abc import Callable, Sequence
from typing import Any

from diffusers.callbacks import PipelineCallback
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.pack import PackLayout

StepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]

Window = tuple[float, float]
"""The part of the steps in which a branch works: start and end, as fractions."""

ALL_STEPS: Window = (0.0, 1.0)


def check_window(window: Window) -> None:
    """Raises `BridgeError` for what is no part of the steps."""
    start, end = window
    if not 0.0 <= start < end <= 1.0:
        raise BridgeError(
            f"the branch's window is start={start}, end={end}; fractions of the steps with "
            "0 <= start < end <= 1 are allowed"
        )


def includes(window: Window, step: int, steps: int) -> bool:
    """Whether a branch is at work in this step, counted from 0."""
    start, end = window
    return not (step / steps < start or (step + 1) / steps > end)


class StepWindow(PipelineCallback):
    """A pipeline's `callback_on_step_end` that takes branches out outside their windows.

    Step i of n is on unless i/n < start or (i+1)/n > end, as in diffusers' ControlNet pipelines.
    Where no branch works, the backbone gets plain English embeddings.
    It is a stock `PipelineCallback`: `MultiPipelineCallbacks([window, other])` composes it with
    other ones, `then` with a plain function. One `StepWindow` serves one call of the pipeline.
    """

    def __init__(self, layout: PackLayout, windows: Sequence[Window | None]) -> None:
        """`windows` are those of the layout's segments; None for a bridge without a prompt."""
        super().__init__()
        assert len(windows) == len(layout.segments)
        self._layout = layout
        self._windows = tuple(windows)
        self._packed: Tensor | None = None
        self._states: dict[tuple[bool, ...], Tensor] = {}
        self._next: StepEnd | None = None
        self._inputs = ["prompt_embeds"]

    @property
    def tensor_inputs(self) -> list[str]:
        """What a pipeline hands over at each step's end."""
        return self._inputs

    def then(self, callback: StepEnd, tensor_inputs: Sequence[str] = ("latents",)) -> "StepWindow":
        """Call a user's own function after it at each step; returns itself."""
        self._next = callback
        self._inputs = list(dict.fromkeys(["prompt_embeds", *tensor_inputs]))
        return self

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        steps = pipeline.num_timesteps
        if step_index == 0:
            self._begin(callback_kwargs["prompt_embeds"], steps)
        callback_kwargs["prompt_embeds"] = self._states_at(step_index + 1, steps)
        if self._next is None:
            return callback_kwargs
        return self._next(pipeline, step_index, timesteps, callback_kwargs)

    def _begin(self, packed: Tensor, steps: int) -> None:
        """Keep what the pipeline made of the pack for its batch."""
        for window in filter(None, self._windows):
            working = [step for step in range(steps) if includes(window, step, steps)]
            if not working or (window[0] == 0.0 and 0 not in working):
                raise BridgeError(
                    f"the branch's window from {window[0]} to {window[1]} holds none of the "
                    f"{steps} steps: widen it, or draw without this branch"
                )
        self._packed, self._states = packed, {}

    def _states_at(self, step: int, steps: int) -> Tensor:
        """The embeddings of a step; the same tensor as long as the same branches work."""
        assert self._packed is not None
        on = tuple(w is not None and includes(w, step, steps) for w in self._windows)
        if on not in self._states:
            self._states[on] = (
                self._layout.switched(self._packed, on)
                if any(on)
                else self._layout.english(self._packed)
            )
        return self._states[on]
