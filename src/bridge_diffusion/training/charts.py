"""Line charts as inline SVG: no script, no font, nothing to fetch."""

import math
import sys
from collections.abc import Mapping, Sequence
from html import escape

from bridge_diffusion.training.curves import Points

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 12, 30
_MOST_POINTS = 400  # of a curve; more are averaged in groups
# Okabe & Ito 2008: told apart by the colour-blind too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def line_chart(title: str, curves: Mapping[str, Points]) -> str:
    """A figure with one line a curve over images trained on, and a legend if there are several.

    Values that are not finite are left out; "" if nothing is left to draw.
    """
    drawn = {name: _thinned(_finite(points)) for name, points in curves.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    across = [images for points in drawn.values() for images, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    x_ticks, y_ticks = ticks(min(0, *across), max(across), 5), ticks(min(values), max(values), 4)
    place = _Placing(x_ticks, y_ticks)
    parts = [_axes(place, x_ticks, y_ticks)]
    for colour, points in zip(_repeated(len(drawn)), drawn.values(), strict=True):
        line = " ".join(f"{place.x(images):.1f},{place.y(value):.1f}" for images, value in points)
        parts.append(f'<polyline points="{line}" stroke="{colour}"/>')
        if len(points) == 1:
            x, y = place.x(points[0][0]), place.y(points[0][1])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{_legend(drawn)}</figure>"


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from at most `low` to at least `high`; at least two."""
    if not high > low:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    rough = max((high - low) / count, sys.float_info.min)  # smaller spans underflow to 0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def short_number(value: float) -> str:
    """1500000 => 1.5M, 20000 => 20k, 0.00001 => 1e-05."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{letter}"
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"


class _Placing:
    """From images and values to the coordinates of the picture."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        self._x0, self._x1, self._y0, self._y1 = x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1]

    def x(self, images: float) -> float:
        part = (images - self._x0) / (self._x1 - self._x0)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        part = (value - self._y0) / (self._y1 - self._y0)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def _axes(place: _Placing, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = []
    for value in y_ticks:
        y = f"{place.y(value):.1f}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{short_number(value)}</text>'
        )
    for images in x_ticks:
        parts.append(
            f'<text x="{place.x(images):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">'
            f"{short_number(images)}</text>"
        )
    return "".join(parts)


def _legend(curves: Mapping[str, Points]) -> str:
    if len(curves) < 2:
        return ""
    entries = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for colour, name in zip(_repeated(len(curves)), curves, strict=True)
    )
    return f'<p class="legend">{"".join(entries)}</p>'


def _repeated(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _finite(points: Points) -> Points:
    return [(images, value) for images, value in points if math.isfinite(value)]


def _thinned(points: Points) -> Points:
    """At most so many points, each the mean of a group of neighbours at the place of its last."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size < 2:
        return points
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
