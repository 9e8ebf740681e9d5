"""The `bdm` command: its sub-commands, and how a mistake is told."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from bridge_diffusion import __version__
from bridge_diffusion.cli import (
    convert,
    data,
    doctor,
    evaluate,
    generate,
    info,
    plugins,
    report,
    serve,
    train,
    train_text,
    world,
    world_training,
)
from bridge_diffusion.cli.launch import error_prefix
from bridge_diffusion.errors import BridgeError

app = typer.Typer(
    name="bdm",
    help="Draw with Stable Diffusion from a prompt in your own language.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bdm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if debug:
        os.environ["BDM_DEBUG"] = "1"


app.command("generate")(generate.generate)
app.command("serve")(serve.serve)
app.command("train")(train.train)
app.command("train-text")(train_text.train_text)
app.command("report")(report.report)
app.command("info")(info.info)
app.command("plugins")(plugins.plugins)
app.command("doctor")(doctor.doctor)
app.command("convert")(convert.convert)
world.app.command("plugin")(world_training.plugin)
world.app.command("baseline")(world_training.baseline)
world.app.command("style-evaluator")(world_training.style_evaluator)
app.add_typer(data.app, name="data")
app.add_typer(world.app, name="world")
app.add_typer(evaluate.app, name="evaluate")


_INTERRUPTED = 130  # how typer ends at Ctrl-C


def main() -> NoReturn:
    """Run `bdm`; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except BridgeError as error:
        if os.environ.get("BDM_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"{error_prefix()} {message}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            print("bdm: interrupted", file=sys.stderr)
        raise
    sys.exit(0)
