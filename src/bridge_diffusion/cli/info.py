"""`bdm info`: what a picture, a folder or a weight file is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge_diffusion.identify import Identity, identify


def info(
    path: Annotated[Path, typer.Argument(help="A picture, a folder or a weight file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a picture was made with, or what a model folder or weight file is.

    Nothing is loaded and no pickle is opened.
    """
    identity = identify(path)
    if identity.kind == "picture":
        _show_picture(path, as_json)
    elif as_json:
        typer.echo(json.dumps(_as_json(identity), ensure_ascii=False, indent=2))
    else:
        _show_identity(identity)


def _show_picture(path: Path, as_json: bool) -> None:
    from bridge_diffusion.images.infotext import parse_infotext
    from bridge_diffusion.images.metadata import read_metadata

    metadata = read_metadata(path)
    if as_json:
        parsed = parse_infotext(metadata.infotext) if metadata.infotext is not None else None
        shown = {
            "path": str(path),
            "kind": "picture",
            "infotext": metadata.infotext,
            "prompt": parsed and parsed.prompt,
            "negative_prompt": parsed and parsed.negative_prompt,
            "parameters": parsed and dict(parsed.parameters),
            "record": metadata.record,
        }
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    elif metadata.infotext is None:
        typer.echo(f"{path}: a picture that does not say how it was made")
    else:
        typer.echo(metadata.infotext)


def _as_json(identity: Identity) -> dict[str, Any]:
    return {
        "path": str(identity.path),
        "kind": identity.kind,
        "family": identity.family,
        "details": dict(identity.details),
    }


def _show_identity(identity: Identity) -> None:
    family = f", {identity.family_name}" if identity.family else ""
    typer.echo(f"{identity.path}: {identity.kind}{family}")
    show_details(identity.details)
    if identity.kind == "PyTorch pickle":
        typer.echo("  not opened: a pickle can run code")


def show_details(details: Mapping[str, Any]) -> None:
    """Facts by name, one a line; tables below their name."""
    for name, value in details.items():
        if isinstance(value, dict):
            typer.echo(f"  {name}:" + ("" if value else " none"))
            for key, part in value.items():
                typer.echo(f"    {key}: {part}")
        elif isinstance(value, list):
            typer.echo(f"  {name}: {', '.join(map(str, value))}")
        else:
            typer.echo(f"  {name}: {value}")
