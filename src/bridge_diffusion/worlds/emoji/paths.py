"""Where the embedded world's weights are: package data, so an installed wheel has them too."""

from pathlib import Path

from bridge_diffusion.errors import BridgeError

_WEIGHTS = Path(__file__).parent / "weights"


def backbone_folder() -> Path:
    """The English world, a folder that stock `StableDiffusionPipeline.from_pretrained` loads."""
    return _existing(_WEIGHTS / "backbone")


def bridge_folder(language: str = "zh") -> Path:
    """The bridge of a language. BridgeError if none is shipped."""
    return _existing(_WEIGHTS / "bridges" / language)


def evaluator_folder() -> Path:
    """The independent image-text model that scores pictures."""
    return _existing(_WEIGHTS / "evaluator")


def style_evaluator_folder() -> Path:
    """The independent model that tells in which style a picture is drawn."""
    return _existing(_WEIGHTS / "style_evaluator")


def plugins_folder() -> Path:
    """The small plug-ins of the English world's community: LoRAs and a Textual Inversion."""
    return _WEIGHTS / "plugins"


def shipped_languages() -> tuple[str, ...]:
    """Languages with a bridge in the package."""
    return tuple(sorted(path.name for path in (_WEIGHTS / "bridges").glob("*") if path.is_dir()))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise BridgeError(
            f"the package ships no {folder.relative_to(_WEIGHTS)} of the emoji world; bridges "
            f"are shipped for: {', '.join(shipped_languages()) or 'no language'}"
        )
    return folder
