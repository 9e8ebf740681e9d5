"""IP-Adapter: a picture as a prompt of the backbone, beside the English one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import Identity, read_header
from bridge_diffusion.plugins.files import (
    backbone_family,
    check_family,
    check_kind,
    identify_plugin,
    read_weight_file,
)
from bridge_diffusion.reading import read_json

_FLAG = "--ip-adapter"
_ENCODER = "image_encoder"
# An adapter's first layer, and the setting of the image encoder that its input is as wide as.
_READS = (
    ("image_proj.proj.weight", "projection_dim"),
    ("image_proj.proj_in.weight", "hidden_size"),
    ("image_proj.proj.0.weight", "hidden_size"),
)
_OF_FACES = ("_lora.", "perceiver_resampler.")


def load_ip_adapter(pipe: Any, path: Path, scale: float) -> Identity:
    """Load an IP-Adapter file and the image encoder that lies in a folder beside it.

    Args:
        path: The weight file, or a folder that holds one such file and `image_encoder`.
        scale: How strongly the picture acts; 1 is as trained.

    Raises:
        BridgeError: The file or its encoder is missing, damaged, or of another kind or family.
    """
    file = _weight_file(path)
    identity = identify_plugin(file)
    check_kind(identity, "IP-Adapter", _FLAG)
    check_family(identity, backbone_family(pipe.unet), _FLAG)
    encoder = _encoder_folder(file)
    if encoder is None and getattr(pipe, "image_encoder", None) is None:
        raise BridgeError(
            f"{_FLAG} {file}: there is no folder {_ENCODER} beside it; get the one that it was "
            "published with"
        )
    settings = (
        pipe.image_encoder.config.to_dict()
        if encoder is None
        else read_json(encoder / "config.json")
    )
    _check_encoder(file, settings)
    root = file.parent if encoder is None else encoder.parent
    try:
        pipe.load_ip_adapter(
            str(root),
            subfolder="" if root == file.parent else file.parent.name,
            weight_name=file.name,
            # With a slash, diffusers reads it from the root and not from the sub-folder.
            image_encoder_folder=None if encoder is None else f"./{_ENCODER}",
            local_files_only=True,
        )
    except Exception as error:  # tensors of other sizes make the libraries raise anything
        reason = " ".join(str(error).split())[:300]
        raise BridgeError(
            f"{_FLAG} {file} cannot be loaded ({reason}); was it made for another family?"
        ) from error
    pipe.set_ip_adapter_scale(scale)
    return identity


def _check_encoder(file: Path, settings: Mapping[str, Any]) -> None:
    """The adapter reads what the image encoder gives; stock tells only while it draws."""
    shapes = (
        read_header(file).shapes
        if file.suffix.lower() == ".safetensors"
        else {key: tuple(each.shape) for key, each in read_weight_file(file).tensors.items()}
    )
    if any(mark in key for key in shapes for mark in _OF_FACES):
        raise BridgeError(
            f"{_FLAG} {file} is a FaceID adapter, which reads a face recogniser's numbers and not "
            "a picture; give one without FaceID"
        )
    for key, setting in _READS:
        width, given = (shapes.get(key) or (0,))[-1], settings.get(setting)
        if width and given is not None and width != given:
            raise BridgeError(
                f"{_FLAG} {file} reads image features of width {width}, the {_ENCODER} beside it "
                f"gives {given}; get the encoder that it was published with"
            )


def ip_adapter_files(path: Path) -> list[Path]:
    """The weight file that a path names, and the folder of its image encoder where there is one.

    Raises:
        BridgeError: The path names no weight file, or several.
    """
    file = _weight_file(path)
    encoder = _encoder_folder(file)
    return [file] if encoder is None else [file, encoder]


def _weight_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [f for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".bin", ".pt")]
    if len(files) != 1:
        raise BridgeError(
            f"{_FLAG} {path} holds {len(files)} weight files; give the path of the one to use"
        )
    return files[0]


def _encoder_folder(file: Path) -> Path | None:
    """Beside the file, or one level up, as the community keeps it."""
    for folder in (file.parent, file.parent.parent):
        if (folder / _ENCODER / "config.json").is_file():
            return folder / _ENCODER
    return None
