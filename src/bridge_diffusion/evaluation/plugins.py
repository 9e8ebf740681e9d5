"""Measure plug-ins on the bridge and on what it is compared with, one system after the other."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.drawing import prepared
from bridge_diffusion.evaluation.evaluator import load_evaluator, load_style_evaluator
from bridge_diffusion.evaluation.plan import CONTROL, WorldOptions
from bridge_diffusion.evaluation.retention import Amount, Judges, Measurement
from bridge_diffusion.evaluation.systems import (
    UNTIL,
    AdapterSystem,
    BridgeSystem,
    EnglishSystem,
    NativeSystem,
    System,
    end_of,
)
from bridge_diffusion.worlds.emoji.baselines.adapter import AdaptedText
from bridge_diffusion.worlds.emoji.baselines.making import BASELINES
from bridge_diffusion.worlds.emoji.concepts import small_world
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, Plugin
from bridge_diffusion.worlds.emoji.sprites import Sprites

UNTRAINED = ("translation", "bridge")
"""The systems that need no baseline: all others are divided by the first."""


def systems_there(baselines: Path | None) -> list[str]:
    """Those that need no baseline, and those that `bdm world baseline --out` has exported."""
    exported = [name for name in BASELINES if baselines and (baselines / name / "export").is_dir()]
    return [*UNTRAINED, *exported]


def open_system(
    name: str,
    pipe: Any,
    bridge: Bridge,
    baselines: Path | None,
    controls: Mapping[str, Bridge] | None = None,
) -> System:
    """A system by its name, on the English model's pipeline or on a baseline's own.

    Args:
        name: one of `UNTRAINED`, "bridge:END" for a bridge that works until that part of the
            steps, or a baseline.
        controls: other bridges, each a system "control:NAME".

    Raises:
        BridgeError: there is no such system, or its baseline was not trained.
    """
    if name == "translation":
        return EnglishSystem(pipe)
    if name == "bridge":
        return BridgeSystem(pipe, bridge)
    if name.startswith(UNTIL):
        return BridgeSystem(pipe, bridge, name, end=end_of(name))
    if name.startswith(CONTROL) and controls and (own := controls.get(name[len(CONTROL) :])):
        return BridgeSystem(pipe, own, name)
    if name not in BASELINES:
        raise BridgeError(
            f"no system {name!r}; there are {', '.join((*UNTRAINED, UNTIL + 'END', *BASELINES))}"
        )
    if baselines is None or not (baselines / name / "export").is_dir():
        raise BridgeError(
            f"the baseline {name} is not in {baselines}; train it with: bdm world baseline {name}"
        )
    folder = baselines / name / "export"
    if name == "adapter":
        return AdapterSystem(pipe, AdaptedText.load(folder, pipe.device.type))
    trained = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    trained.to(pipe.device)
    return EnglishSystem(trained, name) if name == "translated" else NativeSystem(trained, name)


def shipped_measurement(
    pipe: Any,
    options: WorldOptions,
    amount: Amount,
    *,
    plugins: Path | None,
    styles: Path | None,
    folder: Path,
    chosen: Sequence[Plugin] = PLUGINS,
) -> Measurement:
    """The measurement of a language's small world, with the shipped evaluators and drawings.

    Args:
        pipe: the English model that the plug-ins were made from.
        plugins: where `bdm world plugin --out` made them; None: as the package ships them.
        styles: another style evaluator than the shipped one.
        folder: where all that is seen is kept.
        chosen: plug-ins that are drawn.

    Raises:
        BridgeError: an evaluator is missing or not readable.
    """
    return Measurement(
        concepts=small_world(options.language),
        options=options,
        amount=amount,
        judges=Judges(
            concepts=load_evaluator(),
            styles=load_style_evaluator(styles),
            drawings=Sprites.shipped("noto"),
        ),
        plugins=plugins,
        backbone=copy.deepcopy(pipe.unet),
        folder=folder,
        chosen=chosen,
    )


def evaluate_plugins(
    pipe: Any,
    bridge: Bridge,
    measurement: Measurement,
    names: Sequence[str],
    baselines: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    controls: Mapping[str, Bridge] | None = None,
) -> dict[str, Any]:
    """Draw what has not been drawn of the named systems; gives all that was ever seen.

    Args:
        pipe: the English model, a stock pipeline without a bridge on it.
        controls: other bridges for the same backbone and scheduler, see `open_system`.
        progress: called with the pictures of a system that are done, and their number in all.

    Raises:
        BridgeError: see `open_system` and `Measurement.run`.
    """
    document = measurement.document()
    for system in [open_system(name, pipe, bridge, baselines, controls) for name in names]:
        with prepared(system.pipe, bridge):
            document = measurement.run(system, progress)
    return document
