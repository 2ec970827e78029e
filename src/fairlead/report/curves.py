"""Several settings in one picture: lines over the guidance scale, and the front of distance, accuracy and diversity.

Colours are Okabe & Ito's; markers differ too, so nothing rests on colour alone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from fairlead.measure.estimate import Estimate
from fairlead.report.plots import GREY, plot_style
from fairlead.tune.setting import Setting, name_of, varying
from fairlead.tune.store import Point

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#181C22")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_QUIET = "#4A505A"
_PANELS = {
    "distance_debiased": "Fréchet distance",
    "accuracy": "accuracy of the judge",
    "diversity": "diversity",
    "saturation": "share at the data limits",
}
_NUMBER = re.compile(r"(?<![\w.\"'])-?\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Curve:
    """Points that differ in the scale alone, in its order; ``scales`` is empty where there is only one of a kind."""

    label: str
    scales: tuple[float, ...]
    points: tuple[Point, ...]


def curves_of(points: Sequence[Point], *, alone: bool = False) -> list[Curve]:
    """The lines among the points: one for each checkpoint, sampler, steps and form of guidance (its expression but for
    the first number). ``alone``: settings of which there is only one of a kind come too."""
    groups: dict[Setting, list[tuple[float, Point]]] = {}
    for point in points:
        form, scale = form_of(point.guidance)
        setting = point.setting
        groups.setdefault(Setting(setting.checkpoint, form, setting.sampler, setting.steps), []).append((scale, point))
    axes = varying(list(groups)) or ["guidance"]
    curves = []
    for kind, members in groups.items():
        members.sort(key=lambda member: member[0])
        if len(members) > 1:
            scales, own = zip(*members, strict=True)
            curves.append(Curve(name_of(kind, axes).replace("{scale}", "w"), scales, own))
        elif alone:
            own_axes = [axis for axis in axes if axis != "guidance"]
            others = f", {name_of(kind, own_axes)}" if own_axes else ""
            curves.append(Curve(f"{members[0][1].guidance}{others}", (), (members[0][1],)))
    return curves


def form_of(guidance: str) -> tuple[str, float]:
    """``cfg(3) | clip()`` -> ``cfg({scale}) | clip()`` and 3; what has no number stays, at scale 1."""
    if guidance == "none" or guidance.startswith("none |"):
        return guidance.replace("none", "cfg({scale})", 1), 1.0
    found = _NUMBER.search(guidance)
    if found is None:
        return guidance, 1.0
    return guidance[: found.start()] + "{scale}" + guidance[found.end() :], float(found[0])


def curves_plot(curves: Sequence[Curve], floor: Mapping[str, Estimate] | None = None) -> Figure | None:
    """A panel a metric over the scale, a line a curve, with one standard error; dashed: ``floor``. None without
    curves."""
    if not curves:
        return None
    present = [name for name in _PANELS if all(name in p.score.metrics for curve in curves for p in curve.points)]
    with plot_style():
        figure = _figure(2.9 * ((len(present) + 1) // 2), len(curves))
        panels = figure.subplots((len(present) + 1) // 2, min(2, len(present)), squeeze=False).flatten()
        for axes, name in zip(panels, present, strict=False):
            for number, curve in enumerate(curves):
                values = [point.score.metrics[name] for point in curve.points]
                axes.errorbar(
                    curve.scales,
                    [value.value for value in values],
                    [_bar(value) for value in values],
                    label=curve.label,
                    elinewidth=1,
                    **_look(number),
                )
            if floor is not None and name in floor:
                axes.axhline(floor[name].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.set_xlabel("guidance scale w")
            _named(axes, "y", name)
        for axes in panels[len(present) :]:
            axes.set_visible(False)
        _legend(figure, panels[0], len(curves))
        _note(figure, curves, floor)
    return figure


def front_plot(curves: Sequence[Curve], floor: Mapping[str, Estimate] | None, best: Point) -> Figure:
    """Accuracy and diversity against distance: a point a setting, joined along the scale, bars of one standard error;
    the recommended one is ringed. Upper left is better, but for diversity beyond that of real images (dashed)."""
    with plot_style():
        figure = _figure(3.9, len(curves))
        panels = figure.subplots(1, 2)
        for axes, name in zip(panels, ("accuracy", "diversity"), strict=True):
            for number, curve in enumerate(curves):
                x = [point.score.metrics["distance_debiased"] for point in curve.points]
                y = [point.score.metrics[name] for point in curve.points]
                look = _look(number)
                axes.errorbar(
                    [e.value for e in x],
                    [e.value for e in y],
                    xerr=[_bar(e) for e in x],
                    yerr=[_bar(e) for e in y],
                    ecolor="#A9AEB7",
                    elinewidth=1,
                    label=curve.label,
                    **{**look, "linewidth": 1},
                )
                if best in curve.points:
                    at = curve.points.index(best)
                    axes.plot(x[at].value, y[at].value, "o", markersize=15, color=GREY, alpha=0.35, zorder=0)
            if floor is not None and name in floor:
                axes.axhline(floor[name].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
                axes.axvline(floor["distance_debiased"].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.margins(0.1)
            _named(axes, "x", "distance_debiased")
            _named(axes, "y", name)
            _number(axes, curves, name)
        _legend(figure, panels[0], len(curves))
        _note(figure, curves, floor, "number at a point: guidance scale; ring: recommended")
    return figure


def _number(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    """The scale beside each point, but for those that would cover another's."""
    taken: list[tuple[float, float]] = []
    for index, curve in enumerate(curves):
        for scale, point in zip(curve.scales, curve.points, strict=False):
            metrics = point.score.metrics
            at = metrics["distance_debiased"].value, metrics[name].value
            x, y = axes.transData.transform(at)
            if any(abs(x - a) < 26 and abs(y - b) < 14 for a, b in taken):
                continue
            taken.append((x, y))
            axes.annotate(
                f"{scale:g}",
                at,
                xytext=(6, 6),
                textcoords="offset points",
                fontsize=8,
                color=_look(index)["color"],
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )


def _figure(height: float, entries: int) -> Figure:
    figure = Figure(figsize=(9.6, height + 0.35 + (0.2 * -(-entries // 2) if entries > 1 else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _look(number: int) -> dict[str, str]:
    lines = ("-", "--", ":", "-.")
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": lines[number // len(_COLOURS) % len(lines)],
    }


def _named(axes: Axes, which: str, name: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(_PANELS[name])
    if name in ("accuracy", "saturation"):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.spines["right"].set_visible(False)


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    if entries > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, columnspacing=1.6, handlelength=2.6)


def _note(figure: Figure, curves: Sequence[Curve], floor: Mapping[str, Estimate] | None, more: str = "") -> None:
    n = curves[0].points[0].score.protocol.n
    parts = [f"N = {n:,} images a setting", "bars: ± 1 standard error", "distance without its finite-N bias"]
    parts += ["dashed: held-out real images"] if floor else []
    parts += [more] if more else []
    figure.supxlabel(textwrap.fill("; ".join(parts), 120), fontsize=8.5, color=_QUIET)


def _bar(estimate: Estimate) -> float:
    return estimate.error if estimate.error == estimate.error else 0.0
