"""Charts as inline SVG."""

import xml.etree.ElementTree as ET

from hypothesis import example, given
from hypothesis import strategies as st

from bridge_diffusion.training.charts import line_chart, short_number, ticks

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


@given(low=NUMBERS, high=NUMBERS)
@example(low=0.0, high=5e-324)
def test_ticks_hold_all_values_and_are_few(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    marks = ticks(low, high, 4)
    assert 2 <= len(marks) <= 8
    assert marks == sorted(set(marks))
    room = 1e-6 * max(1e-300, marks[-1] - marks[0])
    assert marks[0] <= low + room
    assert marks[-1] >= high - room


def test_a_chart_has_a_line_a_curve_inside_the_picture() -> None:
    curves = {"<a>": [(0, 1.0), (10, 3.0)], "b": [(0, float("nan")), (10, 2.0)], "c": []}
    figure = ET.fromstring(line_chart("Loss & more", curves))
    lines = [line.attrib["points"] for line in figure.iter("polyline")]
    assert len(lines) == 2
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in lines[0].split())
    assert 0 < x0 < x1 < 520
    assert 240 > y0 > y1 > 0
    assert len(lines[1].split()) == 1
    assert len(list(figure.iter("circle"))) == 1
    assert "".join(figure.itertext()).startswith("Loss & more")


def test_long_curves_are_thinned_to_their_means() -> None:
    chart = line_chart("long", {"x": [(i, float(i % 2)) for i in range(4000)]})
    (line,) = ET.fromstring(chart).iter("polyline")
    heights = {point.split(",")[1] for point in line.attrib["points"].split()}
    assert len(line.attrib["points"].split()) == 400
    assert len(heights) == 1


def test_nothing_finite_is_no_chart() -> None:
    assert line_chart("none", {"x": [(1, float("inf"))], "y": []}) == ""


def test_numbers_are_short() -> None:
    numbers = (0.0, 1e-5, 0.25, 1500.0, 2e6)
    assert [short_number(x) for x in numbers] == ["0", "1e-05", "0.25", "1.5k", "2M"]
