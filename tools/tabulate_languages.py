"""The table of languages: python tools/tabulate_languages.py ROOT [--write docs/languages.md].

ROOT is where `tools/train_languages.sh` put its runs: ROOT/LANG/world-LANG.json is what `bdm
evaluate world` wrote, ROOT/text-LANG the run of `bdm train-text`, ROOT/bridge-LANG and
ROOT/bridge-LANG-again those of `bdm train`, if the branch was trained too. docs/world-LANG.json
stands in for what ROOT has not.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge_diffusion.evaluation.page import percent, read_page, replace_section
from bridge_diffusion.evaluation.retrieval import Rate
from bridge_diffusion.training.curves import read_curves
from bridge_diffusion.worlds.emoji.concepts import NATIVE_REGIONS

DOCS = Path(__file__).parents[1] / "docs"
HEADINGS = (
    "language", "captions of the text encoder", "images of the branch", "pictures",
    "native top-1", "native top-5", "shared top-1", "shared top-5", "backgrounds",
)  # fmt: skip


def table(root: Path) -> str:
    """A row a language that was evaluated: the prompt in it, through its bridge."""
    rows = [f"| {' | '.join(HEADINGS)} |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    rows += [f"| {' | '.join(cells)} |" for cells in _rows(root)]
    return "\n".join(rows) + "\n"


def _rows(root: Path) -> Iterator[list[str]]:
    for language, regions in NATIVE_REGIONS.items():
        own = root / language / f"world-{language}.json"
        file = own if own.is_file() else DOCS / f"world-{language}.json"
        if not regions or not file.is_file():
            continue
        document = json.loads(file.read_text(encoding="utf-8"))
        scores = {s["group"]: s for s in document["scores"] if s["condition"] == "bridge"}
        groups = [scores[group] for group in ("native", "shared") if group in scores]
        backgrounds = [_rate(score["background"]) for score in groups]
        yield [
            language,
            _images(root / f"text-{language}"),
            _images(root / f"bridge-{language}", root / f"bridge-{language}-again"),
            str(sum(rate.count for rate in backgrounds)),
            *(
                percent(_rate(scores[group][top])) if group in scores else ""
                for group in ("native", "shared")
                for top in ("top1", "top5")
            ),
            percent(
                Rate(hits=sum(r.hits for r in backgrounds), count=sum(r.count for r in backgrounds))
            ),
        ]


def _rate(value: dict[str, Any]) -> Rate:
    return Rate(hits=value["hits"], count=value["count"])


def _images(*runs: Path) -> str:
    """How many the runs were trained on together; nothing if none is there."""
    seen = [read_curves(run)["loss"][-1][0] for run in runs if (run / "curves.jsonl").is_file()]
    return f"{sum(seen):,}" if seen else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--write", type=Path, help="a page whose section `languages` is replaced")
    arguments = parser.parse_args()
    text = table(arguments.root)
    if arguments.write is not None:
        page = replace_section(read_page(arguments.write), "languages", text)
        arguments.write.write_text(page, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
