"""`bdm evaluate`: measurements, with the numbers' intervals and the pictures."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import seconds_in

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge
    from bridge_diffusion.evaluation.world import WorldResult
    from bridge_diffusion.generation.loading import OpenedModel

app = typer.Typer(name="evaluate", help="Measure a bridge on scored prompts.", no_args_is_help=True)


# The options that several measurements have.
Language = Annotated[str, typer.Option(help="Language of the native prompts.")]
Model = Annotated[
    str | None, typer.Option(help="A backbone of the emoji world [default: the shipped one].")
]
Native = Annotated[
    str | None, typer.Option(help="The bridge [default: the shipped one of the language].")
]
Control = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A bridge to compare with.")
]
Steps = Annotated[int, typer.Option(help="Denoising steps of a picture.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance scale.")]
Seed = Annotated[int, typer.Option(help="Seed of all noise.")]
Batch = Annotated[int, typer.Option(help="Pictures drawn at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda ...")]
Work = Annotated[
    Path, typer.Option(help="Folder that keeps all that was seen; the same command goes on.")
]
Out = Annotated[Path, typer.Option(help="A folder for results.md, the JSON and the pictures.")]


class World(StrEnum):
    """Which concepts are scored."""

    small = "small"
    all = "all"


@app.command("world")
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
    folders = _controls(control or [])
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
    opened, own = _opened(model, bridge or language, device)
    others = _other_bridges(folders, opened)
    with _Bar() as bar:
        result = evaluate_world(
            opened.pipe,
            own,
            options,
            concepts=all_concepts() if concepts is World.all else small_world(language),
            controls=others,
            drawings=Sprites.shipped("noto"),
            progress=bar.show,
        )
    about = _about(opened)
    written = write_report(result, out, about)
    if as_json:
        scores = [score.to_json() for score in result.scores]
        typer.echo(json.dumps({"about": about, "scores": scores}, ensure_ascii=False, indent=2))
    else:
        _print_scores(result)
        typer.echo(written[-1])


@app.command("plugins")
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
    folders = _controls(control or [])
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
    opened, own = _opened(model, bridge or language, device)
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
    others = _other_bridges(folders, opened)
    names = system or [*systems_there(baselines), *(CONTROL + name for name in others)]
    with _Bar() as bar:
        document = evaluate_plugins(
            opened.pipe, own, measurement, names, baselines, bar.show, others
        )
    typer.echo(write_retention(document, work, out, _about(opened))[-1])


@app.command("two-languages")
def two_languages(
    language: Language = "zh",
    second: Annotated[
        str, typer.Option(help="Language of the other half: en, or one that its own bridge reads.")
    ] = "en",
    model: Model = None,
    bridge: Native = None,
    second_bridge: Annotated[
        str | None, typer.Option(help="Its bridge [default: the shipped one of the language].")
    ] = None,
    pairs: Annotated[int, typer.Option(min=3, help="Prompt pairs, a third of each kind.")] = 540,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    seed: Seed = 0,
    batch: Batch = 16,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no new part (alone, or a scale) after this long.")
    ] = None,
    device: Device = "auto",
    work: Work = Path("runs/two-languages"),
    out: Out = Path("results"),
) -> None:
    """Measure images whose subject is said in the native language and the rest in English.

    The rest is a background, a place, or a second object; both at several scales of the branch.
    With --second the rest is said in another native language, by its bridge, attached beside.
    """
    if second == "en" and second_bridge is not None:
        raise BridgeError("--second-bridge is for another language than English: give --second")
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.evaluation.evaluator import load_evaluator
    from bridge_diffusion.evaluation.page import check_folder
    from bridge_diffusion.evaluation.plan import WorldOptions
    from bridge_diffusion.evaluation.two_languages import (
        SCALES,
        SCALES_OF_TWO,
        TwoLanguages,
        prompt_pairs,
    )
    from bridge_diffusion.evaluation.two_languages_report import write_two_languages
    from bridge_diffusion.worlds.emoji.concepts import small_world

    options = WorldOptions(
        language=language,
        steps=steps,
        guidance=guidance,
        seed=seed,
        batch_size=batch,
        time_limit=seconds_in(minutes),
    )
    check_folder(out)
    opened, own = _opened(model, bridge or language, device)
    own.detach()
    about, other = _about(opened), None
    if second != "en":
        source, other = _another_bridge(second_bridge or second, opened)
        about["second bridge"] = source
    measurement = TwoLanguages(
        pairs=prompt_pairs(small_world(language), options, pairs, second),
        options=options,
        scales=SCALES if other is None else SCALES_OF_TWO,
        evaluator=load_evaluator(),
        folder=work,
        second=second,
    )
    with _Bar() as bar:
        document = measurement.run(opened.pipe, own, bar.show, other)
    typer.echo(write_two_languages(document, work, out, about)[-1])


def _opened(model: str | None, bridge: str, device: str) -> "tuple[OpenedModel, Bridge]":
    """The model with the bridge attached, and the bridge. BridgeError if there is none."""
    from bridge_diffusion.generation.loading import open_model
    from bridge_diffusion.generation.request import GenerationRequest

    opened = open_model(GenerationRequest(prompt="-", model=model, bridge=bridge, device=device))
    if opened.bridge is None:
        raise BridgeError("--bridge none leaves nothing to measure; give a bridge")
    return opened, opened.bridge


def _about(opened: "OpenedModel") -> dict[str, str]:
    return {
        "model": f"{opened.model_name} ({opened.model_hash})",
        "bridge": f"{opened.bridge_name} ({opened.bridge_hash})",
    }


def _controls(given: list[str]) -> dict[str, str]:
    """NAME=FOLDER options => folders by name."""
    folders = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise BridgeError(f"--control is {text!r}; write NAME=FOLDER, such as english=runs/en")
        if name in folders:
            raise BridgeError(f"--control {name} is given twice; give each its own name")
        folders[name] = folder
    return folders


def _other_bridges(folders: "dict[str, str]", opened: "OpenedModel") -> "dict[str, Bridge]":
    """The bridges of `--control`, loaded as the model's own is."""
    from bridge_diffusion.bridge import Bridge

    return {
        name: Bridge.from_pretrained(folder, dtype=opened.pipe.unet.dtype).to(opened.device)
        for name, folder in folders.items()
    }


def _another_bridge(name: str, opened: "OpenedModel") -> "tuple[str, Bridge]":
    """What to call a further bridge, and the bridge, loaded as the model's own is."""
    from bridge_diffusion.generation.loading import load_bridge
    from bridge_diffusion.generation.sources import display_name, locate_bridge, weights_hash

    source = locate_bridge(name)
    if source is None:
        raise BridgeError(f"--second-bridge {name} is no bridge; give one")
    bridge = load_bridge(source, None, opened.pipe.unet.dtype).to(opened.device)
    return f"{display_name(source, name)} ({weights_hash(source, ('branch',))})", bridge


class _Bar:
    """A progress bar on the terminal; nothing where there is none."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("drawing", total=None)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


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
