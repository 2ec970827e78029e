"""Plots draw the numbers they were given and stand alone as SVG."""

import re
from xml.etree import ElementTree

import pytest

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.report.plots import TradeoffRow, to_svg, tradeoff_plot

SCALES = (4.0, 1.0, 2.0)
NEEDED = ("distance_debiased", "accuracy", "confidence", "diversity")


def _metrics(scale: float) -> dict[str, Estimate]:
    values = (3.0 / scale, 0.9 + scale / 50, 0.85 + scale / 50, 8 - scale)
    return {name: Estimate(value, 0.01, 500) for name, value in zip(NEEDED, values, strict=True)}


def _figure():
    rows = [TradeoffRow(scale, _metrics(scale)) for scale in SCALES]
    return tradeoff_plot(rows, _metrics(10.0), recommended=2.0)


@pytest.fixture
def figure():
    return _figure()


def test_lines_pass_through_the_estimates_in_order_of_scale(figure):
    left, front, right = figure.axes
    line = left.get_lines()[0]
    assert list(line.get_xdata()) == sorted(SCALES)
    assert list(line.get_ydata()) == [3.0, 1.5, 0.75]
    assert list(right.get_lines()[0].get_ydata()) == pytest.approx([0.92, 0.94, 0.98])
    assert list(front.get_lines()[0].get_xdata()) == [3.0, 1.5, 0.75]
    assert list(front.get_lines()[0].get_ydata()) == [7.0, 6.0, 4.0]


def test_the_floor_is_a_dashed_line_and_axes_and_n_are_named(figure):
    left, front, right = figure.axes
    dashed = [line for line in left.get_lines() if line.is_dashed()]
    assert [line.get_ydata()[0] for line in dashed] == [_metrics(10.0)["distance_debiased"].value]
    assert "units" in left.get_ylabel()
    assert "units" in front.get_ylabel()
    assert left.get_xlabel()
    assert right.get_ylabel()
    assert "N = 500" in figure.get_supxlabel()


def test_svg_is_one_element_without_references_and_repeats_bit_for_bit():
    svg = to_svg(_figure())
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<metadata" not in svg
    assert not re.search(r"(href|src)\s*=\s*[\"'](?!#)", svg)
    assert svg == to_svg(_figure())


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="got 1 rows"):
        tradeoff_plot([TradeoffRow(1.0, _metrics(1.0))])
    bare = {name: value for name, value in _metrics(1.0).items() if name != "diversity"}
    with pytest.raises(UsageError, match="without diversity"):
        tradeoff_plot([TradeoffRow(1.0, _metrics(1.0)), TradeoffRow(2.0, bare)])
