"""What plug-ins are, and whether they would load into a model: no weight of the model is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import SD15_CONFIG, locate_model
from bridge_diffusion.identify import Identity
from bridge_diffusion.plugins.embedding import check_embedding
from bridge_diffusion.plugins.files import (
    backbone_family,
    check_family,
    identify_plugin,
    option_of,
    weights_hash,
)
from bridge_diffusion.plugins.lora import match_lora
from bridge_diffusion.plugins.naming import (
    WHOLE_FOLDER_FILES,
    find_by_stem,
    path_at,
    plugin_name,
    plugins_in,
)
from bridge_diffusion.reading import read_json
from bridge_diffusion.worlds.emoji.paths import plugins_folder

_TEXT_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Whether a plug-in would load into a model."""

    loads: bool
    """Whether it would be taken."""
    message: str
    """How many keys go where, or why it would be refused."""
    parts: Mapping[str, tuple[int, int]]
    """Of a LoRA, by network: keys that have a place in it, and keys that speak of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What is known of a plug-in."""

    path: Path
    """Its file or folder."""
    name: str
    """What requests call it."""
    bytes: int
    """Size of its files."""
    is_shipped: bool
    """Whether it comes with the package, for the emoji world."""
    identity: Identity | None
    """What it is; None where it cannot be read."""
    weights_sha256: str
    """As the community's tools count it (AutoV3); empty where it cannot be read."""
    error: str
    """Why it cannot be read; empty where it can."""
    fit: Fit | None
    """Whether it would load; None where no model was named."""


def inspect(path: Path, model: SimpleNamespace | None) -> Inspection:
    """What a plug-in is. A damaged file is told, not raised.

    Args:
        model: From `empty_model`; None compares with none.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    found = Inspection(
        path=path,
        name=plugin_name(path),
        bytes=sum(file.stat().st_size for file in files),
        is_shipped=path.parent == plugins_folder(),
        identity=None,
        weights_sha256="",
        error="",
        fit=None,
    )
    try:
        identity = identify_plugin(path)
        digest = weights_hash(path)
    except (BridgeError, OSError) as error:
        return replace(found, error=str(error))
    fit = None if model is None else _fit(path, identity, model)
    return replace(found, identity=identity, weights_sha256=digest, fit=fit)


def known_plugins(folder: Path | None) -> list[Path]:
    """The plug-ins that a name may mean: those of the user's folder, then those that are shipped.

    Raises:
        BridgeError: The folder is none.
    """
    if folder is not None and not folder.is_dir():
        raise BridgeError(f"--plugins {folder} is no folder; check the path")
    return ([] if folder is None else plugins_in(folder)) + plugins_in(plugins_folder())


def named_plugin(name: str, folder: Path | None) -> Path:
    """What a name or a path means, by the rules of `bdm generate`.

    Raises:
        BridgeError: Nothing is there.
    """
    if (path := path_at(name)) is not None:
        return path
    if Path(name).name != name:
        raise BridgeError(f"nothing at {name}; check the path")
    return find_by_stem(name, folder, name, plugins_folder())


def plugins_at(path: Path) -> list[Path]:
    """The plug-ins that a path names: itself, or those in a folder.

    Raises:
        BridgeError: There is nothing.
    """
    if path.is_dir() and not any((path / name).is_file() for name in WHOLE_FOLDER_FILES):
        return plugins_in(path)
    if not path.exists():
        raise BridgeError(f"nothing at {path}; check the path")
    return [path]


def empty_model(name: str) -> SimpleNamespace:
    """The networks of a local model that plug-ins act on, without weights.

    Raises:
        BridgeError: There is no such model here, or it is of another kind.
    """
    identity = locate_model(name)
    if identity is None:
        raise BridgeError(f"--model {name} is not here; give a folder or a file")
    if identity.path.is_dir():
        folder = identity.path
    elif identity.family == "sd15":
        folder = SD15_CONFIG
    else:
        raise BridgeError(f"--model {name}: give the model as a pipeline folder")
    networks: dict[str, nn.Module] = {}
    with torch.device("meta"):
        config = read_json(folder / "unet" / "config.json")
        networks["unet"] = UNet2DConditionModel.from_config(config)
        for part, cls in _TEXT_ENCODERS.items():
            if (folder / part / "config.json").is_file():
                settings = read_json(folder / part / "config.json")
                networks[part] = cls(CLIPTextConfig(**settings))
    return SimpleNamespace(**networks)


def _fit(path: Path, identity: Identity, model: SimpleNamespace) -> Fit:
    try:
        if identity.kind == "LoRA":
            report, _ = match_lora(path, vars(model))
            parts = {
                name: (part.matched, part.matched + len(part.unmatched))
                for name, part in report.parts.items()
            }
            return Fit(loads=True, message=str(report), parts=parts)
        if identity.kind == "textual inversion":
            return Fit(loads=True, message=f"as {check_embedding(model, path)!r}", parts={})
        if option_of(identity.kind) is None:
            return Fit(loads=False, message="it is no plug-in of a known kind", parts={})
        check_family(identity, backbone_family(model.unet), "")
    except BridgeError as error:
        return Fit(loads=False, message=str(error).strip(), parts={})
    known = "the family agrees" if identity.family else "its family is not known"
    return Fit(loads=True, message=f"{known}, its tensors were not compared", parts={})
