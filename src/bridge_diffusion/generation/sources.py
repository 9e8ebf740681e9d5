"""Where the model and the bridge of a request are, and what they are, before any is loaded."""

import hashlib
import re
from pathlib import Path

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import NO_BRIDGE
from bridge_diffusion.identify import Identity, identify
from bridge_diffusion.reading import read_json
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder, shipped_languages

SD15_CONFIG = Path(__file__).with_name("sd15")
"""The configurations of Stable Diffusion 1.5's parts, which a single file lacks."""
WANTED_MODEL = "give a Stable Diffusion 1.5 or SDXL pipeline folder, single file or hub name"
# "owner/name", as on the model hub; whatever begins with "." or "/" is a path.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WORLD_LANGUAGE = "zh"
_WORLD_NAME = "emoji world"


def locate_model(name: str | None) -> Identity | None:
    """What a local model is; None for a hub name.

    Raises:
        BridgeError: There is nothing, or something that is no whole model.
    """
    if name is None:
        return identify(backbone_folder())
    path = Path(name).expanduser()
    if not path.exists() and is_hub_name(name):
        return None
    identity = identify(path)
    if identity.kind == "PyTorch pickle" and path.suffix == ".ckpt":
        return identity
    if identity.kind not in ("pipeline", "Stable Diffusion checkpoint"):
        raise BridgeError(f"--model {name} is a {identity.kind}, not a whole model; {WANTED_MODEL}")
    if identity.family is None:
        raise BridgeError(
            f"--model {name} is of a family that bridges do not know "
            f"({identity.details.get('class', 'unnamed')}); {WANTED_MODEL}"
        )
    return identity


def native_size(model: Identity) -> tuple[int, int]:
    """Width and height in pixels that a local model was trained at: what it draws where no size is
    given. Told from its configurations, as stock pipelines do: the UNet's sample size times the
    factor of the autoencoder, which halves the sides between its levels.

    Raises:
        BridgeError: A configuration is missing or damaged.
    """
    folder = model.path if model.path.is_dir() else SD15_CONFIG
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    sample = unet.get("sample_size")
    height, width = sample if isinstance(sample, list) and len(sample) == 2 else (sample, sample)
    # AutoencoderTiny's published configurations know its decoder's levels alone.
    levels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels")
    if not (isinstance(width, int) and isinstance(height, int) and isinstance(levels, list)):
        raise BridgeError(
            f"{folder} does not say at what size it draws (sample_size of its unet, "
            "block_out_channels of its vae); get the folder again"
        )
    factor = 2 ** (len(levels) - 1)
    return width * factor, height * factor


def locate_bridge(name: str | None) -> Identity | str | None:
    """What a local bridge is; its name if it is on the hub; None for none.

    Raises:
        BridgeError: There is nothing, or something that is no bridge.
    """
    if name == NO_BRIDGE:
        return None
    if name is None or name in shipped_languages():
        return identify(bridge_folder(name or _WORLD_LANGUAGE))
    path = Path(name).expanduser()
    if not path.exists():
        if is_hub_name(name):
            return name
        raise BridgeError(
            f"nothing at {name}: give --bridge a folder, a hub name, a language of the emoji world "
            f"({', '.join(shipped_languages())}) or none"
        )
    identity = identify(path)
    if not identity.kind.startswith("bridge") and identity.kind != "pipeline":
        raise BridgeError(
            f"--bridge {name} is a {identity.kind}, not a bridge; give a folder with a "
            "bridge.json, or one in the published layout"
        )
    return identity


def locate_text_encoder(name: str) -> str:
    """A text encoder's folder or hub name; that of a bridge's folder is in the bridge.

    `emoji:LANGUAGE` names those that are shipped.

    Raises:
        BridgeError: The emoji world ships none for the language.
    """
    world, _, language = name.partition(":")
    if world != "emoji":
        folder = Path(name).expanduser()
        return str(folder / "text_encoder") if (folder / "bridge.json").is_file() else name
    if language == "en":
        return str(backbone_folder() / "text_encoder")
    if language not in shipped_languages():
        raise BridgeError(
            f"the emoji world ships no text encoder {name}; it has "
            f"{', '.join(f'emoji:{shipped}' for shipped in ('en', *shipped_languages()))}"
        )
    return str(bridge_folder(language) / "text_encoder")


def is_hub_name(name: str) -> bool:
    """Whether a name that is no path here can be one on the hub.

    "models/x" where a folder "models" is here is a mistyped path, not a name to ask the network.
    """
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).parent.is_dir()


def check_families(model: Identity | None, bridge: Identity | str | None) -> None:
    """Whether both are of one family, as far as both are here.

    Raises:
        BridgeError: They are not.
    """
    if not isinstance(model, Identity) or not isinstance(bridge, Identity):
        return
    if model.family and bridge.family and model.family != bridge.family:
        raise BridgeError(
            f"the bridge {bridge.path} was trained for {bridge.family_name}, but the model "
            f"{model.path} is {model.family_name}; give a bridge and a model of one family"
        )


def display_name(source: Identity | str | None, given: str | None) -> str:
    """A model's or a bridge's name for people."""
    if given is None:
        return _WORLD_NAME
    return source.path.stem if isinstance(source, Identity) else given


def weights_hash(source: Identity | str | None, parts: tuple[str, ...]) -> str:
    """First 10 digits of the SHA-256 of the weights, as AUTOMATIC1111 shows it.

    Of a bridge that has another's branch: of the reference, what changes the branch, and its own
    text encoder, since these tell it from the other.

    Args:
        parts: Folders that may hold them, the first that does counts; else they lie at the root.
    """
    if not isinstance(source, Identity):
        return ""
    digest = hashlib.sha256()
    for file in _weight_files(source.path, parts):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:10]


def _weight_files(path: Path, parts: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    for part in parts:
        if (shared := path / part / "shared.json").is_file():
            own = [*(path / part).glob("*.safetensors"), *path.glob("text_encoder/*.safetensors")]
            return [shared, *sorted(own)]
    for part in (*parts, "."):
        for pattern in ("*.safetensors", "*.bin"):
            if files := sorted((path / part).glob(pattern)):
                return files
    return []
