"""Two languages in one image, as numbers, as a section of a page, and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from bridge_diffusion.evaluation.bootstrap import Estimate, bootstrap, quotient
from bridge_diffusion.evaluation.kept import read_strip
from bridge_diffusion.evaluation.page import (
    labelled_rows,
    percent,
    sheet_path,
    write_results,
)
from bridge_diffusion.evaluation.plan import GROUPS
from bridge_diffusion.evaluation.retrieval import Rate
from bridge_diffusion.evaluation.two_languages import (
    KINDS,
    NATIVE_ALONE,
    SCALES,
    SCALES_OF_TWO,
    SHOWN,
    alone_name,
    names_of,
    part_strip,
    scale_name,
)

ALL = "all"
"""The row of all kinds, or groups, together."""

_SAYS = {
    "background": "object; background",
    "place": "object; its place and the background",
    "second": "one object each",
    ALL: "all",
}
_SIDE = 48  # pixels of a picture on the sheet

Seen = Mapping[str, Any]
"""What `TwoLanguages.run` gives."""


def rate_of(document: Seen, part: str, half: str, chosen: Sequence[int]) -> Rate | None:
    """How often a half was right in a part, "native" or "english", or "joint" for both at once.

    `chosen`: positions of the pairs that count. None if the part was not drawn.
    """
    found = document["parts"].get(part)
    if found is None:
        return None
    halves = ("native", "english") if half == "joint" else (half,)
    right = [all(found[each][i] for each in halves) for i in chosen]
    return Rate(hits=sum(right), count=len(right))


def ratio_of(document: Seen, chosen: Sequence[int]) -> Estimate | None:
    """Joint accuracy at scale 1, by the product of the accuracies of the halves alone.

    Of several kinds together the product is formed kind by kind, and then averaged over the pairs.
    """
    alone = alone_name(_second(document))
    parts = [document["parts"].get(part) for part in (scale_name(1), NATIVE_ALONE, alone)]
    if any(part is None for part in parts):
        return None
    both, native, english = (part for part in parts if part is not None)
    kinds = np.array(document["kinds"])
    joint = np.array(both["native"]) * np.array(both["english"])
    columns = []
    for kind in KINDS:
        of_kind = (kinds == kind).astype(float)
        values = (joint, np.array(native["native"]), np.array(english["english"]))
        columns += [of_kind, *(of_kind * value for value in values)]
    return bootstrap(np.stack(columns, axis=1)[list(chosen)], _joint_by_product)


def _joint_by_product(means: Float[np.ndarray, "columns samples"]) -> Float[np.ndarray, "samples"]:
    """Columns: for each kind share, joint, native alone, English alone; zero for other kinds."""
    joint = product = np.zeros(means.shape[1])
    for share, both, native, english in means.reshape(len(KINDS), 4, -1):
        joint = joint + both
        product = product + np.nan_to_num(quotient(native * english, share))
    return quotient(joint, product)


def write_two_languages(
    document: Seen, strips: Path, folder: Path, about: Mapping[str, str]
) -> list[Path]:
    """Write `two-languages-LANGUAGE.json`, a section of `results.md`, and a sheet of pictures.

    Args:
        strips: the folder that the measurement kept its pictures in.
        about: what was measured, such as {"bridge": ...}: shown as it is.

    Raises:
        BridgeError: the folder cannot be written, or the disk is full.
    """
    names = names_of(document["options"]["language"], _second(document))
    sheet = _sheet(document, strips)
    values = {
        "format_version": 1,
        "about": dict(about),
        "options": document["options"],
        "pairs": len(document["kinds"]),
        "rows": {name: _row_json(document, chosen) for name, chosen in _rows(document).items()},
    }
    section = markdown(document, about, sheet_path("two-languages", names) if sheet else None)
    return write_results(folder, "two-languages", names, values, section, sheet)


def _second(document: Seen) -> str:
    """The language of the half that English says otherwise."""
    return str(document.get("second", "en"))


def markdown(document: Seen, about: Mapping[str, str], picture: str | None) -> str:
    """The section of one language; `picture`: path of the sheet, relative to the page."""
    options, tongue = document["options"], _second(document)
    english = "English" if tongue == "en" else tongue
    without = (
        "the English one without it" if tongue == "en" else f"the {tongue} one through its own"
    )
    scales, of_branch = _scales(document), "the branch" if tongue == "en" else "both branches"
    lines = [
        f"## Two languages in one image: {options['language']} and {english}",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        f"- drawn: {len(document['kinds']):,} prompt pairs of scored scenes, which no training set "
        f"has; {options['steps']} steps, guidance {options['guidance']:g}, seed {options['seed']}",
        "- a half is right if all that it says is in the picture: objects first among all concepts "
        "(in their halves, where there are two), backgrounds by the border, places by where the "
        "middle of the object lies",
        f"- alone: the native half through the bridge, {without}; joint: both in one image, both "
        "right",
        "- ratio: joint by the product of the two alone, 1 if they do not disturb each other. In "
        "brackets 95 % intervals: Wilson's, of ratios a bootstrap over pairs",
        "",
        f"| native; {english} | pairs | native alone | {english} alone | joint | native half of "
        f"joint | {english} half of joint | ratio |",
        "| --- |" + " ---: |" * 7,
        *(_row(document, name, chosen) for name, chosen in _rows(document).items()),
        "",
        f"Joint accuracy by the scale of {of_branch}:",
        "",
        f"| native; {english} | " + " | ".join(f"{scale:g}" for scale in scales) + " |",
        "| --- |" + " ---: |" * len(scales),
        *(_scale_row(document, name, chosen) for name, chosen in _rows(document).items()),
        "",
    ]
    if picture is not None:
        lines += [
            f"{SHOWN} pairs of each kind, from left to right: background, place, second object.",
            "",
            f"![two languages in one image]({picture})",
            "",
        ]
    return "\n".join(lines)


def _rows(document: Seen) -> dict[str, list[int]]:
    """The positions of the pairs of each kind, of each group, and of all."""
    rows = {kind: [i for i, k in enumerate(document["kinds"]) if k == kind] for kind in KINDS}
    groups = document["groups"]
    rows |= {f"{g} first object": [i for i, k in enumerate(groups) if k == g] for g in GROUPS}
    return {**rows, ALL: list(range(len(groups)))}


def _scales(document: Seen) -> tuple[float, ...]:
    """The branch's scales, as columns."""
    return SCALES if _second(document) == "en" else SCALES_OF_TWO


def _row(document: Seen, name: str, chosen: Sequence[int]) -> str:
    both = scale_name(1)
    rates = (
        rate_of(document, NATIVE_ALONE, "native", chosen),
        rate_of(document, alone_name(_second(document)), "english", chosen),
        rate_of(document, both, "joint", chosen),
        rate_of(document, both, "native", chosen),
        rate_of(document, both, "english", chosen),
    )
    ratio = ratio_of(document, chosen)
    cells = (
        _SAYS.get(name, name),
        str(len(chosen)),
        *("" if rate is None else percent(rate) for rate in rates),
        "" if ratio is None else str(ratio),
    )
    return "| " + " | ".join(cells) + " |"


def _scale_row(document: Seen, name: str, chosen: Sequence[int]) -> str:
    scales = _scales(document)
    rates = [rate_of(document, scale_name(scale), "joint", chosen) for scale in scales]
    cells = ("" if rate is None else percent(rate) for rate in rates)
    return f"| {_SAYS.get(name, name)} | " + " | ".join(cells) + " |"


def _row_json(document: Seen, chosen: Sequence[int]) -> dict[str, Any]:
    ratio = ratio_of(document, chosen)
    rates = {
        part: {
            half: rate.to_json()
            for half in ("native", "english", "joint")
            if (rate := rate_of(document, part, half, chosen)) is not None
        }
        for part in document["parts"]
    }
    return {"pairs": len(chosen), "ratio": None if ratio is None else ratio.to_json(), **rates}


def _sheet(document: Seen, strips: Path) -> Image.Image | None:
    """The kept pictures, part by part."""
    names = names_of(document["options"]["language"], _second(document))
    rows = {part: read_strip(part_strip(strips, names, part)) for part in document["parts"]}
    return labelled_rows(rows, _SIDE) if rows else None
