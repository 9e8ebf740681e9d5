"""`bdm data`: look at captioned pictures, and encode them once for training."""

import json
from typing import Annotated

import typer

from bridge_diffusion.cli.options import Given, takes
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.data_request import InspectRequest, PrepareRequest

app = typer.Typer(
    help="Look at captioned pictures, filter them, and encode them once for training.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("inspect")
@takes(InspectRequest, argument="data", parsers={})
def inspect(
    given: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count what a data set holds, what is damaged, and what filters would drop.

    bdm data inspect photos --min-side 256 --spoken zh --near-duplicates 4 --out report
    """
    if "data" not in given:
        raise BridgeError("no data is named: bdm data inspect PATH")
    request = InspectRequest(**given)
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.training.inspecting import inspect_data

    result = inspect_data(request)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False, indent=2))
        return
    for line in result.lines():
        typer.echo(line)
    if request.out is not None:
        typer.echo(request.out / "report.html")


@app.command("prepare")
@takes(PrepareRequest, argument="data", parsers={})
def prepare(given: Given) -> None:
    """Filter data and encode it once, into shards that bdm train --data OUT reads.

    bdm data prepare photos --text-encoder CLIP --model MODEL --out prepared

    The same command goes on where it was interrupted. OUT/report.html shows what was dropped.
    """
    for name, example in (("data", "bdm data prepare PATH"), ("out", "--out prepared")):
        if name not in given:
            raise BridgeError(f"{name} is missing: {example}")
    request = PrepareRequest(**given)
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.training.preparing import prepare_data

    for line in prepare_data(request).lines():
        typer.echo(line)
    typer.echo(request.out)
