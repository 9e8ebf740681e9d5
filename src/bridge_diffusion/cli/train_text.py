"""`bdm train-text`: train or adapt a native text encoder for any language."""

import dataclasses
import json
from typing import Annotated

import typer

from bridge_diffusion.cli.launch import speaks
from bridge_diffusion.cli.options import Given, takes
from bridge_diffusion.cli.skipped import tell_skipped
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.text_request import TextTrainRequest


@takes(TextTrainRequest, argument="", parsers={})
def train_text(
    given: Given,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print all settings as JSON and stop.")
    ] = False,
) -> None:
    """Train a text encoder for your own language, or adapt one.

    From pictures: bdm train-text --data PAIRS --image-tower CLIP --out runs/text. From
    translations: bdm train-text --parallel FILE --teacher CLIP --out runs/text.

    Ctrl-C saves; the same command goes on. The text encoder is in OUT/export, for bdm train
    --text-encoder; curves are in OUT/tensorboard.
    """
    if "out" not in given:
        raise BridgeError("--out is missing; give a folder for the run, such as runs/text")
    request = TextTrainRequest(**given)
    if dry_run:
        settings = dataclasses.asdict(request)
        settings |= {"lr": request.learning_rate, "batch_size": request.largest_batch}
        typer.echo(json.dumps(settings, indent=2, default=str, ensure_ascii=False))
        return

    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.training.text_run import train_text_encoder

    run = train_text_encoder(request)
    if not speaks():
        return
    tell_skipped(run.skipped)
    if run.retrieval is not None:
        typer.echo(
            "bdm: of {pairs:,} captions that were never trained on, {top1:.1%} find their own "
            "counterpart first, {top5:.1%} among the first five".format(**run.retrieval),
            err=True,
        )
    typer.echo(run.result.export)
