"""The weights of a plug-in's file, and what it is; no pickle is ever executed."""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import (
    PICKLE_SUFFIXES,
    Identity,
    identify,
    identity_of_weights,
    read_header,
)
from bridge_diffusion.reading import is_pickle, is_zip, unwrapped

_SD2_TEXT_WIDTH = 1024
_DEEPEST = 3  # tables in tables in a pickle: A1111's embeddings and IP-Adapters have two


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """A weight file, read."""

    path: Path
    """Where it is."""
    identity: Identity
    """What it is, by its tensors."""
    tensors: Mapping[str, Tensor]
    """By name, on the CPU; the names of tables in tables are joined by "."."""
    metadata: Mapping[str, str]
    """The notes of a safetensors file."""
    name: str | None
    """The name that A1111's `.pt` embeddings carry."""


def read_weight_file(path: Path) -> WeightFile:
    """Read a safetensors file, or a pickle that holds nothing but tensors and plain values.

    Raises:
        BridgeError: It is missing or damaged, or a pickle that holds code.
    """
    if not path.is_file():
        raise BridgeError(f"no weight file at {path}; check the path")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        tensors, name = _read_pickle(path)
        metadata: Mapping[str, str] = {}
    else:
        header = read_header(path)
        metadata, name = header.metadata, None
        try:
            tensors = dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise BridgeError(f"{path} cannot be read ({error}); get it again") from error
    _check_storage(tensors, path)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return WeightFile(
        path=path,
        identity=identity_of_weights(path, shapes, metadata),
        tensors=tensors,
        metadata=metadata,
        name=name,
    )


def _check_storage(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Numbers can be computed with: none is left out, packed, or counted in steps."""
    for key, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not plain or tensor.dtype is torch.float4_e2m1fn_x2:
            raise BridgeError(
                f"{path}: its tensor {key} is stored in a way that is not read (sparse, quantized, "
                "of 4 bits, or without numbers); get the same plug-in with 16 bits a number"
            )


def identify_plugin(path: Path) -> Identity:
    """What a plug-in is; a pickle is opened too, without executing it.

    Raises:
        BridgeError: It is missing or damaged, or a pickle that holds code.
    """
    if path.is_file() and (path.suffix.lower() in PICKLE_SUFFIXES):
        return read_weight_file(path).identity
    return identify(path)


def check_kind(identity: Identity, wanted: str, flag: str) -> None:
    """Whether a file is of the kind that an option takes.

    Raises:
        BridgeError: It is another.
    """
    if identity.kind != wanted:
        hint = _OPTION_OF.get(identity.kind)
        raise BridgeError(
            f"{flag} {identity.path} is {_a(identity.kind)}, not {_a(wanted)}"
            + (f"; give it with {hint}" if hint and hint != flag else f"; give {_a(wanted)}")
        )


def backbone_family(unet: Any) -> str:
    """ "sd15", "sd2" or "sdxl": the family whose plug-ins a UNet takes."""
    if unet.config.addition_embed_type == "text_time":
        return "sdxl"
    return "sd2" if unet.config.cross_attention_dim == _SD2_TEXT_WIDTH else "sd15"


def check_family(identity: Identity, family: str, flag: str) -> None:
    """Whether a plug-in is of a pipeline's family, as far as it says.

    Raises:
        BridgeError: It is of another.
    """
    if identity.family is not None and identity.family != family:
        pipeline = Identity(path=identity.path, kind="pipeline", family=family)
        raise BridgeError(
            f"{flag} {identity.path} was made for {identity.family_name}, but the model is "
            f"{pipeline.family_name}; give one made for {pipeline.family_name}"
        )


def option_of(kind: str) -> str | None:
    """The option that takes a plug-in of a kind; None where the kind is no plug-in's."""
    option = _OPTION_OF.get(kind)
    return None if option in ("--model", "--bridge") else option


def _a(kind: str) -> str:
    if kind == "safetensors":
        return "a file of tensors of no known kind"
    return f"an {kind}" if kind == "IP-Adapter" else f"a {kind}"


_OPTION_OF = {
    "LoRA": "--lora",
    "textual inversion": "--embedding",
    "ControlNet": "--control-net",
    "T2I-Adapter": "--control-net",
    "IP-Adapter": "--ip-adapter",
    "VAE": "--vae",
    "pipeline": "--model",
    "Stable Diffusion checkpoint": "--model",
    "bridge": "--bridge",
    "bridge in the published layout": "--bridge",
}


def file_hash(*paths: Path) -> str:
    """SHA-256 of files, and of all weight and JSON files of folders, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            hashed = file is path or file.suffix in (*PICKLE_SUFFIXES, ".safetensors", ".json")
            if hashed and file.is_file():
                _feed(digest, file, 0)
    return digest.hexdigest()


def weights_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's numbers alone, so that edited notes do not change it.

    It is what the community's tools call AutoV3; of any other file it is the hash of the whole.
    """
    if path.is_dir() or path.suffix.lower() != ".safetensors":
        return file_hash(path)
    with path.open("rb") as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
    digest = hashlib.sha256()
    _feed(digest, path, begin)
    return digest.hexdigest()


def _feed(digest: Any, file: Path, begin: int) -> None:
    with file.open("rb") as stream:
        stream.seek(begin)
        while block := stream.read(1 << 20):
            digest.update(block)


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], str | None]:
    if not is_pickle(path):
        raise BridgeError(f"{path} is no whole {path.suffix} file; get it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        raise BridgeError(
            f"{path} is a pickle with more than tensors and was not executed; "
            "get the same plug-in as safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise BridgeError(f"{path} is no whole {path.suffix} file; get it again") from error
    if isinstance(content, Tensor):
        return {path.stem: content.detach()}, None
    content = unwrapped(content)
    if not isinstance(content, dict):
        raise BridgeError(f"{path} holds no weights; get the same plug-in as safetensors")
    name = content.get("name")
    return _flat(content, "", _DEEPEST), name if isinstance(name, str) else None


def _flat(table: Mapping[Any, Any], prefix: str, depth: int) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in table.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value.detach()
        elif isinstance(value, Mapping) and depth > 1:
            flat |= _flat(value, f"{prefix}{key}.", depth - 1)
    return flat
