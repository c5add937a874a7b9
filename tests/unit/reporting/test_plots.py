"""Curves lie where their axes say."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realuid_lightning.reporting.plots import HEIGHT, WIDTH, Level, Line, Point, plot


def curve(*values, colour=0, marked=True):
    return Line(f"curve {colour}", colour, [Point(step, value) for step, value in enumerate(values)], marked)


def test_an_axis_is_linear_or_logarithmic_as_the_values_ask():
    linear, logarithmic = plot("a", [curve(1.0, 2.0, 4.0)]), plot("b", [curve(1.0, 10.0, 100.0)])
    assert not linear.y.logarithmic
    assert logarithmic.y.logarithmic
    for figure, values in ((linear, (1, 2, 4)), (logarithmic, (1, 10, 100))):
        low, middle, high = map(figure.y, values)
        share = (low - middle) / (low - high)
        assert share == pytest.approx(1 / 3 if figure is linear else 1 / 2, abs=2e-3)
    assert [text for _, text in logarithmic.y.ticks] == ["1", "2", "5", "10", "20", "50", "100"]


def test_a_level_below_zero_lies_at_the_end_of_a_logarithmic_axis():
    figure = plot("kid", [curve(1.0, 100.0)], [Level("real data", "floor", -0.1)])
    assert figure.y.logarithmic
    assert figure.y(-0.1) == figure.y.start


def test_what_was_measured_once_becomes_a_level_beside_what_was_measured_often():
    figure = plot("a", [curve(1.0, 2.0), curve(1.5, colour=1)])
    assert [each.line.colour for each in figure.curves] == [0]
    assert [(each.kind, each.colour, each.y) for each in figure.levels] == [("single", 1, 1.5)]
    alone = plot("a", [curve(1.5, colour=1)])
    assert [len(each.marks) for each in alone.curves] == [1]
    assert not alone.levels


def test_what_is_not_finite_leaves_a_gap_and_nothing_makes_no_figure():
    figure = plot("a", [curve(1.0, 2.0, math.nan, 3.0, math.inf, 1e300)])
    assert figure.curves[0].path.count("M") == 2
    assert len(figure.curves[0].marks) == 3
    assert plot("a", [curve(math.nan)], [Level("real data", "floor", 1.0)]) is None
    assert plot("a", []) is None


def test_marks_have_error_bars_and_bands_reach_from_low_to_high():
    points = [Point(0, 2.0, 1.0, 3.0), Point(1, 2.0)]
    _, y, low, high, words = plot("a", [Line("x", 0, points)]).curves[0].marks[0]
    assert low - y == pytest.approx(y - high, abs=0.2)
    assert words == "x: 2 ± 1 at 0"
    band = plot("a", [Line("x", 0, [Point(0, 2, 1, 3), Point(1, 2, 2, 2)], marked=False)]).curves[0].band
    assert band.endswith("Z")


@given(st.lists(st.floats(), min_size=1, max_size=5), st.lists(st.floats(), max_size=2))
def test_whatever_the_values_all_is_drawn_within_the_figure(values, levels):
    figure = plot(
        "a", [curve(*values), curve(*values, colour=1, marked=False)], [Level("l", "floor", y) for y in levels]
    )
    if figure is None:
        assert not any(abs(value) < 1e100 for value in values)
        return
    numbers = [float(word) for each in figure.curves for word in re.findall(r"-?\d[\d.e+-]*", each.path + each.band)]
    numbers += [place for axis in (figure.x, figure.y) for place, _ in axis.ticks]
    assert all(0 <= number <= max(WIDTH, HEIGHT) for number in numbers)
    assert all(len(axis.ticks) <= 20 for axis in (figure.x, figure.y))
