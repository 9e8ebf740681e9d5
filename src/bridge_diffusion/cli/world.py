"""`bdm world`: the emoji world's data, and what is in it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import seconds_in

if TYPE_CHECKING:
    from bridge_diffusion.worlds.emoji.concepts import Concept

app = typer.Typer(
    help="The emoji world: its data, its concepts, its training.", no_args_is_help=True
)


@app.command()
def data(
    out: Annotated[
        Path, typer.Option(help="Folder that is new, empty, or holds an earlier build.")
    ],
    vendors: Annotated[
        str, typer.Option(help="Whose drawings, with commas: noto, twemoji, noto_mono.")
    ] = "noto,twemoji",
    size: Annotated[int, typer.Option(help="Side of the pictures, pixels (16 to 1024).")] = 128,
    fluent: Annotated[
        Path | None,
        typer.Option(help="Unpacked npm package @iconify-json/fluent-emoji-flat: adds its set."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw all 852 emoji of each vendor, with a manifest, a contact sheet and the credits.

    Needs the drawing packages: pip install "bridge-diffusion[world]". Two builds are equal.
    """
    from rich.console import Console
    from rich.progress import Progress

    from bridge_diffusion.worlds.emoji.build import BuildOptions, build_world
    from bridge_diffusion.worlds.emoji.concepts import all_concepts

    names = tuple(name.strip() for name in vendors.split(",") if name.strip())
    options = BuildOptions(vendors=names, size=size, fluent=fluent)
    sets = len(names) + (fluent is not None)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("drawing", total=sets * len(all_concepts()))
        report = build_world(out, options, on_picture=lambda vendor: bar.advance(task))
    if as_json:
        shown = {
            "folder": str(report.folder),
            "pictures": report.pictures,
            "missing": {v: [c.codepoints for c in lack] for v, lack in report.missing.items()},
        }
        typer.echo(json.dumps(shown))
        return
    for vendor, count in report.pictures.items():
        typer.echo(f"{vendor}: {count} pictures")
    for vendor, lacking in report.missing.items():
        listed = ", ".join(concept.names["en"] for concept in lacking)
        typer.echo(f"{vendor} lacks {len(lacking)}: {listed}")
    typer.echo(f"{report.folder / 'manifest.json'}\n{report.folder / 'contact_sheet.png'}")


@app.command("list")
def list_concepts(
    language: Annotated[str, typer.Option(help="Language of the names.")] = "en",
    native: Annotated[
        str | None, typer.Option(help="Only those held out as native to this language.")
    ] = None,
    probes: Annotated[bool, typer.Option("--probes", help="Only the six literal probes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the concepts: emoji, code points, name, and the region of those held out."""
    from bridge_diffusion.worlds.emoji.concepts import all_concepts

    _check_language(language)
    if native is not None:
        _check_language(native)
    for concept in all_concepts():
        if (probes and not concept.literal_probe) or (native and not concept.native_to(native)):
            continue
        if as_json:
            typer.echo(_as_json(concept))
        else:
            parts = (concept.emoji, concept.codepoints, concept.names[language], concept.region)
            typer.echo("\t".join(part for part in parts if part))


@app.command()
def show(
    concept: Annotated[str, typer.Argument(help="An emoji, code points, or a name: 红包.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the world knows of one concept: names, synonyms, whether it is held out."""
    from bridge_diffusion.worlds.emoji.concepts import LANGUAGES, find_concept

    found = find_concept(concept)
    if as_json:
        typer.echo(_as_json(found))
        return
    typer.echo(f"{found.emoji}  {found.codepoints}  {found.subgroup}")
    for language in LANGUAGES:
        synonyms = ", ".join(found.synonyms[language])
        typer.echo(f"{language}  {found.names[language]}" + (f" ({synonyms})" if synonyms else ""))
    if found.held_out:
        typer.echo(f"held out from the English world: {found.region}")
    if found.literal_probe:
        typer.echo("literal probe: the English world knows each word of its name, not the thing")


@app.command()
def captions(
    out: Annotated[Path, typer.Option(help="The text file to write.")],
    language: Annotated[str, typer.Option(help="Language to learn: what follows the tab.")],
    teacher: Annotated[
        str, typer.Option(help="Language of the encoder that teaches: what precedes the tab.")
    ] = "en",
    native: Annotated[
        str | None,
        typer.Option(
            help="Whose held-out concepts are named, beside the shared ones; of several languages "
            "with commas between [default: --language]"
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of lines.")] = 30_000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other scenes.")] = 0,
) -> None:
    """Write captions in two languages side by side, for bdm train-text --parallel."""
    from bridge_diffusion.images.writing import write_file
    from bridge_diffusion.worlds.emoji.parallel import parallel_captions

    native_to = [tongue.strip() for tongue in (native or language).split(",")]
    for each in (language, teacher, *native_to):
        _check_language(each)
    pairs = parallel_captions(teacher, language, count, native_to=native_to, seed=seed)
    text = "".join(f"{first}\t{second}\n" for first, second in pairs)
    typer.echo(write_file(text.encode(), out))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the build; each stage has its own in it.")],
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which of autoencoder, clip, unet, text and branch, in this order; all of them "
            "if none is named, of a control the last two."
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Size of the world: debug, cpu or full.")] = "cpu",
    language: Annotated[str, typer.Option(help="Language of text encoder and branch.")] = "zh",
    control: Annotated[
        str | None,
        typer.Option(
            help="Train a control's text and branch on the same pictures: english (captions in "
            "English) or shuffled (captions of other pictures)."
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights that an earlier run exported, to start one English stage from."),
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and noise.")] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(help="Share this time among the stages; each saves and exports what it has."),
    ] = None,
) -> None:
    """Train the world: its English model, a native text encoder, the branch.

    Ctrl-C saves; the same command goes on.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.worlds.emoji.train.recipes import find_recipe
    from bridge_diffusion.worlds.emoji.train.whole import WHOLE, WholeBuild, find_control

    _check_language(language)
    build = WholeBuild(
        recipe=find_recipe(recipe),
        root=out,
        language=language,
        control=find_control(control),
        device=device,
        seed=seed,
        start=start,
        seconds=seconds_in(minutes),
    )
    usual = WHOLE if control is None else ("text", "branch")
    build.run(
        stages or usual, on_result=lambda stage, result: typer.echo(f"{stage}\t{result.export}")
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("demo"),
    steps: Annotated[int, typer.Option(help="Steps of the sampler.")] = 25,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of every picture.")] = 0,
) -> None:
    """Draw a fixed list of Chinese prompts, beside what the English model makes of them."""
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    import torch
    from diffusers import StableDiffusionPipeline

    from bridge_diffusion.bridge import Bridge
    from bridge_diffusion.worlds.emoji.demo import draw_demo
    from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder

    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder(), torch_dtype=torch.float32)
    bridge = Bridge.from_pretrained(bridge_folder(), dtype=torch.float32)
    grid = draw_demo(pipe, bridge, steps=steps, guidance=guidance, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "demo.png"
    grid.save(path)
    typer.echo(f"the demonstration is in {path.resolve()}")


def _check_language(language: str) -> None:
    from bridge_diffusion.worlds.emoji.concepts import LANGUAGES

    if language not in LANGUAGES:
        raise BridgeError(f"no language {language!r} here; there are {', '.join(LANGUAGES)}")


def _as_json(concept: "Concept") -> str:
    shown = {
        "emoji": concept.emoji,
        "codepoints": concept.codepoints,
        "subgroup": concept.subgroup,
        "held_out": concept.held_out,
        "native_region": concept.region,
        "literal_probe": concept.literal_probe,
        "names": concept.names,
        "synonyms": concept.synonyms,
    }
    return json.dumps(shown, ensure_ascii=False)
