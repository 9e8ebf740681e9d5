"""`bdm plugins`: what LoRAs, embeddings, ControlNets and other plug-ins are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge_diffusion.cli.info import show_details
from bridge_diffusion.errors import BridgeError

if TYPE_CHECKING:
    from bridge_diffusion.generation.inspection import Inspection

_TITLES = ("modelspec.title", "ss_output_name")
_HASH_DIGITS = 12  # as the community's sites show it


def plugins(
    paths: Annotated[list[Path], typer.Argument(help="Weight files, or folders to look through.")],
    model: Annotated[
        str | None,
        typer.Option(help="A model; says how many keys would load where, or why none would."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what plug-ins are: kind, family, layout, rank, the words that call them, hash.

    No pickle is executed. A file named by itself that cannot be read is an error.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.generation.inspection import empty_model, inspect, plugins_at

    found = [(path, each) for path in paths for each in plugins_at(path)]
    empty = None if model is None else empty_model(model)
    inspections = []
    for path, each in found:
        inspection = inspect(each, empty)
        if inspection.error and each == path:
            raise BridgeError(inspection.error)
        inspections.append(inspection)
    if as_json:
        shown = [_as_json(inspection) for inspection in inspections]
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    for inspection in inspections:
        _show(inspection)


def _as_json(inspection: "Inspection") -> dict[str, Any]:
    identity, fit = inspection.identity, inspection.fit
    return {
        "path": str(inspection.path),
        "kind": identity and identity.kind,
        "family": identity and identity.family,
        "details": dict(identity.details) if identity else {},
        "hash": inspection.weights_sha256[:_HASH_DIGITS],
        "error": inspection.error or None,
        "loads": fit
        and {
            "fits": fit.loads,
            "message": fit.message,
            "parts": {part: {"matched": m, "of": of} for part, (m, of) in fit.parts.items()},
        },
    }


def _show(inspection: "Inspection") -> None:
    identity, fit = inspection.identity, inspection.fit
    if identity is None:
        typer.echo(f"{inspection.path}: cannot be read\n  {' '.join(inspection.error.split())}")
        return
    family = f", {identity.family_name}" if identity.family else ""
    typer.echo(f"{inspection.path}: {identity.kind}{family}")
    details = dict(identity.details)
    notes = details.pop("metadata", {})
    title = next((notes[name] for name in _TITLES if notes.get(name)), None)
    facts = ({"title": title} if title else {}) | details
    show_details(facts | {"hash": inspection.weights_sha256[:_HASH_DIGITS]})
    if fit is not None:
        typer.echo(f"  {'loads' if fit.loads else 'does not load'}: {fit.message}")
