"""`bdm world plugin` and what else is trained in the emoji world to measure a bridge by."""

from pathlib import Path
from typing import Annotated

import typer

from bridge_diffusion.training.config import seconds_in

Minutes = Annotated[float | None, typer.Option(help="Save and export what there is by then.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights, scenes and noise.")]


def plugin(
    name: Annotated[
        str,
        typer.Argument(help="checkpoint, lora, lora-ink, controlnet, inversion or dreambooth."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the plug-ins; each has its own in it.")],
    recipe: Annotated[str, typer.Option(help="How much is trained: debug or cpu.")] = "cpu",
    model: Annotated[
        Path | None, typer.Option(help="An English model of the world [default: the shipped one].")
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    minutes: Minutes = None,
    decoder_caption_dropout: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the scenes whose caption the UNet's decoder does not read: 0.7 as in "
            "the model's own training, 0 as in the community's scripts.",
        ),
    ] = 0.7,
) -> None:
    """Make a plug-in of the English community: English captions and stock tools alone.

    Ctrl-C saves; the same command goes on.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.worlds.emoji.plugins.making import PluginBuild
    from bridge_diffusion.worlds.emoji.plugins.recipes import find_recipe

    build = PluginBuild(
        recipe=find_recipe(recipe),
        root=out,
        model=model,
        device=device,
        seed=seed,
        decoder_caption_dropout=decoder_caption_dropout,
    )
    typer.echo(build.make(name, seconds_in(minutes)).export)


def style_evaluator(
    out: Annotated[Path, typer.Option(help="Folder of the run; it exports into `export` there.")],
    images: Annotated[int, typer.Option(min=1, help="Renderings to train on.")] = 250_000,
    device: Device = "cpu",
    seed: Seed = 0,
    minutes: Minutes = None,
) -> None:
    """Train the classifier that tells in which style a picture is drawn.

    On renderings of vendors' drawings alone, never on generated pictures. Needs the drawing
    packages: pip install "bridge-diffusion[world]". Ctrl-C saves; the same command goes on.
    """
    from bridge_diffusion.worlds.emoji.train.style_evaluator import train_style_evaluator

    result = train_style_evaluator(
        out, images=images, device=device, seed=seed, time_limit=seconds_in(minutes)
    )
    typer.echo(result.export)


def baseline(
    name: Annotated[str, typer.Argument(help="translated, native, scratch or adapter.")],
    out: Annotated[Path, typer.Option(help="Folder of the baselines; each has its own in it.")],
    recipe: Annotated[
        str, typer.Option(help="As long as the branch of this recipe: debug or cpu.")
    ] = "cpu",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Length in images, as `bdm train --images` [default: recipe's]."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of scenes, as `bdm train --limit` [default: recipe's]."),
    ] = None,
    language: Annotated[str, typer.Option(help="The native language.")] = "zh",
    model: Annotated[
        Path | None, typer.Option(help="An English model of the world [default: the shipped one].")
    ] = None,
    bridge: Annotated[
        Path | None,
        typer.Option(help="The bridge whose text encoder is read [default: the shipped one]."),
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    minutes: Minutes = None,
) -> None:
    """Train what a bridge is compared with, on the same pictures for as long.

    Ctrl-C saves; the same command goes on.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.worlds.emoji.baselines.making import BaselineBuild

    build = BaselineBuild(
        recipe=recipe,
        root=out,
        images=images,
        limit=limit,
        language=language,
        model=model,
        bridge=bridge,
        device=device,
        seed=seed,
    )
    typer.echo(build.make(name, seconds_in(minutes)).export)
