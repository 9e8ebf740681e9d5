"""Samplers by short name: diffusers' scheduler, its settings, and its name in an infotext."""

from dataclasses import dataclass, field
from typing import Any, get_args

from bridge_diffusion.generation.request import SchedulerName


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sampler:
    scheduler: str
    """Class of diffusers."""
    infotext: str
    """AUTOMATIC1111's name for it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What is set beside the model's own scheduler configuration."""


# A model's saved configuration may carry settings of another solver; each entry states its own.
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}
_SAMPLERS: dict[str, _Sampler] = {
    "dpm++": _Sampler(scheduler="DPMSolverMultistepScheduler", infotext="DPM++ 2M", settings=_DPM),
    "dpm++-karras": _Sampler(
        scheduler="DPMSolverMultistepScheduler",
        infotext="DPM++ 2M Karras",
        settings=_DPM | {"use_karras_sigmas": True},
    ),
    # DDIM's own defaults are those of models of pixels: latents go beyond -1..1.
    "ddim": _Sampler(
        scheduler="DDIMScheduler",
        infotext="DDIM",
        settings={"clip_sample": False, "set_alpha_to_one": False},
    ),
    "euler": _Sampler(scheduler="EulerDiscreteScheduler", infotext="Euler"),
    "euler-a": _Sampler(scheduler="EulerAncestralDiscreteScheduler", infotext="Euler a"),
    "heun": _Sampler(scheduler="HeunDiscreteScheduler", infotext="Heun"),
    "pndm": _Sampler(scheduler="PNDMScheduler", infotext="PLMS", settings={"skip_prk_steps": True}),
    "unipc": _Sampler(scheduler="UniPCMultistepScheduler", infotext="UniPC"),
    "lcm": _Sampler(scheduler="LCMScheduler", infotext="LCM"),
}

SCHEDULERS: tuple[SchedulerName, ...] = get_args(SchedulerName)
"""All short names, the default first."""


def make_scheduler(name: SchedulerName, config: Any) -> Any:
    """A fresh scheduler over a model's own noise schedule.

    Args:
        config: The configuration of the model's scheduler; it gives betas and prediction type.
    """
    import diffusers

    sampler = _SAMPLERS[name]
    return getattr(diffusers, sampler.scheduler).from_config(config, **sampler.settings)


def infotext_name(name: SchedulerName) -> str:
    """AUTOMATIC1111's name of a sampler."""
    return _SAMPLERS[name].infotext


def name_from_infotext(infotext: str) -> SchedulerName | None:
    """Our name of a sampler that an infotext names; None where there is none like it."""
    for name, sampler in _SAMPLERS.items():
        if sampler.infotext == infotext:
            return name  # type: ignore[return-value]
    return None
