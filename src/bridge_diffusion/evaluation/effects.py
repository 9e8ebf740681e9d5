"""Numbers of what was seen of plug-ins: effects, retention, accuracy beside them.

The **effect** of a plug-in on a system is the mean of what it is made for, with the plug-in on,
minus the same with it off; prompts and noise are the same:

- style checkpoint, style LoRA: the style evaluator's probability of the plug-in's style, over
  scored scenes of shared concepts. No style is named in any prompt.
- ControlNet: F1 of the picture's edges with those of the vendor's drawing of the scene, a pixel of
  tolerance, over the same scenes. "Off" is the ControlNet on, with the edges of another scene, so
  that neither what the prompt itself gives nor what any ControlNet does to a picture is counted.
- Textual Inversion, DreamBooth: the share of pictures in which the thing is recognised first among
  all concepts *and* the background has the wanted colour. The English prompt holds the trigger and
  nothing else, the native one says the background and nothing else; so both have to be heard.
  "Off" is the same prompts without the plug-in, to which the trigger means nothing.

The **retention** of a plug-in is its effect under the native prompt divided by its effect under the
same prompt in English on the English model alone (for the things: trigger and background in one
English prompt). Both come from the same scenes and the same noise. Its interval is a bootstrap over
prompts: the four pictures of a prompt are drawn again together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bridge_diffusion.evaluation.bootstrap import Estimate, bootstrap, quotient
from bridge_diffusion.evaluation.plan import GROUPS, Group
from bridge_diffusion.evaluation.retention import OTHER_EDGES, PLAIN
from bridge_diffusion.evaluation.retrieval import Rate
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, Plugin

ENGLISH = "translation"
"""The system whose effects all others are divided by: the English model reads the translation."""

Seen = Mapping[str, Any]
"""What `retention.Measurement` keeps."""


def effect_of(document: Seen, system: str, plugin: Plugin) -> Estimate | None:
    """On minus off; None if one of the two was not drawn."""
    pair = _on_and_off(document, system, plugin)
    if pair is None:
        return None
    return bootstrap(pair, lambda means: means[0] - means[1])


def retention_of(document: Seen, system: str, plugin: Plugin) -> Estimate | None:
    """Effect under the native prompt by effect in English; None if one was not drawn."""
    native = _on_and_off(document, system, plugin)
    english = _on_and_off(document, ENGLISH, plugin)
    if native is None or english is None:
        return None
    return bootstrap(
        np.concatenate([native, english], axis=1),
        lambda means: quotient(means[0] - means[1], means[2] - means[3]),
    )


def mean_retention(document: Seen, system: str) -> float | None:
    """The mean over all plug-ins, each at most 1; None unless all of them have a value.

    A plug-in that does more than in English makes up for none that does less.
    """
    values = [retention_of(document, system, plugin) for plugin in PLUGINS]
    found = [estimate.value for estimate in values if estimate is not None]
    if len(found) < len(PLUGINS) or np.isnan(found).any():
        return None
    return float(np.minimum(found, 1).mean())


def accuracy_of(
    document: Seen, system: str, group: Group, plugin: Plugin | None = None
) -> Rate | None:
    """Top-1 of the native prompt in a group, with a plug-in on or with none; None: not drawn."""
    seen = _series(document, system, PLAIN if plugin is None else f"{PLAIN}+{plugin.name}")
    if seen is None:
        return None
    return _rate_in(seen["rank"], document, group)


def ceiling_of(document: Seen, group: Group, plugin: Plugin) -> Rate | None:
    """Top-1 of the scenes drawn by hand in the plug-in's style; None if it has none."""
    ranks = document["drawings"].get(plugin.style)
    return None if ranks is None else _rate_in(ranks, document, group)


def _rate_in(ranks: Sequence[int], document: Seen, group: Group) -> Rate:
    some = [rank for rank, each in zip(ranks, document["groups"], strict=True) if each == group]
    return Rate(hits=sum(rank == 0 for rank in some), count=len(some))


def summary(document: Seen) -> dict[str, Any]:
    """All numbers of all systems as plain values."""
    return {
        system: {
            "accuracy": {group: _json(accuracy_of(document, system, group)) for group in GROUPS},
            "mean_retention": mean_retention(document, system),
            "plugins": {
                plugin.name: {
                    "effect": _json(effect_of(document, system, plugin)),
                    "retention": _json(retention_of(document, system, plugin)),
                    "accuracy": {
                        group: _json(accuracy_of(document, system, group, plugin))
                        for group in GROUPS
                    },
                }
                for plugin in PLUGINS
            },
        }
        for system in document["systems"]
    }


def _json(measured: Estimate | Rate | None) -> dict[str, Any] | None:
    return None if measured is None else measured.to_json()


def _on_and_off(document: Seen, system: str, plugin: Plugin) -> Float[np.ndarray, "units 2"] | None:
    """What the plug-in is made for, with it on and off, a row a prompt."""
    if plugin.thing is not None:
        name = plugin.thing.name
        on, off = f"{name}+{plugin.name}", name
    else:
        name, on = PLAIN, f"{PLAIN}+{plugin.name}"
        off = on + OTHER_EDGES if plugin.kind == "controlnet" else PLAIN
    columns = [_values(document, system, series, plugin) for series in (on, off)]
    if any(column is None for column in columns):
        return None
    both = np.stack([column for column in columns if column is not None], axis=1)
    if plugin.thing is not None:
        return both  # every picture has its own noise, and few prompts there are
    return _by_unit(both, document["units"][name], document["groups"])


def _by_unit(
    values: Float[np.ndarray, "pictures columns"], units: list[str], groups: list[str]
) -> Float[np.ndarray, "units columns"]:
    """Means over the pictures of each shared concept."""
    shared = dict.fromkeys(u for u, group in zip(units, groups, strict=True) if group == "shared")
    names = np.array(units)
    return np.array([values[names == unit].mean(axis=0) for unit in shared])


def _values(
    document: Seen, system: str, series: str, plugin: Plugin
) -> Float[np.ndarray, "pictures"] | None:
    seen = _series(document, system, series)
    if seen is None:
        return None
    if plugin.thing is not None:
        return (np.array(seen["rank"]) == 0) * np.array(seen["background"], dtype=float)
    return np.array(seen[plugin.style or "edge_f1"], dtype=float)


def _series(document: Seen, system: str, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = document["systems"].get(system, {}).get(name)
    return found
