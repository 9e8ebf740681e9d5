"""The models, bridges and plug-ins that requests may name. A request never names a path."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import NO_BRIDGE
from bridge_diffusion.generation.sources import locate_bridge, locate_model, native_size
from bridge_diffusion.identify import Identity, identify
from bridge_diffusion.plugins.naming import parse_lora, plugin_name, plugins_in, take_tags
from bridge_diffusion.server.settings import ServerSettings
from bridge_diffusion.worlds.emoji.paths import plugins_folder, shipped_languages

WORLD = "emoji"
_WORLD_BRIDGE = "zh"
# The field of a request for each kind of plug-in; other kinds are not listed.
PLUGIN_FIELDS = {
    "LoRA": "lora",
    "textual inversion": "embedding",
    "ControlNet": "control_net",
    "T2I-Adapter": "control_net",
    "IP-Adapter": "ip_adapter",
    "VAE": "vae",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A backbone that may be named."""

    name: str
    """What requests call it."""
    source: str | None
    """What `GenerationRequest.model` is given; None for the emoji world."""
    family: str | None
    """"sd15" or "sdxl"; None for a hub name, which is not looked up."""
    size: tuple[int, int] | None
    """Width and height in pixels of its pictures where an order gives none; None for a hub name."""
    bridges: tuple[str, ...]
    """Names of the bridges of its family, the default one first, and "none" last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeEntry:
    """A bridge that may be named."""

    name: str
    """What requests call it."""
    source: str
    """What `GenerationRequest.bridge` is given."""
    family: str | None
    """"sd15" or "sdxl"; None for a hub name."""
    of_world: bool = False
    """Whether it belongs to the emoji world, whose backbone alone it fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A plug-in that may be named."""

    name: str
    """Its file's name without the suffix."""
    kind: str
    """As `identify` says."""
    field: str
    """The field of a request that takes it."""
    family: str | None
    """The family that it was made for, where it says so."""
    details: Mapping[str, object]
    """Rank, trigger words and the like."""
    of_world: bool = False
    """Whether it is shipped with the emoji world, whose backbone alone it fits."""


class Catalog:
    """What is there, by name. Models and bridges are fixed; plug-ins are looked up each time."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises `BridgeError` for a source that is missing, of another kind, or named twice."""
        self._folder = settings.plugins
        bridges = [
            BridgeEntry(name=name, source=name, family="sd15", of_world=True)
            for name in shipped_languages()
        ]
        for source in settings.bridges:
            found = locate_bridge(source)
            family = found.family if isinstance(found, Identity) else None
            bridges.append(BridgeEntry(name=_short(source), source=source, family=family))
        self.bridges = _by_name(bridges, "--bridge")
        shipped = sorted(shipped_languages(), key=lambda name: (name != _WORLD_BRIDGE, name))
        models = [
            Model(
                name=WORLD,
                source=None,
                family="sd15",
                size=_size(locate_model(None)),
                bridges=(*shipped, NO_BRIDGE),
            )
        ]
        for source in settings.models:
            identity = locate_model(source)
            family = identity.family if identity is not None else None
            fitting = [
                bridge.name
                for bridge in bridges
                if not bridge.of_world
                and (None in (family, bridge.family) or family == bridge.family)
            ]
            models.append(
                Model(
                    name=_short(source),
                    source=source,
                    family=family,
                    size=_size(identity),
                    bridges=(*fitting, NO_BRIDGE),
                )
            )
        self.models = _by_name(models, "--model")

    def model(self, name: str | None) -> Model:
        """The model of that name, or the emoji world. Raises `BridgeError` for an unknown one."""
        if (name or WORLD) not in self.models:
            raise BridgeError(
                f"no model {name!r} here; there are: {', '.join(self.models)}",
                "no_model",
                field="model",
                name=name,
            )
        return self.models[name or WORLD]

    def bridge(self, name: str | None, model: Model) -> str:
        """The name of a model's bridge. Raises `BridgeError` for one that it does not have."""
        if name is None:
            return model.bridges[0]
        if name not in model.bridges:
            raise BridgeError(
                f"no bridge {name!r} for the model {model.name}; there are: "
                f"{', '.join(model.bridges)}",
                "no_bridge",
                field="bridge",
                name=name,
                model=model.name,
            )
        return name

    def plugins(self) -> list[Plugin]:
        """The plug-ins in the folder that can be read, safetensors alone, and those shipped.

        The folder's come first where a shipped one has the same name.
        """
        return [plugin for plugin, _ in self._plugins()]

    def plugin_path(self, name: str, field: str, model: Model) -> Path:
        """Where the plug-in of that name is. Raises `BridgeError` where there is none, or two."""
        fits_world = model.source is None
        listed = [each for each in self._plugins() if fits_world or not each[0].of_world]
        found = [path for plugin, path in listed if (plugin.name, plugin.field) == (name, field)]
        if len(found) != 1:
            known = sorted({plugin.name for plugin, _ in listed if plugin.field == field})
            raise BridgeError(
                f"{'several plug-ins' if found else 'no plug-in'} {name!r} for {field}; there are: "
                f"{', '.join(known) or 'none'}",
                "several_plugins" if found else "no_plugin",
                field=field,
                name=name,
            )
        return found[0]

    def lora(self, text: str, model: Model) -> str:
        """A LoRA named as "name:0.8" => the same with its path. Raises `BridgeError`."""
        use = parse_lora(text)
        return f"{self.plugin_path(use.name, 'lora', model)}:{use.weight:g}"

    def check_tags(self, model: Model, *prompts: str) -> None:
        """Raises `BridgeError` for a tag in a prompt that names no LoRA of the list."""
        for prompt in prompts:
            for use in take_tags(prompt)[1]:
                self.plugin_path(use.name, "lora", model)

    def _plugins(self) -> Iterator[tuple[Plugin, Path]]:
        own = [] if self._folder is None else list(self._plugins_in(self._folder))
        yield from own
        names = {(plugin.name, plugin.field) for plugin, _ in own}
        for plugin, path in self._plugins_in(plugins_folder()):
            if (plugin.name, plugin.field) not in names:
                yield replace(plugin, of_world=True), path

    def _plugins_in(self, folder: Path) -> Iterator[tuple[Plugin, Path]]:
        for path in plugins_in(folder):
            if path.is_file() and path.suffix.lower() != ".safetensors":
                continue  # a pickle is never opened for a request
            if path.is_dir() and not any(path.rglob("*.safetensors")):
                continue
            try:
                identity = identify(path)
            except (BridgeError, OSError):
                continue
            field = PLUGIN_FIELDS.get(identity.kind)
            if field is not None:
                details = {k: v for k, v in identity.details.items() if k != "metadata"}
                yield (
                    Plugin(
                        name=plugin_name(path),
                        kind=identity.kind,
                        field=field,
                        family=identity.family,
                        details=details,
                    ),
                    path,
                )


def _size(identity: Identity | None) -> tuple[int, int] | None:
    return None if identity is None else native_size(identity)


def _short(source: str) -> str:
    """A source's name for requests: the last part of its path or hub name, without a suffix."""
    path = Path(source).expanduser()
    return path.stem if path.is_file() else path.name


_Entry = TypeVar("_Entry", Model, BridgeEntry)


def _by_name(entries: list[_Entry], flag: str) -> dict[str, _Entry]:
    names = [entry.name for entry in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BridgeError(
            f"{flag}: two of them are called {twice[0]!r}; rename one, as requests name them so"
        )
    return {entry.name: entry for entry in entries}
