"""`bdm train`: train a bridge's branch on captioned pictures."""

import dataclasses
import json
from typing import Annotated

import typer

from bridge_diffusion.cli.launch import speaks
from bridge_diffusion.cli.options import Given, takes
from bridge_diffusion.cli.skipped import tell_skipped
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.request import TrainRequest


@takes(TrainRequest, argument="", parsers={})
def train(
    given: Given,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole recipe as JSON and stop.")
    ] = False,
) -> None:
    """Train a bridge on pictures with captions in your own language.

    Ctrl-C saves; the same command goes on. The bridge is in OUT/export, pictures of it are in
    OUT/samples, curves and all else that there is to see in OUT/report.html. For several
    processes start it with torchrun or accelerate launch, as docs/distributed.md tells.
    """
    for name, example in (("data", "a folder of pictures and .txt files"), ("out", "runs/zh")):
        if name not in given:
            raise BridgeError(f"--{name} is missing; give {example}")
    request = TrainRequest(**given)
    if dry_run:
        recipe = dataclasses.asdict(request.resolved())
        typer.echo(json.dumps({"recipe": request.recipe, **recipe}, indent=2))
        return

    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.training.branch_run import train_branch

    run = train_branch(request)
    if speaks():
        tell_skipped(run.skipped)
        typer.echo(run.result.export)
