"""Draw the cases of a plan with a stock pipeline, with one bridge on it or with none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.plan import BACKBONE, Case, WorldOptions


def draw_cases(
    pipe: Any, bridges: Mapping[str, Bridge], cases: Sequence[Case], options: WorldOptions
) -> list[Image.Image]:
    """Draw cases of one route in one batch, each from its own CPU generator.

    Raises:
        BridgeError: a picture has NaN.
    """
    (route,) = {case.route for case in cases}
    prompts = [case.prompt for case in cases]
    with _only(bridges.get(route), bridges, pipe):
        if route == BACKBONE:
            inputs: dict[str, Any] = {"prompt": prompts}
        else:
            inputs = bridges[route].prompt(prompts, english=[case.english for case in cases])
        return draw(pipe, inputs, cases, options)


def draw(
    pipe: Any, inputs: Mapping[str, Any], cases: Sequence[Case], options: WorldOptions
) -> list[Image.Image]:
    """Draw cases in one batch, each from its own CPU generator; `inputs` say what is drawn.

    Raises:
        BridgeError: a picture has NaN.
    """
    output = pipe(
        **inputs,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        generator=[torch.Generator("cpu").manual_seed(case.seed) for case in cases],
        output_type="np",
    ).images  # float 0..1
    if not np.isfinite(output).all():
        raise BridgeError(
            f"a picture of condition {cases[0].condition} is not a number (NaN); check the model "
            "and the bridge with bdm doctor"
        )
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in output]


@contextmanager
def prepared(pipe: Any, bridge: Bridge) -> Iterator[None]:
    """No progress bar of the pipeline's own, and the scheduler that the bridge expects."""
    scheduler, bar = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    pipe.scheduler = bridge.scheduler_for(pipe)
    pipe.set_progress_bar_config(**{**bar, "disable": True})
    try:
        yield
    finally:
        pipe.scheduler = scheduler
        pipe.set_progress_bar_config(**bar)


@contextmanager
def _only(wanted: Bridge | None, bridges: Mapping[str, Bridge], pipe: Any) -> Iterator[None]:
    """One bridge on the pipeline (or none), and afterwards those that were there before."""
    before = [bridge for bridge in bridges.values() if bridge.attached]
    for bridge in before:
        bridge.detach()
    try:
        if wanted is not None:
            wanted.attach(pipe)
        yield
    finally:
        if wanted is not None:
            wanted.detach()
        for bridge in before:
            bridge.attach(pipe)
