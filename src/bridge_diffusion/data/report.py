"""What the filters kept and dropped: counts, and a page with pictures of what was dropped."""

import base64
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from bridge_diffusion.data.filters import REASONS, UNUSABLE, Verdict
from bridge_diffusion.data.pairs import PairDataset, UnusablePair, left_out

_EXAMPLES = 24  # pictures a reason
_SIDE = 144  # pixels of a thumbnail
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;
color:#222}table{border-collapse:collapse}td,th{padding:.2em 1em .2em 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.sheet{display:flex;flex-wrap:wrap;gap:1em}
figure{width:10em;margin:0;overflow-wrap:anywhere;font-size:12px}img{max-width:100%}
.none{width:9em;height:6em;background:#eee;display:grid;place-items:center;color:#888}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of a data set's pairs."""

    name: str
    """The data, as the user named it."""
    verdicts: Sequence[Verdict]
    """One a pair."""
    left_out: dict[str, str]
    """What was found beside the pairs and is none: why, by name."""

    @property
    def kept(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.kept]

    def dropped(self, reason: str) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.reason == reason]

    def to_json(self) -> dict[str, Any]:
        """Counts, and every pair that was dropped, by name."""
        kept = self.kept
        captions = sum(len(one.measures.captions) for one in self.verdicts)
        tags = Counter(tag for one in kept for tag in one.measures.tags)
        return {
            "data": self.name,
            "pairs": len(self.verdicts),
            "kept": len(kept),
            "dropped": {reason: n for reason in REASONS if (n := len(self.dropped(reason)))},
            "captions": captions,
            "captions_kept": sum(len(one.kept) for one in kept),
            "language_tags": dict(tags.most_common()),
            "shorter_side": _spread([min(o.measures.width, o.measures.height) for o in kept]),
            "longer_by_shorter": _spread([_aspect(one) for one in kept]),
            "caption_length": _spread([len(o.measures.captions[i]) for o in kept for i in o.kept]),
            "left_out": self.left_out,
            "dropped_pairs": [
                {"key": one.measures.key, "reason": one.reason, "detail": one.detail}
                for one in self.verdicts
                if not one.kept
            ],
        }

    def lines(self) -> list[str]:
        """The counts, for a terminal."""
        values = self.to_json()
        lines = [
            f"{values['kept']:,} of {values['pairs']:,} pairs kept, with "
            f"{values['captions_kept']:,} of {values['captions']:,} captions"
        ]
        lines += [f"  {count:,} dropped: {reason}" for reason, count in values["dropped"].items()]
        if self.left_out:
            name, reason = next(iter(self.left_out.items()))
            lines.append(
                f"  {len(self.left_out):,} beside them are no pairs: {name} ({reason}) ..."
            )
        for name in ("shorter_side", "longer_by_shorter", "caption_length"):
            if values[name]:
                least, middle, most = values[name].values()
                words = name.replace("_", " ").replace("longer by shorter", "aspect")
                lines.append(f"  {words}: {least:g} to {most:g}, median {middle:g}")
        if tags := values["language_tags"]:
            said = ", ".join(f"{tag or 'none'} {count:,}" for tag, count in tags.items())
            lines.append(f"  language tags: {said}")
        return lines

    def page(self, dataset: PairDataset) -> str:
        """One self-contained HTML page; reads the pictures that it shows."""
        rows = "".join(f"<li>{html.escape(line.strip())}</li>" for line in self.lines())
        parts = [f"<h1>{html.escape(self.name)}</h1><ul>{rows}</ul>"]
        for reason in REASONS:
            if found := self.dropped(reason):
                parts.append(_sheet(f"{len(found):,} dropped: {reason}", found, dataset))
        if kept := self.kept:
            step = max(1, len(kept) // _EXAMPLES)
            parts.append(_sheet("Some of those kept", kept[::step], dataset))
        if self.left_out:
            items = "".join(
                f"<li>{html.escape(name)}: {html.escape(reason)}</li>"
                for name, reason in list(self.left_out.items())[:200]
            )
            parts.append(
                f"<h2>{len(self.left_out):,} beside them are no pairs</h2><ul>{items}</ul>"
            )
        return (
            f'<!doctype html><meta charset="utf-8"><title>{html.escape(self.name)}</title>'
            f"<style>{_STYLE}</style>{''.join(parts)}\n"
        )


def report(name: str, dataset: PairDataset, verdicts: Sequence[Verdict]) -> Report:
    """The report on a data set whose pairs were judged."""
    return Report(name=name, verdicts=verdicts, left_out=dict(left_out(dataset)))


def _aspect(one: Verdict) -> float:
    short, long = sorted((one.measures.width, one.measures.height))
    return round(long / short, 3)


def _spread(values: list[int] | list[float]) -> dict[str, float]:
    """Least, middle and largest of some numbers."""
    if not values:
        return {}
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]}


def _sheet(title: str, found: Sequence[Verdict], dataset: PairDataset) -> str:
    figures = []
    for one in found[:_EXAMPLES]:
        captions = "; ".join(one.measures.captions[:3])
        words = [one.measures.key, one.detail, captions]
        text = "<br>".join(html.escape(word) for word in words if word)
        picture = _thumbnail(one, dataset)
        figures.append(f"<figure>{picture}<figcaption>{text}</figcaption></figure>")
    return f'<h2>{html.escape(title)}</h2><div class="sheet">{"".join(figures)}</div>'


def _thumbnail(one: Verdict, dataset: PairDataset) -> str:
    none = '<div class="none">no picture</div>'
    if one.reason == UNUSABLE:
        return none
    try:
        image = dataset[one.measures.index].image.copy()
    except UnusablePair:
        return none
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=80)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'
