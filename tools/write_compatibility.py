"""Draw the whole compatibility matrix, then write docs/compatibility.md from what was drawn.

    python tools/write_compatibility.py               draw the cells that are missing, then write
    python tools/write_compatibility.py --only-write  write from the cells drawn so far

Each cell's outcome is kept in build/compatibility.jsonl as soon as it is there, so an interrupted
run goes on where it was. Outcomes of other code or other versions are dropped. The cells are those
of tests/compatibility; ways that take little time come first.
"""

import hashlib
import json
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / "tests/compatibility"
PAGE = ROOT / "docs/compatibility.md"
RESULTS = ROOT / "build/compatibility.jsonl"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")
FAMILY_TITLES = {"sd15": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}

_INTRODUCTION = """# Compatibility

<!-- Written by tools/write_compatibility.py; do not edit. -->

Which stock pipelines, plug-ins and ways to run go together with a bridge, as measured: real classes
of diffusers at tiny size with random weights, float32, 2 steps, 32 pixels, once with an English
prompt beside the native one and once without. In every cell the picture is compared with an oracle
that shares no code with the library (`tests/compatibility/matrix/oracle.py`): diffusers' own
ControlNet runs the branch, its residuals are added to the stock UNet call by hand. A cell holds if
no pixel (0 to 1) differs by more than {tolerance:g}, if the plug-in and the branch each change the
picture, and if the branch's weights are the same bits afterwards.

The bridge is attached before a plug-in is loaded and before a pipeline is offloaded, and after it
is compiled. Offloading runs the hooks of accelerate and of diffusers, with the CPU as the device
that computes. Compiling means the whole UNet as one graph, run by PyTorch (backend "eager").

Of DoRA files in kohya's layout diffusers drops the scales, with a warning, and loads a plain LoRA.
Its AnimateDiff of SDXL leaves the UNet's size embedding random; the cells copy it from the model.
"""

Outcomes = dict[tuple[str, ...], dict[str, Any]]


def digest() -> str:
    """Of the code that decides what is drawn, and of the libraries' versions."""
    package = ROOT / "src/bridge_diffusion"
    files = [package / "bridge.py", package / "prompting.py"]
    for folder in (package / "models", package / "text", MATRIX / "matrix"):
        files += sorted(folder.glob("*.py"))
    content = b"".join(path.read_bytes() for path in files)
    return hashlib.sha256(content + repr(versions()).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    return {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def read_outcomes() -> Outcomes:
    """What was drawn by this code so far."""
    if not RESULTS.is_file():
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    current = digest()
    return {tuple(line["cell"]): line for line in lines if line["digest"] == current}


def draw_missing(done: Outcomes) -> None:
    """Draw what is not there yet, way by way."""
    from matrix.cells import TEXTS, all_cells, check
    from matrix.ways import WAYS

    order = {way.name: place for place, way in enumerate(WAYS)}
    cells = [c for c in all_cells() if c.absent() is None and c.values() not in done]
    cells.sort(key=lambda cell: (order[cell.way.name], TEXTS.index(cell.text)))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    code = digest()
    for number, cell in enumerate(cells, start=1):
        try:
            outcome = check(cell)
            line = {"status": outcome.status, "detail": outcome.detail, "error": outcome.error}
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            line = {"status": "fails", "detail": said, "error": 0.0}
            print(f"{cell}: {said}", flush=True)
        line |= {"cell": cell.values(), "digest": code, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        done[cell.values()] = json.loads(json.dumps(line))
        if number % 100 == 0:
            print(f"{number} of {len(cells)} cells", flush=True)


def page(outcomes: Outcomes) -> str:
    """The whole document."""
    from matrix.cells import TOLERANCE, all_cells

    cells = list(all_cells())
    existing = [cell for cell in cells if cell.absent() is None]
    dates = sorted({line["date"] for line in outcomes.values()})
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = [
        _INTRODUCTION.format(tolerance=TOLERANCE),
        f"Drawn on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, on a CPU; {libraries}."
        if dates
        else "Nothing is drawn yet.",
        "",
        *_summary(outcomes, existing),
        "",
        *(line for family in FAMILY_TITLES for line in _family(family, outcomes, cells)),
        *_reasons(outcomes, cells),
    ]
    return "\n".join(text) + "\n"


def _summary(outcomes: Outcomes, existing: list[Any]) -> Iterable[str]:
    """How many cells of each way were drawn, and how they came out."""
    heads = ("same as the oracle", "largest difference", "diffusers cannot", "fails", "not drawn")
    yield f"| way to run | {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * len(heads)
    for way in dict.fromkeys(cell.way.name for cell in existing):
        lines = [outcomes.get(c.values()) for c in existing if c.way.name == way]
        count = Counter("not drawn" if line is None else line["status"] for line in lines)
        error = max((line["error"] for line in lines if line), default=0.0)
        yield (
            f"| {way} | {count['same']} | {error:.1e} | {count['stock cannot']} | "
            f"{count['fails']} | {count['not drawn']} |"
        )


def _family(family: str, outcomes: Outcomes, cells: list[Any]) -> Iterable[str]:
    """A family's table: plug-ins by pipelines."""
    own = [cell for cell in cells if cell.family == family]
    pipelines = list(dict.fromkeys(cell.pipeline.name for cell in own))
    plugins = list(dict.fromkeys(cell.plugin.name for cell in own))
    yield f"## {FAMILY_TITLES[family]}"
    yield ""
    yield "Columns: " + "; ".join(f"{i} {name}" for i, name in enumerate(pipelines, start=1)) + "."
    yield ""
    yield "✓ every drawn way is the same as the oracle; · there is no such combination; S diffusers"
    yield "cannot do it without a bridge either; ✗ fails; ? not drawn. The reasons stand below."
    yield ""
    yield "| plug-in | " + " | ".join(str(i + 1) for i in range(len(pipelines))) + " |"
    yield "| --- |" + " --- |" * len(pipelines)
    for plugin in plugins:
        row = []
        for pipeline in pipelines:
            here = [c for c in own if (c.pipeline.name, c.plugin.name) == (pipeline, plugin)]
            row.append(_sign(here, outcomes))
        yield f"| {plugin} | " + " | ".join(row) + " |"
    yield ""


def _sign(cells: list[Any], outcomes: Outcomes) -> str:
    """One sign for all ways and texts of a combination."""
    existing = [cell for cell in cells if cell.absent() is None]
    if not existing:
        return "·"
    statuses = {outcomes[c.values()]["status"] for c in existing if c.values() in outcomes}
    if "fails" in statuses:
        return "✗"
    if "same" in statuses:
        return "✓"
    return "S" if statuses else "?"


def _reasons(outcomes: Outcomes, cells: list[Any]) -> Iterable[str]:
    absent = Counter(cell.absent() for cell in cells if cell.absent() is not None)
    stock = Counter(
        line["detail"] for line in outcomes.values() if line["status"] == "stock cannot"
    )
    for title, reasons in (
        ("Combinations that do not exist", absent),
        ("What diffusers itself cannot do, each tried without a bridge", stock),
    ):
        yield f"## {title}"
        yield ""
        yield "| reason | cells |"
        yield "| --- | --- |"
        for reason, count in sorted(reasons.items()):
            yield f"| {reason} | {count} |"
        yield ""
    failures = [line for line in outcomes.values() if line["status"] == "fails"]
    if failures:
        yield "## Fails"
        yield ""
        for line in failures:
            yield f"- {' | '.join(line['cell'])}: {line['detail']}"
        yield ""


def main() -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(MATRIX))
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(1)
    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
    outcomes = read_outcomes()
    try:
        if "--only-write" not in sys.argv[1:]:
            draw_missing(outcomes)
    finally:
        PAGE.write_text(page(outcomes), encoding="utf-8")
        print(f"{len(outcomes)} cells in {PAGE.relative_to(ROOT)}")
    return int(any(line["status"] == "fails" for line in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
