"""`bdm evaluate plugins`: what English plug-ins keep."""

from pathlib import Path
from typing import Annotated

import typer

from bridge_diffusion.cli.evaluate.options import (
    Batch,
    Control,
    Device,
    Guidance,
    Language,
    Model,
    Native,
    Out,
    ProgressBar,
    Seed,
    Steps,
    Work,
    about_model,
    folders_by_name,
    load_controls,
    open_with_bridge,
)
from bridge_diffusion.training.config import seconds_in


def plugins(
    plugins: Annotated[
        Path | None,
        typer.Option(help="Where bdm world plugin --out made them [default: the shipped three]."),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="What to measure of them; may be repeated [default: all]."),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure: translation, bridge, bridge:END (at work until that part of "
            "the steps), translated, native, scratch, adapter, control:NAME [default: all that "
            "are there, the bridge at all steps]."
        ),
    ] = None,
    baselines: Annotated[
        Path | None, typer.Option(help="Where bdm world baseline --out trained the baselines.")
    ] = None,
    control: Control = None,
    language: Language = "zh",
    model: Model = None,
    bridge: Native = None,
    styles: Annotated[
        Path | None, typer.Option(help="A style evaluator [default: the shipped one].")
    ] = None,
    concepts: Annotated[
        int | None, typer.Option(min=1, help="Concepts of each group [default: all].")
    ] = None,
    things: Annotated[
        int, typer.Option(min=1, help="Pictures of each thing that a plug-in adds.")
    ] = 96,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    seed: Seed = 0,
    batch: Batch = 16,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no new series of a system after this long.")
    ] = None,
    device: Device = "auto",
    work: Work = Path("runs/retention"),
    out: Out = Path("results"),
) -> None:
    """Measure what English plug-ins keep of their effect under a native prompt.

    Of each plug-in: its effect under the native prompt, by that of the same prompt in English on
    the English model alone; and how well native prompts are drawn while it is on.
    """
    folders = folders_by_name(control or [])
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.evaluation.page import check_folder
    from bridge_diffusion.evaluation.plan import CONTROL, WorldOptions
    from bridge_diffusion.evaluation.plugins import (
        evaluate_plugins,
        shipped_measurement,
        systems_there,
    )
    from bridge_diffusion.evaluation.retention import Amount
    from bridge_diffusion.evaluation.retention_report import write_retention
    from bridge_diffusion.worlds.emoji.plugins.kinds import (
        PLUGINS,
        SHIPPED_PLUGINS,
        find_plugin,
    )

    there = SHIPPED_PLUGINS if plugins is None else PLUGINS
    chosen = tuple(find_plugin(name) for name in plugin) if plugin else there
    options = WorldOptions(
        language=language,
        steps=steps,
        guidance=guidance,
        seed=seed,
        batch_size=batch,
        time_limit=seconds_in(minutes),
    )
    check_folder(out)
    opened, own = open_with_bridge(model, bridge or language, device)
    measurement = shipped_measurement(
        opened.pipe,
        options,
        Amount(concepts=concepts, things=things),
        plugins=plugins,
        styles=styles,
        folder=work,
        chosen=chosen,
    )
    own.detach()
    others = load_controls(folders, opened)
    names = system or [*systems_there(baselines), *(CONTROL + name for name in others)]
    with ProgressBar() as bar:
        document = evaluate_plugins(
            opened.pipe, own, measurement, names, baselines, bar.show, others
        )
    typer.echo(write_retention(document, work, out, about_model(opened))[-1])
