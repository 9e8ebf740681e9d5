"""The plug-ins of a request: looked up, loaded into the pipeline, and told for the record."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.plugins.embedding import load_embedding
from bridge_diffusion.plugins.files import file_hash, weights_hash
from bridge_diffusion.plugins.ip_adapter import ip_adapter_files, load_ip_adapter
from bridge_diffusion.plugins.lora import load_lora, set_lora_weights
from bridge_diffusion.plugins.naming import find_by_stem, find_plugin, plugin_name
from bridge_diffusion.plugins.networks import load_controlnet, load_vae

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


def load_plugins(pipe: Any, request: GenerationRequest) -> tuple[Any, tuple[LoadedPlugin, ...]]:
    """The pipeline with a request's plug-ins, another one where there is a ControlNet.

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
        return find_plugin(name, request.plugins, "--" + field.replace("_", "-"))

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
    if request.control_net is not None:
        path = find(request.control_net, "control_net")
        with _blamed("control_net", path):
            net = load_controlnet(pipe, path)
        # A model that only redraws inside a mask has no way from text alone.
        task = AutoPipelineForInpainting if request.mask else AutoPipelineForText2Image
        pipe = task.from_pipe(pipe, controlnet=net)
        note("control_net", path, weight=request.control_scale)
    return pipe, tuple(loaded)


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
    found = [(use, find_plugin(use.name, request.plugins, "--lora")) for use in given]
    # A prompt may come from anywhere: its tags name files of the folder, never paths.
    found += [(use, find_by_stem(use.name, request.plugins, str(use))) for use in tagged]
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
