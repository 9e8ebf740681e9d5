"""The branch at work for a part of the steps only, as ControlNet's guidance window."""

from collections.abc import Callable, Sequence
from typing import Any

from diffusers.callbacks import PipelineCallback
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.pack import PackLayout

StepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class StepWindow(PipelineCallback):
    """A pipeline's `callback_on_step_end` that takes the branch out outside its window.

    Step i of n is on unless i/n < start or (i+1)/n > end, as in diffusers' ControlNet pipelines.
    Outside, the backbone gets plain English embeddings, so the branch does not run at all.
    It is a stock `PipelineCallback`: `MultiPipelineCallbacks([window, other])` composes it with
    other ones, `then` with a plain function. One window serves one call of the pipeline.
    """

    def __init__(self, layout: PackLayout, start: float, end: float) -> None:
        super().__init__()
        if not 0.0 <= start < end <= 1.0:
            raise BridgeError(
                f"the branch's window is start={start}, end={end}; fractions of the steps with "
                "0 <= start < end <= 1 are allowed"
            )
        self._layout = layout
        self._start, self._end = start, end
        self._on: Tensor | None = None
        self._off: Tensor | None = None
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

    def includes(self, step: int, steps: int) -> bool:
        """Whether the branch is at work in this step, counted from 0."""
        return not (step / steps < self._start or (step + 1) / steps > self._end)

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        steps = pipeline.num_timesteps
        if step_index == 0:
            self._begin(callback_kwargs["prompt_embeds"], steps)
        following = self._on if self.includes(step_index + 1, steps) else self._off
        callback_kwargs["prompt_embeds"] = following
        if self._next is None:
            return callback_kwargs
        return self._next(pipeline, step_index, timesteps, callback_kwargs)

    def _begin(self, packed: Tensor, steps: int) -> None:
        """Keep both forms of what the pipeline made of the pack for its batch."""
        working = [step for step in range(steps) if self.includes(step, steps)]
        if not working or (self._start == 0.0 and 0 not in working):
            raise BridgeError(
                f"the branch's window from {self._start} to {self._end} holds none of the "
                f"{steps} steps: widen it, or draw with the backbone alone"
            )
        self._on, self._off = self._layout.activate(packed), self._layout.english(packed)
