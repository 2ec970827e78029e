"""Agreement with what was asked for, attribute by attribute, as a section of the page of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fairlead.measure.agreement import AGREEMENT
from fairlead.measure.score import Floor
from fairlead.report.curves import Curve, curves_of, look_of, new_figure, over_scales
from fairlead.report.page import Block, Section, Svg, Table, Text, difference_tables
from fairlead.report.plots import GREY, bar_of, plot_style, to_svg
from fairlead.tune.setting import Point

MOST = 4
"""Curves that are drawn, a panel each."""


def agreement_section(points: Sequence[Point], names: Sequence[str], floor: Floor, best: Point | None) -> list[Section]:
    """A section of curves and tables, or none where agreement was not measured.

    Args:
        names: of the points.
        best: the row to mark, if any.
    """
    found = [metric for metric in AGREEMENT if any(metric in point.score.metrics for point in points)]
    if not found:
        return []
    body: list[Block] = [
        Text(
            "The share of images in which a judge sees what was asked for, over the images that were asked for it. "
            "All: in everything that the condition says."
        )
    ]
    curves = [curve for curve in curves_of(points) if len(curve.points) > 1][:MOST]
    if curves:
        body.append(
            Svg(to_svg(agreement_plot(curves, floor)), "agreement over the guidance scale, a line an attribute")
        )
    body.append(_shares(points, names, floor, found, best))
    changes = difference_tables(points, names, {metric: _said(metric) for metric in found})
    return [Section("Agreement with the prompt", [*body, *changes])]


def agreement_plot(curves: Sequence[Curve], floor: Floor) -> Figure:
    """Agreement over the scale: a panel a curve, a line an attribute with one standard error; dashed: what the judge
    makes of real images, all attributes together."""
    found = [m for m in AGREEMENT if all(m in p.score.metrics for curve in curves for p in curve.points)]
    with plot_style():
        columns = min(2, len(curves))
        rows = -(-len(curves) // columns)
        figure = new_figure(3.4 * rows + 0.7)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for axes, curve in zip(panels, curves, strict=False):
            for number, metric in enumerate(found):
                values = [point.score.metrics[metric] for point in curve.points]
                axes.errorbar(
                    curve.scales, [value.value for value in values], [bar_of(value) for value in values],
                    label=_said(metric), elinewidth=1, linewidth=2.6 if number == 0 else 1.2, **look_of(number),
                )  # fmt: skip
            axes.axhline(floor.metrics["agreement"].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.set_title(curve.label)
            axes.set_xlabel("guidance scale w")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            over_scales(axes, curve.scales)
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        n = curves[0].points[0].score.protocol.n
        figure.supxlabel(
            f"N = {n:,} images per setting; bars: ± 1 standard error; dashed: real images, all attributes",
            fontsize=8.5, color="#4A505A",
        )  # fmt: skip
    return figure


def _shares(
    points: Sequence[Point], names: Sequence[str], floor: Floor, found: Sequence[str], best: Point | None
) -> Table:
    everything = [(name, point.score.metrics) for name, point in zip(names, points, strict=True)]
    everything.append(("held-out real images", floor.metrics))
    rows = [[name, *(str(metrics.get(metric, "n/a")) for metric in found)] for name, metrics in everything]
    asked = [max(point.score.metrics[m].n if m in point.score.metrics else 0 for point in points) for m in found]
    rows.append(["images asked for it", *(f"{count:,}" for count in asked)])
    caption = "share of images ± one standard error (Wilson); real images by what their own captions say"
    return Table(["setting", *map(_said, found)], rows, caption, points.index(best) if best else None)


def _said(metric: str) -> str:
    return metric.removeprefix("agreement").removeprefix("_").replace("_", " ") or "all"
