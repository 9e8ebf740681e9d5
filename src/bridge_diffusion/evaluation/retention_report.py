"""What plug-ins keep under a native prompt, as JSON, as a section of a page, and as a picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bridge_diffusion.evaluation.bootstrap import Estimate
from bridge_diffusion.evaluation.effects import (
    ENGLISH,
    accuracy_of,
    ceiling_of,
    effect_of,
    mean_retention,
    retention_of,
    summary,
)
from bridge_diffusion.evaluation.kept import read_strip
from bridge_diffusion.evaluation.page import (
    labelled_rows,
    percent,
    sheet_path,
    write_results,
)
from bridge_diffusion.evaluation.plan import CONTROL, GROUPS, Group
from bridge_diffusion.evaluation.retention import SHOWN, all_series, strip_path
from bridge_diffusion.evaluation.retrieval import Rate
from bridge_diffusion.evaluation.systems import UNTIL, end_of
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, Plugin

MEASURES = {
    "style": "probability of the style, by the style evaluator, over shared concepts; off: without "
    "the plug-in",
    "edges": "F1 of the picture's edges with those of the vendor's drawing of the scene, a pixel "
    "of tolerance, over shared concepts; off: the same ControlNet with another scene's edges",
    "thing": "share of pictures with the thing first among all concepts and the right background; "
    "the English prompt is the trigger alone, the native one the background alone; off: without "
    "the plug-in",
}
"""What an effect is, by what a plug-in is made for: see `evaluation.effects`."""

SYSTEMS = {
    "bridge": "the bridge",
    "translation": "plain translation to the English model",
    "translated": "the English model, fine-tuned on the bridge's pictures with translated captions",
    "native": "the English model's UNet, fine-tuned on the native text encoder's states",
    "scratch": "the same, from nothing",
    "adapter": "an adapter from the native text encoder to the English model's UNet",
}
"""The rows of the table, in their order."""

_SIDE = 48  # pixels of a picture on the sheet


def measure_of(plugin: Plugin) -> str:
    """A key of `MEASURES`."""
    if plugin.thing is not None:
        return "thing"
    return "edges" if plugin.kind == "controlnet" else "style"


def write_retention(
    document: Mapping[str, Any], strips: Path, folder: Path, about: Mapping[str, str]
) -> list[Path]:
    """Write `plugins-LANGUAGE.json`, a section of `results.md`, `pictures/plugins-LANGUAGE.webp`.

    Args:
        strips: the folder that the measurement kept its pictures in.
        about: what was measured, such as {"bridge": ...}: shown as it is.

    Raises:
        BridgeError: the folder cannot be written, or the disk is full.
    """
    language = document["options"]["language"]
    sheet = _sheet(document, strips)
    values = {
        "format_version": 1,
        "about": dict(about),
        "options": document["options"],
        "style_evaluator": document["style_evaluator"],
        "pictures": {
            system: sum(len(seen["rank"]) for seen in found.values())
            for system, found in document["systems"].items()
        },
        "systems": summary(document),
    }
    section = markdown(document, about, sheet_path("plugins", language) if sheet else None)
    return write_results(folder, "plugins", language, values, section, sheet)


def markdown(document: Mapping[str, Any], about: Mapping[str, str], picture: str | None) -> str:
    """The section of one language; `picture`: path of the sheet, relative to the page."""
    options = document["options"]
    lines = [
        f"## English plug-ins under a native prompt: {options['language']}",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        f"- drawn: {options['images']} of each concept, {options['things']} of each thing, "
        f"{options['steps']} steps, guidance {options['guidance']:g}, seed {options['seed']}; all "
        "scenes are absent from every training set",
        "- effect: what a plug-in is made for, with it on minus with it off, from the same noise",
        "- retention: its effect under the native prompt by that of the same prompt in English on "
        "the English model alone. In brackets 95 % intervals: of effects and retention by a "
        "bootstrap over prompts, of accuracies Wilson's",
        *(f"- {kind}: {text}" for kind, text in MEASURES.items()),
        "- a checkpoint is added to another model as W + (W_checkpoint - W_backbone)",
        "",
        *(
            line
            for name in _systems_of(document)
            if name == "bridge" or name.startswith(UNTIL)
            for line in _plugin_table(document, name)
        ),
        *_system_table(document),
        *_style_evaluator_lines(document["style_evaluator"]),
    ]
    if picture is not None:
        lines += [
            f"Native concepts in the left {SHOWN} columns, shared ones in the right; of a thing, "
            f"all {2 * SHOWN} are backgrounds and noise:",
            "",
            f"![plug-ins on and off]({picture})",
            "",
        ]
    return "\n".join(lines)


def _plugin_table(document: Mapping[str, Any], system: str) -> list[str]:
    """One row a plug-in, of one system beside the English model."""
    says = _systems_of(document)[system]
    lines = [
        f"### {says[0].upper()}{says[1:]}",
        "",
        "| plug-in | measured by | effect, native prompt | effect, English | retention |",
        "| --- | --- |" + " ---: |" * 3,
    ]
    for plugin in PLUGINS:
        cells = (
            plugin.says,
            measure_of(plugin),
            _estimate(effect_of(document, system, plugin)),
            _estimate(effect_of(document, ENGLISH, plugin)),
            _estimate(retention_of(document, system, plugin)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_accuracy_table(document, system)]


def _accuracy_table(document: Mapping[str, Any], system: str) -> list[str]:
    """What is still recognised with each plug-in on: of the system, and of the English model."""
    columns: tuple[tuple[str, Group], ...] = (
        (system, "native"),
        (system, "shared"),
        (ENGLISH, "shared"),
    )
    lines = [
        "Top-1 with each plug-in on. A plug-in may cost the English model itself some of what it "
        "draws; and in the last two columns the evaluator is shown the same scenes drawn by hand "
        "in the plug-in's style, which it knows but in part:",
        "",
        "| plug-in | native prompt: native | native prompt: shared | English: shared "
        "| drawings: native | drawings: shared |",
        "| --- |" + " ---: |" * 5,
        "| none | "
        + " | ".join(_rate(accuracy_of(document, name, group)) for name, group in columns)
        + " | | |",
    ]
    for plugin in PLUGINS:
        cells = (
            plugin.says,
            *(_rate(accuracy_of(document, name, group, plugin)) for name, group in columns),
            *(_rate(ceiling_of(document, group, plugin)) for group in GROUPS),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _systems_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Measured systems => what they are called; controls follow the others."""
    measured = document["systems"]
    controls = (name for name in measured if name.startswith(CONTROL))
    shorter = sorted(name for name in measured if name.startswith(UNTIL))
    said = {
        "bridge": SYSTEMS["bridge"],
        **{
            name: f"the bridge, in the first {100 * end_of(name):g} % of the steps"
            for name in shorter
        },
        **SYSTEMS,
    }
    return {
        **{name: says for name, says in said.items() if name in measured},
        **{name: f"another bridge: {name.removeprefix(CONTROL)}" for name in controls},
    }


def _system_table(document: Mapping[str, Any]) -> list[str]:
    """One row a system. Product: native top-1 times mean retention."""
    names = " | ".join(plugin.name for plugin in PLUGINS)
    lines = [
        "### Other ways to a native prompt",
        "",
        "Retention of each plug-in, and the product of native top-1 and mean retention: to draw "
        "what the English model never saw, and to keep what was made for it. In the mean each "
        "retention counts 1 at most.",
        "",
        f"| way | native top-1 | shared top-1 | {names} | mean retention | product |",
        "| --- |" + " ---: |" * (len(PLUGINS) + 4),
    ]
    for system, says in _systems_of(document).items():
        accuracy = {group: accuracy_of(document, system, group) for group in GROUPS}
        mean, native = mean_retention(document, system), accuracy["native"]
        product = None if mean is None or native is None else mean * native.share
        cells = (
            says,
            *(_rate(accuracy[group]) for group in GROUPS),
            *(_estimate(retention_of(document, system, plugin)) for plugin in PLUGINS),
            _number(mean),
            _number(product, 3),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _style_evaluator_lines(accuracy: Mapping[str, Any]) -> list[str]:
    """What the style evaluator itself gets right; empty if it was saved without."""
    lines = []
    for drawings, styles in accuracy.items():
        for style, rows in styles.items():
            cells = (f"{100 * row['share']:.1f} %" for row in rows.values())
            lines.append(f"| {drawings} | {style} | " + " | ".join(cells) + " |")
    if not lines:
        return []
    kinds = next(iter(next(iter(accuracy.values())).values()))
    return [
        "The style evaluator itself, on held-out renderings of drawings that it was trained on and "
        "of drawings that it never saw (right of four):",
        "",
        "| drawings | style | " + " | ".join(kind.replace("_", " ") for kind in kinds) + " |",
        "| --- | --- |" + " ---: |" * len(kinds),
        *lines,
        "",
    ]


def _sheet(document: Mapping[str, Any], strips: Path) -> Image.Image | None:
    """The kept pictures of the English model and of the bridge, series by series."""
    rows = {}
    shorter = [name for name in _systems_of(document) if name.startswith(UNTIL)]
    for series in all_series():
        for system in (ENGLISH, "bridge", *shorter):
            path = strip_path(strips, document["options"]["language"], system, series.name)
            if pictures := read_strip(path):
                rows[f"{series.name}: {system}"] = pictures
    return labelled_rows(rows, _SIDE) if rows else None


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else percent(rate)


def _estimate(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"
