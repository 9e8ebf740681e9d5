"""What the measurements have in common: options, the model with its bridge, a progress bar."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_diffusion.errors import BridgeError

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge
    from bridge_diffusion.generation.loading import OpenedModel

Language = Annotated[str, typer.Option(help="Language of the native prompts.")]
Model = Annotated[
    str | None, typer.Option(help="A backbone of the emoji world [default: the shipped one].")
]
Native = Annotated[
    str | None, typer.Option(help="The bridge [default: the shipped one of the language].")
]
Control = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A bridge to compare with.")
]
Steps = Annotated[int, typer.Option(help="Denoising steps of a picture.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance scale.")]
Seed = Annotated[int, typer.Option(help="Seed of all noise.")]
Batch = Annotated[int, typer.Option(help="Pictures drawn at once.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda ...")]
Work = Annotated[
    Path, typer.Option(help="Folder that keeps all that was seen; the same command goes on.")
]
Out = Annotated[Path, typer.Option(help="A folder for results.md, the JSON and the pictures.")]


def open_with_bridge(model: str | None, bridge: str, device: str) -> "tuple[OpenedModel, Bridge]":
    """The model with the bridge attached, and the bridge. BridgeError if there is none."""
    from bridge_diffusion.generation.loading import open_model
    from bridge_diffusion.generation.request import GenerationRequest

    opened = open_model(GenerationRequest(prompt="-", model=model, bridge=bridge, device=device))
    if opened.bridge is None:
        raise BridgeError("--bridge none leaves nothing to measure; give a bridge")
    return opened, opened.bridge


def about_model(opened: "OpenedModel") -> dict[str, str]:
    return {
        "model": f"{opened.model_name} ({opened.model_hash})",
        "bridge": f"{opened.bridge_name} ({opened.bridge_hash})",
    }


def folders_by_name(given: list[str]) -> dict[str, str]:
    """NAME=FOLDER options => folders by name."""
    folders = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise BridgeError(f"--control is {text!r}; write NAME=FOLDER, such as english=runs/en")
        if name in folders:
            raise BridgeError(f"--control {name} is given twice; give each its own name")
        folders[name] = folder
    return folders


def load_controls(folders: "dict[str, str]", opened: "OpenedModel") -> "dict[str, Bridge]":
    """The bridges of `--control`, loaded as the model's own is."""
    from bridge_diffusion.bridge import Bridge

    return {
        name: Bridge.from_pretrained(folder, dtype=opened.pipe.unet.dtype).to(opened.device)
        for name, folder in folders.items()
    }


class ProgressBar:
    """A progress bar on the terminal; nothing where there is none."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("drawing", total=None)

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
