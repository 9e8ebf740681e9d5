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
_SHIPPED = "shipped with bdm"


def plugins(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME_OR_PATH]...",
            help="Names of plug-ins, weight files, or folders to look through; without any, what "
            "is shipped and what is in --plugins is listed.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--plugins", help="A folder of plug-ins, in which names are looked up first."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model; says how many keys would load where, or why none would."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List plug-ins, or show what they are: kind, family, layout, rank, trigger words, hash.

    No pickle is executed. A file named by itself that cannot be read is an error.
    """
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.generation.inspection import (
        empty_model,
        inspect,
        known_plugins,
        named_plugin,
        plugins_at,
    )

    named = [named_plugin(each, folder) for each in paths or ()]
    found = [(path, each) for path in named for each in plugins_at(path)]
    if not named:
        found = [(each.parent, each) for each in known_plugins(folder)]
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
        if named:
            _show(inspection)
        else:
            _show_line(inspection)


def _as_json(inspection: "Inspection") -> dict[str, Any]:
    identity, fit = inspection.identity, inspection.fit
    return {
        "name": inspection.name,
        "path": str(inspection.path),
        "from": _SHIPPED if inspection.is_shipped else str(inspection.path.parent),
        "bytes": inspection.bytes,
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


def _show_line(inspection: "Inspection") -> None:
    """Name, kind, family, size, where from: a line of the list."""
    if inspection.identity is None:
        facts = ["cannot be read"]
    else:
        facts = [inspection.identity.kind, _family(inspection) or "family not known"]
    where = _SHIPPED if inspection.is_shipped else str(inspection.path)
    typer.echo(f"{inspection.name}: {', '.join(facts)}, {_size(inspection)}, {where}")


def _family(inspection: "Inspection") -> str:
    if inspection.is_shipped:
        return "emoji world"
    return inspection.identity.family_name if inspection.identity else ""


def _size(inspection: "Inspection") -> str:
    return f"{inspection.bytes / 2**20:.2f} MiB"


def _show(inspection: "Inspection") -> None:
    identity, fit = inspection.identity, inspection.fit
    if identity is None:
        typer.echo(f"{inspection.path}: cannot be read\n  {' '.join(inspection.error.split())}")
        return
    family = f", {_family(inspection)}" if _family(inspection) else ""
    typer.echo(f"{inspection.path}: {identity.kind}{family}")
    details = dict(identity.details)
    notes = details.pop("metadata", {})
    title = next((notes[name] for name in _TITLES if notes.get(name)), None)
    facts = ({"title": title} if title else {}) | details
    hash_ = inspection.weights_sha256[:_HASH_DIGITS]
    show_details(facts | {"size": _size(inspection), "hash": hash_})
    if fit is not None:
        typer.echo(f"  {'loads' if fit.loads else 'does not load'}: {fit.message}")
