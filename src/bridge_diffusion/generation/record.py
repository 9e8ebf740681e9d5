"""What a picture's file says about how it was made, and the request made again from it."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_diffusion import __version__
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.schedulers import infotext_name
from bridge_diffusion.images.infotext import Infotext, format_infotext
from bridge_diffusion.images.metadata import ImageMetadata, read_metadata

if TYPE_CHECKING:
    from bridge_diffusion.generation.loading import OpenedModel

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
        if name not in given and recorded.get(name) != here:
            flag = "--" + name.replace("_", "-")
            raise BridgeError(
                f"{path} was drawn with {flag} of hash {recorded.get(name)}, and here it is "
                f"{here}; give {flag} to name the same one, or to draw with another on purpose"
            )


def _hashes(opened: "OpenedModel", request: GenerationRequest) -> dict[str, str]:
    """First 10 digits of the SHA-256 of everything that a picture is made from, by field."""
    files = {"init_image": request.init_image, "mask": request.mask}
    return {"model": opened.model_hash, "bridge": opened.bridge_hash} | {
        name: _file_hash(file) for name, file in files.items() if file is not None
    }


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
    parameters["Version"] = f"bdm {__version__}"
    return format_infotext(
        Infotext(
            prompt=prompt,
            negative_prompt=negative,
            parameters={key: value for key, value in parameters.items() if value},
        )
    )
