"""The world's result as JSON, as a section of a Markdown page, and as pictures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bridge_diffusion.evaluation.page import percent, read_page, replace_section, webp_bytes
from bridge_diffusion.evaluation.plan import CONDITIONS, CONTROL, DRAWING, GROUPS, Group
from bridge_diffusion.evaluation.self_test import DAMAGES
from bridge_diffusion.evaluation.world import Outcome, Score, WorldResult
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.worlds.emoji.concepts import Concept, all_concepts, literal_probes

SHOWN = ("bridge", "as_is", "translation")
"""The conditions whose pictures stand side by side."""

_PAPER, _INK, _RIGHT, _WRONG = (255, 255, 255), (40, 40, 40), (30, 140, 60), (200, 60, 50)
_GAP, _LABEL, _FRAME = 4, 14, 2
_COLUMNS = (
    "condition", "group", "concept", "scene", "prompt", "english", "seed", "rank", "found",
    "background_right",
)  # fmt: skip
_MOST_CELLS = 60  # strips on a sheet, so that a page stays small
_GROUP_NAMES: dict[Group, str] = {
    "native": "native (the English model never saw them)",
    "shared": "shared (the English model knows them)",
}


def write_report(result: WorldResult, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """Write `results.md`, `world-LANGUAGE.json`, its pictures, and what was seen of each picture.

    The pictures are `pictures/world-LANGUAGE-*.webp`; `world-LANGUAGE.csv` has a row of each that
    was drawn.

    In a `results.md` that is there, only this language's section is replaced.

    Args:
        about: what was measured, such as {"model": ..., "bridge": ...}: shown as it is.

    Raises:
        BridgeError: the folder cannot be written, or the disk is full.
    """
    language = result.options.language
    written = []
    strips = {}
    for name, picture in _pictures(result).items():
        path = folder / "pictures" / f"world-{language}-{name}.webp"
        written.append(write_file(webp_bytes(picture), path))
        strips[name] = f"pictures/{path.name}"
    path = folder / f"world-{language}.json"
    document = json.dumps(to_json(result, about), ensure_ascii=False, indent=1) + "\n"
    written.append(write_file(document.encode(), path))
    written.append(write_file(_table(result.outcomes).encode(), path.with_suffix(".csv")))
    page = folder / "results.md"
    text = replace_section(read_page(page), f"world {language}", markdown(result, about, strips))
    written.append(write_file(text.encode(), page))
    return written


def _table(outcomes: Sequence[Outcome]) -> str:
    """As CSV, a row a picture; codepoints of several concepts have a blank between them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for outcome in outcomes:
        case = outcome.case
        writer.writerow(
            (
                case.condition,
                case.group,
                case.concept.codepoints,
                case.scene.kind,
                case.prompt,
                case.english,
                case.seed,
                outcome.rank,
                " ".join(outcome.found),
                int(outcome.background == case.scene.colours[0]),
            )
        )
    return text.getvalue()


def to_json(result: WorldResult, about: Mapping[str, str]) -> dict[str, Any]:
    """The numbers, as plain values."""
    options = result.options
    return {
        "format_version": 1,
        "about": dict(about),
        "options": {name: getattr(options, name) for name in options.__slots__},
        "retrieval_among": result.concepts,
        "complete": result.complete,
        "seconds": round(result.seconds, 1),
        "controls": result.controls,
        "evaluator": result.evaluator,
        "scores": [score.to_json() for score in result.scores],
    }


def markdown(result: WorldResult, about: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """The section of one language.

    Args:
        pictures: paths of the pictures that were written, relative to the page, by name.
    """
    options = result.options
    drawn = f"{len(result.outcomes):,} pictures, {options.images} of each concept and condition"
    lines = [
        f"## Emoji world: {options.language}",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        f"- drawn: {drawn}, {options.steps} steps, guidance {options.guidance:g}, "
        f"seed {options.seed}" + ("" if result.complete else "; cut short by the time limit"),
        f"- top-1, top-5: the right concept is first, among the first five, of all "
        f"{result.concepts}; by chance {100 / result.concepts:.1f} % and "
        f"{min(100, 500 / result.concepts):.1f} %. In brackets the 95 % interval (Wilson) over "
        "pictures",
        "- all scenes are absent from every training set; a picture's background is right if its "
        "border is nearest to the wanted colour of the eight",
        "",
        "| condition | concepts | pictures | top-1 | top-5 | background |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(_row(result, score) for score in result.scores),
        "",
        *_evaluator_lines(result.evaluator),
        *_probe_lines(result, pictures),
    ]
    for group in GROUPS:
        if group in pictures:
            lines += [
                f"### Concepts that are {_GROUP_NAMES[group]}",
                "",
                "In each cell from left to right: "
                + "; ".join(CONDITIONS[name] for name in SHOWN)
                + ". A green frame is top-1, a red one is not.",
                "",
                f"![{group} concepts]({pictures[group]})",
                "",
            ]
    return "\n".join(lines)


def _row(result: WorldResult, score: Score) -> str:
    return (
        f"| {_condition_name(result, score.condition)} | {score.group} | {score.top1.count} "
        f"| {percent(score.top1)} | {percent(score.top5)} | {percent(score.background)} |"
    )


def _condition_name(result: WorldResult, condition: str) -> str:
    if condition == DRAWING:
        return "*the vendor's own drawings of such scenes: the evaluator's own errors*"
    if condition in CONDITIONS:
        return CONDITIONS[condition]
    name = condition.removeprefix(CONTROL)
    return f"control {name}: the same scenes, prompts in {result.controls[name]}, its own bridge"


def _evaluator_lines(accuracy: Mapping[str, Any]) -> list[str]:
    """The evaluator's own accuracy; empty if it was saved without."""
    if not accuracy:
        return []
    kinds = ("clean", *DAMAGES)
    lines = [
        "The evaluator itself, on held-out renderings of real drawings (top-1 / top-5):",
        "",
        "| drawings | " + " | ".join(kind.replace("_", " ") for kind in kinds) + " |",
        "| --- |" + " ---: |" * len(kinds),
    ]
    for vendor, rows in accuracy.items():
        cells = (
            " / ".join(f"{100 * rows[kind][top]['share']:.1f} %" for top in ("top1", "top5"))
            for kind in kinds
        )
        lines.append(f"| {vendor} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _probe_lines(result: WorldResult, pictures: Mapping[str, str]) -> list[str]:
    """A table with a strip of pictures and the evaluator's word for each literal probe."""
    language = result.options.language
    rows = []
    for probe in literal_probes():
        outcomes = _first_outcomes(result, probe)
        if probe.codepoints in pictures and outcomes:
            answers = "<br>".join(
                f"{name.replace('_', ' ')}: {_answer(outcomes[name])}"
                for name in SHOWN
                if name in outcomes
            )
            strip = f"![{probe.names['en']}]({pictures[probe.codepoints]})"
            rows.append(f"| {probe.names[language]} | {probe.names['en']} | {strip} | {answers} |")
    if not rows:
        return []
    return [
        "### The literal probes",
        "",
        "The English model knows every word of their English names and never saw the things. "
        "Pictures: the native prompt through the bridge, the native prompt to the English model, "
        "its translation to the English model.",
        "",
        "| native | English | bridge, as it is, translation | what the evaluator sees |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _answer(outcome: Outcome) -> str:
    names = {concept.codepoints: concept.names["en"] for concept in all_concepts()}
    if outcome.rank == 0:
        return "right"
    return f"{names[outcome.found[0]]} (the right one is number {outcome.rank + 1})"


def _first_outcomes(result: WorldResult, concept: Concept) -> dict[str, Outcome]:
    """The first picture of a concept in each condition that is shown."""
    return {
        outcome.case.condition: outcome
        for outcome in result.outcomes
        if outcome.case.concept == concept
        and outcome.case.index == 0
        and outcome.case.condition in SHOWN
    }


def _pictures(result: WorldResult) -> dict[str, Image.Image]:
    """A strip for each literal probe, a sheet for each group of concepts."""
    drawn: dict[Group, dict[str, dict[str, Outcome]]] = {group: {} for group in GROUPS}
    for outcome in result.outcomes:
        case = outcome.case
        if case.index == 0 and case.condition in SHOWN:
            of_concept = drawn[case.group].setdefault(case.concept.codepoints, {})
            of_concept[case.condition] = outcome
    pictures = {}
    for probe in literal_probes():
        if outcomes := drawn["native"].get(probe.codepoints):
            pictures[probe.codepoints] = _strip(outcomes, 80)
    for group, cells in drawn.items():
        if cells:
            pictures[group] = _sheet(list(cells.values()))
    return pictures


def _strip(outcomes: Mapping[str, Outcome], side: int) -> Image.Image:
    """The pictures of the shown conditions beside each other, framed by right and wrong."""
    cell = side + 2 * _FRAME
    strip = Image.new("RGB", (len(SHOWN) * (cell + _GAP) - _GAP, cell), _PAPER)
    draw = ImageDraw.Draw(strip)
    for column, name in enumerate(SHOWN):
        if name not in outcomes:
            continue
        outcome, x = outcomes[name], column * (cell + _GAP)
        assert outcome.picture is not None
        colour = _RIGHT if outcome.rank == 0 else _WRONG
        draw.rectangle((x, 0, x + cell - 1, cell - 1), fill=colour)
        picture = outcome.picture.resize((side, side), Image.Resampling.LANCZOS)
        strip.paste(picture, (x + _FRAME, _FRAME))
    return strip


def _sheet(cells: Sequence[Mapping[str, Outcome]], columns: int = 5) -> Image.Image:
    """One labelled strip a concept, in the order of Unicode; of many, an even choice."""
    order = {concept.codepoints: i for i, concept in enumerate(all_concepts())}
    named = sorted(
        ((next(iter(cell.values())).case.concept, cell) for cell in cells),
        key=lambda pair: order[pair[0].codepoints],
    )
    named = named[:: -(-len(named) // _MOST_CELLS)]
    strips = [(concept.names["en"], _strip(cell, 56)) for concept, cell in named]
    width, height = strips[0][1].width + 3 * _GAP, strips[0][1].height + _LABEL + 2 * _GAP
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (min(columns, len(strips)) * width, rows * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (name, strip) in enumerate(strips):
        x, y = index % columns * width + _GAP, index // columns * height
        draw.text((x, y), name[:32].encode("ascii", "replace").decode(), fill=_INK, font=font)
        sheet.paste(strip, (x, y + _LABEL))
    return sheet
