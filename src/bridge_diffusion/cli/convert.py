"""`bdm convert`: a bridge between this library's layout and the published one."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="The folder of a bridge, in either layout.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[
        Literal["bridge", "published"],
        typer.Option(help="Layout to write: this library's, or that of the paper's release."),
    ] = "bridge",
    text_encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="For --to bridge: the native text encoder, a folder or a hub name. Give it twice "
            "for SDXL's published branch, which reads two side by side, the larger one first."
        ),
    ] = None,
    dtype: Annotated[
        Literal["as-is", "fp32", "fp16", "bf16"], typer.Option(help="Number format to write.")
    ] = "as-is",
) -> None:
    """Write a bridge in another layout.

    The published layout has the branch alone: no text encoder, and no word on how text is encoded.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.conversion import convert_to_bridge, convert_to_published

    if to == "bridge":
        convert_to_bridge(source, target, text_encoder=_one_or_all(text_encoder), dtype=dtype)
    else:
        for note in convert_to_published(source, target, dtype=dtype):
            typer.echo(f"bdm: warning: {note}", err=True)
    typer.echo(target)


def _one_or_all(names: list[str] | None) -> str | list[str] | None:
    """A single folder may hold several models, or say how it encodes: it is no list of one."""
    return names[0] if names and len(names) == 1 else names or None
