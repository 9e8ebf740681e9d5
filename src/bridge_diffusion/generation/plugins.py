"""The plug-ins of a request: looked up, loaded into the pipeline, and told for the record."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image, T2IAdapter

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.plugins.embedding import load_embedding
from bridge_diffusion.plugins.files import file_hash, identify_plugin, weights_hash
from bridge_diffusion.plugins.ip_adapter import ip_adapter_files, load_ip_adapter
from bridge_diffusion.plugins.lora import load_lora, set_lora_weights
from bridge_diffusion.plugins.naming import find_by_stem, find_plugin, plugin_name
from bridge_diffusion.plugins.networks import load_controlnet, load_vae
from bridge_diffusion.plugins.t2i_adapter import load_t2i_adapter
from bridge_diffusion.worlds.emoji.paths import backbone_folder, plugins_folder

_log = logging.getLogger(__name__)

PluginField = Literal["vae", "lora", "embedding", "control_net", "ip_adapter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPlugin:
    """A plug-in that acts on the pictures."""

    field: PluginField
    """The field of the request that takes plug-ins of this kind."""
    name: str
    """That of its file without the suffix; of an embedding the word that calls it."""
    sha256: str
    """Of all that it consists of, in hexadecimal digits."""
    weights_sha256: str
    """As the community's tools count it: without the notes of a safetensors file."""
    weight: float
    """How strongly it acts."""


def shipped_for(request: GenerationRequest) -> Path | None:
    """The folder of the plug-ins that are shipped for a request's model; None where none are."""
    own = request.model is None or Path(request.model).expanduser().resolve() == backbone_folder()
    return plugins_folder() if own else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugged:
    """A pipeline with plug-ins."""

    pipe: Any
    """The stock pipeline; another one than before where there is a ControlNet."""
    adapters: tuple[T2IAdapter, ...]
    """The T2I-Adapters, which no pipeline from text or picture holds."""
    plugins: tuple[LoadedPlugin, ...]
    """All that was loaded, in its order."""


def load_plugins(pipe: Any, request: GenerationRequest) -> Plugged:
    """The pipeline with a request's plug-ins.

    Raises:
        BridgeError: One is missing, damaged, or does not belong to the model.
    """
    loaded: list[LoadedPlugin] = []

    def note(
        field: PluginField, path: Path, *parts: Path, name: str = "", weight: float = 1.0
    ) -> None:
        loaded.append(
            LoadedPlugin(
                field=field,
                name=name or plugin_name(path),
                sha256=file_hash(path, *parts),
                weights_sha256=weights_hash(path),
                weight=weight,
            )
        )

    def find(name: str, field: PluginField) -> Path:
        flag = "--" + field.replace("_", "-")
        return find_plugin(name, request.plugins, flag, shipped_for(request))

    if request.vae is not None:
        path = find(request.vae, "vae")
        with _blamed("vae", path):
            pipe.register_modules(vae=load_vae(pipe, path))
        note("vae", path)
    _load_loras(pipe, request, note)
    for name in request.embedding:
        path = find(name, "embedding")
        with _blamed("embedding", path):
            token = load_embedding(pipe, path).token
        note("embedding", path, name=token)
        _warn_of_unused(token, request)
    if request.ip_adapter is not None:
        path = find(request.ip_adapter, "ip_adapter")
        with _blamed("ip_adapter", path):
            path, *encoder = ip_adapter_files(path)
            load_ip_adapter(pipe, path, request.ip_scale)
        note("ip_adapter", path, *encoder, weight=request.ip_scale)
    paths = [find(name, "control_net") for name in request.control_net]
    pipe, adapters = _load_control(pipe, request, paths)
    for path, scale in zip(paths, request.control_scales(), strict=True):
        note("control_net", path, weight=scale)
    return Plugged(pipe=pipe, adapters=adapters, plugins=tuple(loaded))


def _load_control(
    pipe: Any, request: GenerationRequest, paths: Sequence[Path]
) -> tuple[Any, tuple[T2IAdapter, ...]]:
    """The pipeline with its ControlNets, and the T2I-Adapters, which are loaded by themselves."""
    _check_names(paths)
    are_adapters = [identify_plugin(path).kind == "T2I-Adapter" for path in paths]
    if all(are_adapters):
        if paths and request.ip_adapter is not None and not hasattr(pipe, "text_encoder_2"):
            raise BridgeError(
                "--ip-adapter does not go with a T2I-Adapter on Stable Diffusion 1.5: diffusers' "
                "pipeline takes one of them; leave one out, or give a ControlNet"
            )
        return pipe, tuple(load_t2i_adapter(pipe, path) for path in paths)
    if any(are_adapters):
        raise BridgeError(
            f"--control-net {paths[are_adapters.index(True)]} is a T2I-Adapter, and another one is "
            "a ControlNet: diffusers has no pipeline for both; give several of one kind"
        )
    nets = []
    for path in paths:
        with _blamed("control_net", path):
            nets.append(load_controlnet(pipe, path))
    # A model that only redraws inside a mask has no way from text alone.
    task = AutoPipelineForInpainting if request.mask else AutoPipelineForText2Image
    return task.from_pipe(pipe, controlnet=nets[0] if len(nets) == 1 else nets), ()


def _check_names(paths: Sequence[Path]) -> None:
    """A record names them by their files' names, so two files may not share one."""
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(plugin_name(path), path)
        if other.resolve() != path.resolve():
            raise BridgeError(
                f"--control-net {other} and {path} have the same name; rename one of them"
            )


@contextmanager
def _blamed(field: PluginField, path: Path) -> Iterator[None]:
    """What is said of a plug-in that does not load names it, whatever the reason."""
    try:
        yield
    except BridgeError as error:
        if error.code:
            raise
        name = plugin_name(path)
        raise BridgeError(str(error), "plugin_unfit", field=field, name=name) from error


def _load_loras(pipe: Any, request: GenerationRequest, note: Callable[..., None]) -> None:
    given, tagged = request.loras()
    shipped = shipped_for(request)
    found = [(use, find_plugin(use.name, request.plugins, "--lora", shipped)) for use in given]
    # A prompt may come from anywhere: its tags name files of the folders, never paths.
    found += [(use, find_by_stem(use.name, request.plugins, str(use), shipped)) for use in tagged]
    names = [plugin_name(path) for _, path in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BridgeError(
            f"the LoRA {twice[0]} is named twice; give it once, with one weight",
            "lora_twice",
            field="lora",
            name=twice[0],
        )
    for use, path in found:
        with _blamed("lora", path):
            load_lora(pipe, path)
        note("lora", path, weight=use.weight)
    if found:
        set_lora_weights(pipe, {plugin_name(path): use.weight for use, path in found})


def _warn_of_unused(token: str, request: GenerationRequest) -> None:
    texts: Sequence[str] = (
        (request.prompt, request.negative)
        if request.bridge == "none"
        else (request.english, request.negative_english)
    )
    if not any(token.lower() in text.lower() for text in texts):
        _log.warning(
            "the embedding %r is in no English prompt, so it has no effect: write its word there",
            token,
        )
