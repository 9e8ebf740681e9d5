"""`bdm evaluate world`: the scored scenes, recognised or not."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    about_model,
    folders_by_name,
    load_controls,
    open_with_bridge,
)
from bridge_diffusion.training.config import seconds_in

if TYPE_CHECKING:
    from bridge_diffusion.evaluation.world import WorldResult


class World(StrEnum):
    """Which concepts are scored."""

    small = "small"
    all = "all"


def world(
    language: Language = "zh",
    model: Model = None,
    bridge: Native = None,
    concepts: Annotated[
        World, typer.Option(help="Concepts to score: those of the small world, or all.")
    ] = World.small,
    control: Control = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw this condition alone: bridge, as_is, translation, unseen_order, synonym, "
            "mixed or pair; may be repeated [default: all, and the controls]."
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Pictures of each concept and condition.")] = 1,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    seed: Seed = 0,
    batch: Batch = 16,
    minutes: Annotated[float | None, typer.Option(help="End the drawing after this long.")] = None,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Draw the emoji world's scored scenes in every condition and count what is recognised.

    Conditions: the native prompt through the bridge; the same to the English model as it is; its
    translation; an unseen word order, unseen synonyms, two languages in one prompt, two objects.
    """
    folders = folders_by_name(control or [])
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.evaluation.page import check_folder
    from bridge_diffusion.evaluation.plan import WorldOptions
    from bridge_diffusion.evaluation.report import write_report
    from bridge_diffusion.evaluation.world import evaluate_world
    from bridge_diffusion.worlds.emoji.concepts import all_concepts, small_world
    from bridge_diffusion.worlds.emoji.sprites import Sprites

    options = WorldOptions(
        language=language,
        conditions=tuple(condition or ()),
        images=images,
        steps=steps,
        guidance=guidance,
        seed=seed,
        batch_size=batch,
        time_limit=seconds_in(minutes),
    )
    check_folder(out)
    opened, own = open_with_bridge(model, bridge or language, device)
    others = load_controls(folders, opened)
    with ProgressBar() as bar:
        result = evaluate_world(
            opened.pipe,
            own,
            options,
            concepts=all_concepts() if concepts is World.all else small_world(language),
            controls=others,
            drawings=Sprites.shipped("noto"),
            progress=bar.show,
        )
    about = about_model(opened)
    written = write_report(result, out, about)
    if as_json:
        scores = [score.to_json() for score in result.scores]
        typer.echo(json.dumps({"about": about, "scores": scores}, ensure_ascii=False, indent=2))
    else:
        _print_scores(result)
        typer.echo(written[-1])


def _print_scores(result: "WorldResult") -> None:
    """A table with a row for each condition and group."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("condition", "concepts"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pictures", "top-1 %", "95 %", "top-5 %", "background %"):
        table.add_column(heading, justify="right")
    for score in result.scores:
        low, high = score.top1.interval
        table.add_row(
            score.condition,
            score.group,
            str(score.top1.count),
            f"{100 * score.top1.share:.1f}",
            f"{100 * low:.0f}-{100 * high:.0f}",
            f"{100 * score.top5.share:.1f}",
            f"{100 * score.background.share:.1f}",
        )
    Console().print(table)
