"""Load what a request names: the backbone as a stock pipeline, and the bridge attached to it."""

import pickle
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
    T2IAdapter,
)

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.plugins import LoadedPlugin, load_plugins
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.single_file import load_single_file
from bridge_diffusion.generation.sources import (
    WANTED_MODEL,
    check_families,
    display_name,
    locate_bridge,
    locate_model,
    weights_hash,
)
from bridge_diffusion.identify import Identity, read_header
from bridge_diffusion.reading import read_json
from bridge_diffusion.text.families import has_tokenizer

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge

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
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
    plugins: tuple[LoadedPlugin, ...] = ()
    """The English community's plug-ins that act, in the order of their loading."""
    adapters: tuple[T2IAdapter, ...] = ()
    """The T2I-Adapters, in the order of the request's pictures to follow."""


def open_model(request: GenerationRequest) -> OpenedModel:
    """Load the backbone, the plug-ins and the bridge that a request names.

    The network is touched only for a hub name. The bridge's family is checked against the
    backbone's before any weight is loaded.

    Raises:
        BridgeError: A file is missing, damaged, a pickle with code, or of another kind or family.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    model = locate_model(request.model)
    source = locate_bridge(request.bridge)
    check_families(model, source)
    pipe = load_pipeline(
        model or str(request.model), dtype=DTYPES[dtype], safety_checker=request.safety_checker
    )
    plugged = load_plugins(pipe, request)
    pipe = plugged.pipe
    bridge = None
    if source is not None:
        bridge = load_bridge(source, request.text_encoder, DTYPES[dtype])
        bridge.attach(pipe)
    place(pipe, bridge, device, request.offload)
    for adapter in plugged.adapters:  # small, and at work once a picture: they stay
        adapter.to(device)
    return OpenedModel(
        pipe=pipe,
        bridge=bridge,
        model_name=display_name(model, request.model),
        model_hash=weights_hash(model, ("unet",)),
        bridge_name="" if source is None else display_name(source, request.bridge),
        bridge_hash=weights_hash(source, ("branch", "controlnet")),
        device=device,
        dtype=dtype,
        plugins=plugged.plugins,
        adapters=plugged.adapters,
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
        torch.zeros(1, device=torch.device(name)).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise BridgeError(f"--device {name!r} cannot be used ({reason}); try cpu") from error
    return name


def choose_dtype(name: str, device: str) -> str:
    """The number format of a name; "auto" is fp16 on a GPU and fp32 elsewhere.

    Raises:
        BridgeError: fp16 on a CPU, which lacks most of its operations.
    """
    if name == "auto":
        return "fp16" if device.startswith(("cuda", "mps")) else "fp32"
    if name == "fp16" and device.startswith("cpu"):
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
            raise BridgeError(f"{source} is a {type(pipe).__name__}; {WANTED_MODEL}")
        return pipe
    if source.path.is_file():
        with _clear_errors(source.path):
            return load_single_file(source.path, dtype=dtype)
    # A class of another program, such as the published bridges', is read as the stock one.
    stock = StableDiffusionXLPipeline if source.family == "sdxl" else StableDiffusionPipeline
    cls = _PIPELINES.get(source.details["class"], stock)
    _check_folder(source)
    variant = _variant(source.path / "unet")
    with _clear_errors(source.path):
        pipe = cls.from_pretrained(source.path, local_files_only=True, variant=variant, **options)
    _check_complete(pipe, source.path, variant)
    _check_windows(pipe, source.path)
    return pipe


def _variant(folder: Path) -> str | None:
    """ "fp16" where a folder has weights of that kind alone."""
    names = [file.name for file in folder.glob("diffusion_pytorch_model*")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _check_folder(source: Identity) -> None:
    """Each part of a pipeline folder has its files, and its safetensors files are whole."""
    for part in source.details["parts"]:
        folder = source.path / part
        if not folder.is_dir():
            raise BridgeError(f"{source.path} lacks its part {part!r}; get the folder again")
        if part in _NETWORKS:
            read_json(folder / "config.json")
        if part.startswith("tokenizer") and not has_tokenizer(folder):
            raise BridgeError(f"{folder} holds no tokenizer; get the folder again")
        for file in folder.iterdir():
            if file.suffix == ".safetensors":
                read_header(file)


def _check_complete(pipe: Any, path: Path, variant: str | None) -> None:
    """No tensor was left out: the libraries only warn, and noise is drawn.

    They rename tensors of old files, so only the number is compared. The keys of .bin weights
    cannot be read without loading them: those pass.
    """
    for part in _NETWORKS:
        network, folder = getattr(pipe, part, None), path / part
        files = [f for f in folder.glob("*.safetensors") if (".fp16" in f.name) == bool(variant)]
        if network is None or not files:
            continue
        stored = {key for file in files for key in read_header(file).shapes}
        wanted = set(network.state_dict())
        lacking = len(wanted) - sum(not key.endswith("position_ids") for key in stored)
        if lacking > 0:
            first = min(wanted - stored)
            raise BridgeError(
                f"{folder} lacks {lacking} tensors, the first {first}; get the folder again"
            )


def _check_windows(pipe: Any, path: Path) -> None:
    """Each tokenizer knows how long a prompt its text encoder reads."""
    for suffix in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if tokenizer is None or encoder is None:
            continue
        positions = encoder.config.max_position_embeddings
        if tokenizer.model_max_length > positions:
            raise BridgeError(
                f"{path}/tokenizer{suffix} does not say that prompts have at most {positions} "
                "tokens (model_max_length in its tokenizer_config.json); get the folder again"
            )


def load_bridge(source: Identity | str, text_encoder: str | None, dtype: torch.dtype) -> "Bridge":
    """A bridge from a folder (an `Identity`) or a hub name (a string).

    Raises:
        BridgeError: It is missing, damaged, or of another kind.
    """
    from bridge_diffusion.bridge import Bridge

    where = source.path if isinstance(source, Identity) else source
    with _clear_errors(where):
        return Bridge.from_pretrained(where, text_encoder=text_encoder, dtype=dtype)


def place(pipe: Any, bridge: "Bridge | None", device: str, offload: bool) -> None:
    """Move a pipeline and its bridge to a device, or let their parts come and go.

    Raises:
        BridgeError: They do not fit, or parts are to come and go on a CPU.
    """
    if offload and device.startswith("cpu"):
        raise BridgeError("--offload moves parts off a GPU, and there is none: leave it out")
    with _clear_errors(f"the model on {device}"):
        if offload:
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
    except Exception as error:  # a damaged file can make the libraries raise anything
        reason = " ".join(str(error).split())[:300]
        raise BridgeError(f"{source} cannot be loaded ({reason}); check the files") from error
