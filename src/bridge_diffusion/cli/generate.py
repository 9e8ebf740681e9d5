"""`bdm generate`: pictures from a prompt."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge_diffusion.cli.options import Given, takes
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import GenerationRequest, parse_size

if TYPE_CHECKING:
    from bridge_diffusion.generation.drawing import Drawing

DEFAULT_FOLDER = Path("pictures")
# Names that no one gives to a folder.
_OTHER_FORMATS = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl", ".heic")


@takes(GenerationRequest, argument="prompt", parsers={"size": ("WxH", parse_size)})
def generate(
    given: Given,
    out: Annotated[
        Path,
        typer.Option(help="A folder, where names count up, or one .png, .jpg or .webp file."),
    ] = DEFAULT_FOLDER,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Draw a picture of bdm again; other options change it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw pictures from a prompt in your own language.

    The picture's path goes to standard output. Each file says how it was made: see bdm info.
    """
    request = _request(given, source)
    _check_out(out, request.n)
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.generation.drawing import draw
    from bridge_diffusion.generation.loading import open_model
    from bridge_diffusion.generation.record import check_same_sources

    opened = open_model(request)
    if source is not None:
        check_same_sources(source, opened, request, given)
    opened.pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    for drawing in draw(opened, request):
        path = _save(drawing, out, request.without_tags().prompt)
        if drawing.blacked_out:
            typer.echo(
                f"bdm: {path} was blacked out by the model's safety checker "
                "(--no-safety-checker leaves it out)",
                err=True,
            )
        typer.echo(json.dumps(_as_json(path, drawing), ensure_ascii=False) if as_json else path)


def _request(given: Given, source: Path | None) -> GenerationRequest:
    """What the user asks for, over what a picture says if one is given."""
    if source is not None:
        from bridge_diffusion.generation.record import recorded_request

        return dataclasses.replace(recorded_request(source), **given)
    if "prompt" not in given:
        raise BridgeError("there is no prompt; write what to draw, for example: bdm generate 红包")
    return GenerationRequest(**given)


def _check_out(out: Path, n: int) -> None:
    from bridge_diffusion.images.metadata import FORMATS

    suffix = out.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise BridgeError(f"--out {out} is of no kind that can be written: {', '.join(FORMATS)}")
    if suffix in FORMATS and n > 1:
        raise BridgeError(f"--out {out} is one file, but --n asks for {n}; give a folder")


def _save(drawing: "Drawing", out: Path, prompt: str) -> Path:
    from bridge_diffusion.images.metadata import FORMATS, encode_image
    from bridge_diffusion.images.writing import file_stem, write_file, write_numbered

    suffix = out.suffix.lower()
    if suffix in FORMATS:
        return write_file(encode_image(drawing.image, suffix, drawing.metadata), out)
    data = encode_image(drawing.image, ".png", drawing.metadata)
    return write_numbered(data, out, file_stem(prompt), ".png")


def _as_json(path: Path, drawing: "Drawing") -> dict[str, Any]:
    """One line of JSON a picture, so that a long order can be read as it goes."""
    return {
        "path": str(path),
        "seed": drawing.seed,
        "width": drawing.image.width,
        "height": drawing.image.height,
        "blacked_out": drawing.blacked_out,
        "record": drawing.metadata.record,
    }
