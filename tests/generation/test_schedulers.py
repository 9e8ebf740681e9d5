"""Samplers over the configuration of a model that was saved with another one."""

from typing import get_args

import pytest
from diffusers import DPMSolverMultistepScheduler

from bridge_diffusion.generation.request import SchedulerName
from bridge_diffusion.generation.schedulers import make_scheduler


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_latents_are_never_clipped(name: SchedulerName) -> None:
    scheduler = make_scheduler(name, DPMSolverMultistepScheduler().config)
    assert not scheduler.config.get("clip_sample", False)
    assert not scheduler.config.get("thresholding", False)
