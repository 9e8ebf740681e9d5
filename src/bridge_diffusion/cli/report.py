"""`bdm report`: one page about a training run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", show_default=False)],
) -> None:
    """Write RUN/report.html: curves, samples over time, skipped pictures, settings, in one file.

    A run writes it at its end by itself; this makes it anew, also while the run goes on.
    """
    from bridge_diffusion.training.report import write_report

    typer.echo(write_report(run))
