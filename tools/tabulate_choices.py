"""The table of `tools/measure_choices.sh`: python tools/tabulate_choices.py ROOT."""

import sys
from pathlib import Path

from bridge_diffusion.training.curves import Points, read_curves

_COLUMNS = {
    "native top-1": ("probe/native_top1", 100, "{:.1f} %"),
    "shared top-1": ("probe/shared_top1", 100, "{:.1f} %"),
    "loss": ("unweighted", 1, "{:.4f}"),
    "images/s": ("images_per_second", 1, "{:.1f}"),
    "peak GiB": ("peak_memory_gib", 1, "{:.2f}"),
}


def table(root: Path) -> str:
    """A row a run: the last value of each curve; of speeds the median."""
    rows = [
        f"| choice | images | {' | '.join(_COLUMNS)} |",
        "| --- " * (2 + len(_COLUMNS)) + "|",
    ]
    for run in sorted(path.parent for path in root.glob("*/config.json")):
        curves = read_curves(run)
        done = curves["loss"][-1][0] if "loss" in curves else 0
        cells = [run.name, f"{done:,}"]
        for name, factor, form in _COLUMNS.values():
            cells.append(form.format(factor * _told(name, curves[name])) if name in curves else "")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _told(name: str, points: Points) -> float:
    values = [value for _, value in points]
    return sorted(values)[len(values) // 2] if name == "images_per_second" else values[-1]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    text = table(folder)
    (folder / "choices.md").write_text(text, encoding="utf-8")
    print(text)
