"""One page about a run, in one file: curves, samples over time, skipped pictures, settings.

It is made from the run's folder alone, at the end of a run and by `bdm report RUN` whenever one
likes, also while the run goes on.
"""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.training.charts import line_chart, short_number
from bridge_diffusion.training.curves import Points, read_curves
from bridge_diffusion.training.run_folder import read_settings

FILE = "report.html"
_SKIPPED = "skipped.json"
_MOST_GRIDS = 6  # sample grids that are shown, the first and the last among them
_MOST_SKIPPED = 200  # pictures that are named one by one

# Charts in their order: title, and the curves by name, or by the first part of their names.
_CHARTS = (
    ("Loss", ("loss", "unweighted")),
    ("Loss by timestep (0 is the picture, the last pure noise)", ("loss_by_timestep/",)),
    ("Held-out scenes whose concept is found first", ("probe/",)),
    ("Norm of the gradient", ("gradient_norm",)),
    ("Learning rate", ("learning_rate",)),
    ("Images a second", ("images_per_second",)),
    ("Peak memory, GiB", ("peak_memory_gib",)),
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-weight: 600 }
svg { width: 100%; height: auto } svg text { font-size: 11px; fill: #555 }
svg .grid { stroke: #ddd } svg polyline { fill: none; stroke-width: 1.6 }
.legend span { margin-right: 1rem; font-size: 13px; white-space: nowrap }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left;
  vertical-align: top } td.value { word-break: break-all }
img { max-width: 100%; image-rendering: auto } ol { columns: 2 } .quiet { color: #666 }
"""


def finish_run(run_dir: Path, skipped: Mapping[str, str]) -> Path:
    """Keep which pictures were skipped, and why, and write the report. Returns its file."""
    text = json.dumps(dict(skipped), ensure_ascii=False, indent=1)
    write_file(text.encode() + b"\n", run_dir / _SKIPPED)
    return write_report(run_dir)


def write_report(run_dir: Path) -> Path:
    """Write run_dir/report.html. BridgeError if there is no run or a file of it is damaged."""
    settings = read_settings(run_dir)
    curves = read_curves(run_dir)
    sections = [
        f"<h1>{html.escape(run_dir.absolute().name)}</h1>",
        _summary(settings["loop"], curves),
        _charts(curves),
        _samples(run_dir, settings["task"].get("sample_prompts", ())),
        _skipped(run_dir),
        "<h2>Settings</h2>",
        _table({**settings["loop"], **settings["task"]}),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(run_dir.absolute().name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )
    return write_file(page.encode(), run_dir / FILE)


def _summary(loop: Mapping[str, Any], curves: Mapping[str, Points]) -> str:
    if "loss" not in curves:
        return "<p>Nothing was logged yet.</p>"
    done, loss = curves["loss"][-1]
    total = int(loop.get("images", done))
    facts = {"images": f"{done:,} of {total:,} ({done / total:.0%})", "last loss": f"{loss:.4f}"}
    speeds = curves.get("images_per_second", [])
    if seconds := _training_seconds(speeds):
        left = max(0, total - done) / max(1e-9, speeds[-1][1])
        facts["training, without drawing"] = _duration(seconds)
        facts["images a second"] = f"{speeds[-1][0] / seconds:.1f}"
        if left:
            facts["left at the last speed"] = _duration(left)
    if memory := curves.get("peak_memory_gib"):
        where = "on the device" if str(loop.get("device", "")) != "cpu" else "of the process"
        facts["peak memory"] = f"{max(value for _, value in memory):.2f} GiB {where}"
    return _table(facts)


def _charts(curves: Mapping[str, Points]) -> str:
    figures, shown = [], set[str]()
    for title, names in _CHARTS:
        chosen = {
            name.removeprefix(wanted) if wanted.endswith("/") else name: points
            for wanted in names
            for name, points in sorted(curves.items(), key=_in_numbers)
            if name == wanted or (wanted.endswith("/") and name.startswith(wanted))
        }
        if "unweighted" in chosen and chosen["unweighted"] == chosen.get("loss"):
            del chosen["unweighted"]
        shown |= {name for name in curves if name.startswith(names)}
        figures.append(line_chart(title, chosen))
    figures += [line_chart(name, {name: curves[name]}) for name in sorted(curves.keys() - shown)]
    return f'<h2>Curves over images</h2><div class="charts">{"".join(figures)}</div>'


def _in_numbers(curve: tuple[str, Points]) -> list[tuple[int, str]]:
    """Bands in the order of their timesteps, which is not that of their letters."""
    parts = re.split(r"(\d+)", curve[0])
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _samples(run_dir: Path, prompts: Sequence[str]) -> str:
    grids = sorted(run_dir.glob("samples/*.png"), key=lambda path: path.stem)
    if not grids:
        return ""
    count = min(_MOST_GRIDS, len(grids))
    places = {round(i * (len(grids) - 1) / max(1, count - 1)) for i in range(count)}
    parts = ["<h2>Samples, each from its own seed</h2>"]
    if prompts:
        parts.append("<ol>")
        parts += [f'<li dir="auto">{html.escape(prompt)}</li>' for prompt in prompts]
        parts.append("</ol>")
    for place in sorted(places):
        data = base64.b64encode(grids[place].read_bytes()).decode()
        images = f"{int(grids[place].stem):,} images" if grids[place].stem.isdigit() else ""
        parts.append(
            f"<figure><figcaption>{images}</figcaption>"
            f'<img alt="samples after {images}" src="data:image/png;base64,{data}"></figure>'
        )
    if len(grids) > count:
        parts.append(f'<p class="quiet">{count} of {len(grids)} grids; all are in samples/.</p>')
    return "".join(parts)


def _skipped(run_dir: Path) -> str:
    file = run_dir / _SKIPPED
    if not file.is_file():
        return ""
    try:
        skipped = {str(k): str(v) for k, v in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BridgeError(f"{file} is damaged ({error}); delete it") from error
    if not skipped:
        return "<h2>Skipped pictures</h2><p>None.</p>"
    more = len(skipped) - _MOST_SKIPPED
    rest = f'<p class="quiet">and {more} more in {_SKIPPED}</p>' if more > 0 else ""
    some = dict(list(skipped.items())[:_MOST_SKIPPED])
    return f"<h2>Skipped pictures: {len(skipped)}</h2>{_table(some)}{rest}"


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(name))}</th>"
        f'<td class="value" dir="auto">{html.escape(_said(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not isinstance(value, bool):
        return short_number(value) if abs(value) < 1000 else f"{value:,.0f}"
    return json.dumps(value, ensure_ascii=False)


def _training_seconds(speeds: Points) -> float:
    """Seconds that the logged stretches took, from their speeds."""
    seconds, before = 0.0, 0
    for images, speed in speeds:
        seconds += (images - before) / max(1e-9, speed)
        before = images
    return seconds


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
