"""Pictures that training could not read, told at its end."""

from collections.abc import Mapping

import typer

_NAMED = 20  # that are listed one by one


def tell_skipped(skipped: Mapping[str, str]) -> None:
    """Count and name them on standard error; `skipped` says why, by name."""
    if not skipped:
        return
    typer.echo(f"bdm: {len(skipped)} pairs could not be used and were skipped:", err=True)
    for name, reason in list(skipped.items())[:_NAMED]:
        typer.echo(f"  {name} ({reason})", err=True)
    if len(skipped) > _NAMED:
        typer.echo(f"  and {len(skipped) - _NAMED} more", err=True)
