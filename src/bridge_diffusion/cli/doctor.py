"""`bdm doctor`: whether a model and a bridge work together on this machine."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from bridge_diffusion.generation.request import GenerationRequest


def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="The backbone, as for bdm generate [default: the emoji world]."),
    ] = None,
    bridge: Annotated[
        str | None, typer.Option(help="The bridge, as for bdm generate [default: zh].")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="The native text encoder, for a bridge saved without one.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "红包",
    steps: Annotated[int, typer.Option(help="Denoising steps of the picture.")] = 20,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda ...")] = "auto",
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="The number format.")
    ] = "auto",
    offload: Annotated[
        bool, typer.Option("--offload", help="Keep on the GPU only the part that is at work.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A folder to save the picture in.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a model and a bridge: files, family, text, a forward, memory, one picture.

    Each line passes or says what to do. The exit code is 1 if one does not pass.
    """
    request = GenerationRequest(
        prompt=prompt,
        model=model,
        bridge=bridge,
        text_encoder=text_encoder,
        steps=steps,
        seed=0,
        device=device,
        dtype=dtype,
        offload=offload,
    )
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.generation.acceptance import examine

    checks = []
    for check in examine(request, out):
        checks.append(check)
        if not as_json:
            mark = {"passed": "ok  ", "warning": "note", "failed": "FAIL", "skipped": "skip"}
            typer.echo(f"{mark[check.outcome]}  {check.name}: {check.message}")
    failed = any(check.outcome == "failed" for check in checks)
    if as_json:
        shown = {"passed": not failed, "checks": [dataclasses.asdict(check) for check in checks]}
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    if failed:
        raise typer.Exit(1)
