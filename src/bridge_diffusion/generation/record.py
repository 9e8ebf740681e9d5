"""What a picture's file says about how it was made, and the request made again from it."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_diffusion import __version__
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.schedulers import infotext_name
from bridge_diffusion.images.infotext import Infotext, format_infotext
from bridge_diffusion.images.metadata import ImageMetadata, read_metadata
from bridge_diffusion.plugins.naming import LoraUse

if TYPE_CHECKING:
    from bridge_diffusion.generation.loading import OpenedModel
    from bridge_diffusion.generation.plugins import LoadedPlugin

FORMAT_VERSION = 1


def describe(
    opened: "OpenedModel", request: GenerationRequest, size: tuple[int, int]
) -> ImageMetadata:
    """The metadata of one picture.

    Args:
        request: The request of this picture alone, with its seed.
        size: Width and height of the picture, in pixels.
    """
    request = _resolved(opened, request)
    record = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "request": request.to_json(),
        "hashes": _hashes(opened, request),
    }
    return ImageMetadata(infotext=_infotext(opened, request, size), record=record)


def recorded_request(path: Path) -> GenerationRequest:
    """The request that drew a picture, from the picture's own record.

    Raises:
        BridgeError: The picture cannot be read or was not drawn here.
    """
    return GenerationRequest.from_json(_record(path)["request"])


def check_same_sources(
    path: Path, opened: "OpenedModel", request: GenerationRequest, given: Collection[str]
) -> None:
    """Whether weights and initial picture are those that a picture was drawn with.

    Args:
        given: Fields of the request that the user changed on purpose; they are not compared.

    Raises:
        BridgeError: One is another, so the picture would come out differently.
    """
    recorded = _record(path)["hashes"]
    for name, here in _hashes(opened, request).items():
        field, _, plugin = name.partition(" ")
        if field in given or (plugin and name not in recorded):  # a changed prompt names another
            continue
        if recorded.get(name) != here:
            flag = f"--{field.replace('_', '-')} {plugin}".strip()
            raise BridgeError(
                f"{path} was drawn with {flag} of hash {recorded.get(name)}, and here it is "
                f"{here}; give {flag} to name the same one, or to draw with another on purpose"
            )


def _hashes(opened: "OpenedModel", request: GenerationRequest) -> dict[str, str]:
    """First 10 digits of the SHA-256 of everything that a picture is made from, by field."""
    files = {"init_image": request.init_image, "mask": request.mask}
    for number, file in enumerate(request.control):
        files[f"control {number + 1}" if number else "control"] = file
    files["ip_image"] = request.ip_image
    return (
        {"model": opened.model_hash, "bridge": opened.bridge_hash}
        | {name: _file_hash(file) for name, file in files.items() if file is not None}
        | {f"{plugin.field} {plugin.name}": plugin.sha256[:10] for plugin in opened.plugins}
    )


def _file_hash(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    except OSError as error:
        raise BridgeError(f"no picture at {file} ({error.strerror}); check the path") from error


def _record(path: Path) -> dict[str, Any]:
    record = read_metadata(path).record
    if record is None or not all(
        isinstance(record.get(part), dict) for part in ("request", "hashes")
    ):
        raise BridgeError(
            f"{path} does not say how bdm drew it; --from takes pictures that bdm generate wrote"
        )
    if record.get("format") != FORMAT_VERSION:
        raise BridgeError(
            f"{path} has a record of format {record.get('format')!r}, and this version of bdm "
            f"reads format {FORMAT_VERSION}; draw with the version that wrote it"
        )
    return dict(record)


def _resolved(opened: "OpenedModel", request: GenerationRequest) -> GenerationRequest:
    """The request with nothing left to choose: a fixed device and number format."""
    values = request.to_json() | {"device": opened.device, "dtype": opened.dtype}
    return GenerationRequest.from_json(values)


def _infotext(opened: "OpenedModel", request: GenerationRequest, size: tuple[int, int]) -> str:
    parameters = {
        "Steps": str(request.steps),
        "Sampler": infotext_name(request.scheduler),
        "CFG scale": f"{request.guidance:g}",
        "Seed": str(request.seed),
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": opened.model_hash,
        "Model": opened.model_name,
    }
    if request.init_image is not None:
        parameters["Denoising strength"] = f"{request.strength:g}"
    parameters |= _plugin_parameters(opened.plugins)
    request = request.without_tags()
    if opened.bridge is None:
        prompt, negative = request.prompt, request.negative
    else:
        prompt, negative = request.english, request.negative_english
        parameters |= {
            "Native prompt": request.prompt,
            "Native negative prompt": request.negative,
            "Bridge": opened.bridge_name,
            "Bridge hash": opened.bridge_hash,
            "Bridge scale": f"{request.scale:g}",
            "Bridge start": f"{request.start:g}",
            "Bridge end": f"{request.end:g}",
        }
    tags = [str(LoraUse(p.name, p.weight)) for p in opened.plugins if p.field == "lora"]
    prompt = " ".join([prompt, *tags]).strip()
    parameters["Version"] = f"bdm {__version__}"
    return format_infotext(
        Infotext(
            prompt=prompt,
            negative_prompt=negative,
            parameters={key: value for key, value in parameters.items() if value},
        )
    )


def _plugin_parameters(plugins: Sequence["LoadedPlugin"]) -> dict[str, str]:
    """Plug-ins by the keys of AUTOMATIC1111's web UI and its extension for ControlNets."""
    by_field: dict[str, list[LoadedPlugin]] = {}
    for plugin in plugins:
        by_field.setdefault(plugin.field, []).append(plugin)
    parameters = {
        "Lora hashes": ", ".join(
            f"{p.name}: {p.weights_sha256[:12]}" for p in by_field.get("lora", ())
        ),
        "TI hashes": ", ".join(f"{p.name}: {p.sha256[:12]}" for p in by_field.get("embedding", ())),
    }
    for p in by_field.get("vae", ()):
        parameters |= {"VAE": p.name, "VAE hash": p.sha256[:10]}
    for number, p in enumerate(by_field.get("control_net", ())):
        parameters[f"ControlNet {number}"] = (
            f"Module: none, Model: {p.name} [{p.sha256[:8]}], Weight: {p.weight:g}"
        )
    for p in by_field.get("ip_adapter", ()):
        parameters["IP-Adapter"] = f"Model: {p.name} [{p.weights_sha256[:8]}], Weight: {p.weight:g}"
    return parameters
