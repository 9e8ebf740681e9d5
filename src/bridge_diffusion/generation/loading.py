"""Load what a request names: the backbone as a stock pipeline, and the bridge attached to it."""

import hashlib
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import SafetensorError

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import NO_BRIDGE, GenerationRequest
from bridge_diffusion.generation.single_file import load_single_file
from bridge_diffusion.identify import Identity, identify, read_header

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge

# "owner/name", as on the model hub; whatever begins with "." or "/" is a path.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PIPELINES = {
    cls.__name__: cls
    for cls in (
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionXLPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
    )
}
_WORLD_LANGUAGE = "zh"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedModel:
    """A backbone with its bridge, ready to draw."""

    pipe: Any
    """The stock pipeline, on its device."""
    bridge: "Bridge | None"
    """The attached bridge; None with `--bridge none`."""
    model_name: str
    """The backbone's name for people."""
    model_hash: str
    """First 10 hexadecimal digits of the SHA-256 of its weights; empty for a hub model."""
    bridge_name: str
    """The bridge's name for people; empty without a bridge."""
    bridge_hash: str
    """As `model_hash`, of the branch's weights."""
    device: str
    """Where it computes."""
    dtype: str
    """"fp32", "fp16" or "bf16"."""


def open_model(request: GenerationRequest) -> OpenedModel:
    """Load the backbone and the bridge that a request names.

    The network is touched only for a hub name. The bridge's family is checked against the
    backbone's before any weight is loaded.

    Raises:
        BridgeError: A file is missing, damaged, a pickle with code, or of another kind or family.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    model = _locate_model(request.model)
    bridge_source = _locate_bridge(request.bridge)
    _check_families(model, bridge_source)
    pipe = load_pipeline(
        model or str(request.model), dtype=_DTYPES[dtype], safety_checker=request.safety_checker
    )
    bridge = None
    if bridge_source is not None:
        bridge = _load_bridge(bridge_source, request.text_encoder, _DTYPES[dtype])
        bridge.attach(pipe)
    _place(pipe, bridge, device, request.offload)
    return OpenedModel(
        pipe=pipe,
        bridge=bridge,
        model_name=_name(model, request.model),
        model_hash=_hash(model, ("unet",)),
        bridge_name=_name(bridge_source, request.bridge) if bridge_source is not None else "",
        bridge_hash=_hash(bridge_source, ("branch", "controlnet")),
        device=device,
        dtype=dtype,
    )


def choose_device(name: str) -> str:
    """The device of a name; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        BridgeError: There is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BridgeError(f"--device {name!r} cannot be used ({reason}); try cpu") from error
    return name


def choose_dtype(name: str, device: str) -> str:
    """The number format of a name; "auto" is fp16 on a GPU and fp32 elsewhere.

    Raises:
        BridgeError: fp16 on a CPU, which lacks most of its operations.
    """
    if name == "auto":
        return "fp16" if device.startswith(("cuda", "mps")) else "fp32"
    if name == "fp16" and device == "cpu":
        raise BridgeError("--dtype fp16 needs a GPU; on the CPU give fp32 or bf16")
    return name


def load_pipeline(
    source: Identity | str, *, dtype: torch.dtype, safety_checker: bool
) -> DiffusionPipeline:
    """A stock pipeline from a folder, a single file (an `Identity`) or a hub name (a string).

    Args:
        safety_checker: Whether to keep the safety checker, where the model has one.

    Raises:
        BridgeError: The weights are missing, damaged or of another kind.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if not safety_checker:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if isinstance(source, str):
        with _clear_errors(source):
            pipe = DiffusionPipeline.from_pretrained(source, **options)
        if type(pipe).__name__ not in _PIPELINES:
            raise BridgeError(f"{source} is a {type(pipe).__name__}; {_WANTED}")
        return pipe
    if source.path.is_file():
        with _clear_errors(source.path):
            return load_single_file(source.path, dtype=dtype)
    cls = _PIPELINES.get(source.details["class"], StableDiffusionPipeline)
    _check_folder(source)
    with _clear_errors(source.path):
        pipe = cls.from_pretrained(source.path, local_files_only=True, **options)
    _check_complete(pipe, source.path)
    return pipe


_WANTED = "give a Stable Diffusion 1.5 or SDXL pipeline folder, single file or hub name"


def _locate_model(name: str | None) -> Identity | None:
    """What a local model is; None for a hub name."""
    if name is None:
        from bridge_diffusion.worlds.emoji.paths import backbone_folder

        return identify(backbone_folder())
    path = Path(name).expanduser()
    if not path.exists() and is_hub_name(name):
        return None
    identity = identify(path)
    if identity.kind == "PyTorch pickle" and path.suffix == ".ckpt":
        return identity
    if identity.kind not in ("pipeline", "Stable Diffusion checkpoint"):
        raise BridgeError(f"--model {name} is a {identity.kind}, not a whole model; {_WANTED}")
    if identity.family is None:
        raise BridgeError(
            f"--model {name} is of a family that bridges do not know "
            f"({identity.details.get('class', 'unnamed')}); {_WANTED}"
        )
    return identity


def _locate_bridge(name: str | None) -> Identity | str | None:
    """What a local bridge is; its name if it is on the hub; None for none."""
    if name == NO_BRIDGE:
        return None
    from bridge_diffusion.worlds.emoji.paths import bridge_folder, shipped_languages

    if name is None or name in shipped_languages():
        return identify(bridge_folder(name or _WORLD_LANGUAGE))
    path = Path(name).expanduser()
    if not path.exists() and is_hub_name(name):
        return name
    identity = identify(path)
    if not identity.kind.startswith("bridge") and identity.kind != "pipeline":
        raise BridgeError(
            f"--bridge {name} is a {identity.kind}, not a bridge; give a folder with a "
            "bridge.json, or one in the published layout"
        )
    return identity


def is_hub_name(name: str) -> bool:
    """Whether a name that is no path here can be one on the hub.

    "models/x" where a folder "models" is here is a mistyped path, not a name to ask the network.
    """
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).parent.is_dir()


def _check_families(model: Identity | None, bridge: Identity | str | None) -> None:
    if not isinstance(model, Identity) or not isinstance(bridge, Identity):
        return
    if model.family and bridge.family and model.family != bridge.family:
        raise BridgeError(
            f"the bridge {bridge.path} was trained for {bridge.family_name}, but the model "
            f"{model.path} is {model.family_name}; give a bridge and a model of one family"
        )


def _check_folder(source: Identity) -> None:
    """Each part of a pipeline folder is there, and its safetensors files are whole."""
    for part in source.details["parts"]:
        folder = source.path / part
        if not folder.is_dir():
            raise BridgeError(f"{source.path} lacks its part {part!r}; get the folder again")
        for file in folder.iterdir():
            if file.suffix == ".safetensors":
                read_header(file)


def _check_complete(pipe: Any, path: Path) -> None:
    """No tensor of the UNet was left out: diffusers only warns, and draws noise."""
    folder = path / "unet"
    files = [file for file in folder.glob("*.safetensors") if ".fp16." not in file.name]
    if not files:
        return  # .bin weights: their keys cannot be read without loading them
    stored = {key for file in files for key in read_header(file).shapes}
    missing = sorted(set(pipe.unet.state_dict()) - stored)
    if missing:
        raise BridgeError(
            f"{folder} lacks {len(missing)} tensors, the first {missing[0]}; get the folder again"
        )


def _load_bridge(source: Identity | str, text_encoder: str | None, dtype: torch.dtype) -> "Bridge":
    from bridge_diffusion.bridge import Bridge

    where = source.path if isinstance(source, Identity) else source
    with _clear_errors(where):
        return Bridge.from_pretrained(where, text_encoder=text_encoder, dtype=dtype)


def _place(pipe: Any, bridge: "Bridge | None", device: str, offload: bool) -> None:
    if offload:
        if device == "cpu":
            raise BridgeError("--offload moves parts off a GPU, and there is none: leave it out")
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
        if bridge is not None:
            bridge.to(device)


@contextmanager
def _clear_errors(source: Path | str) -> Iterator[None]:
    """Say in one line what the libraries say in many."""
    try:
        yield
    except BridgeError:
        raise
    except pickle.UnpicklingError as error:
        raise BridgeError(
            f"{source} holds a pickle with more than tensors, which was not executed; "
            "get the same weights as safetensors"
        ) from error
    except torch.OutOfMemoryError as error:
        raise BridgeError(
            f"{source} does not fit in the GPU's memory; try --offload or --dtype fp16"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BridgeError(f"{source} cannot be loaded ({reason}); check the files") from error


def _name(source: Identity | str | None, given: str | None) -> str:
    if given is None:
        return "emoji world"
    return source.path.stem if isinstance(source, Identity) else given


def _hash(source: Identity | str | None, parts: tuple[str, ...]) -> str:
    """First 10 digits of the SHA-256 of the weights, as AUTOMATIC1111 shows it.

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
    for part in (*parts, "."):
        for pattern in ("*.safetensors", "*.bin"):
            if files := sorted((path / part).glob(pattern)):
                return files
    return []
