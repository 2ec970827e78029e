"""Several settings in one picture: lines over the guidance scale, and the front of distance, accuracy and diversity.

Colours are Okabe & Ito's; markers differ too, so nothing rests on colour alone.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter

from fairlead.measure.metrics import Estimate
from fairlead.report.plots import GREY, bar_of, plot_style
from fairlead.tune.setting import Point, Setting, name_of, varying

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#181C22")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_QUIET = "#4A505A"
_PANELS = {
    "distance_debiased": "debiased Fréchet distance",
    "accuracy": "accuracy of the judge",
    "agreement": "agreement with all that is asked",
    "cosine": "CLIP cosine of image and prompt",
    "diversity": "diversity",
    "saturation": "share at the data limits",
}
_NAMES = {**_PANELS, "rows": "network rows per image"}
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
        figure = new_figure(2.9 * ((len(present) + 1) // 2), len(curves))
        panels = figure.subplots((len(present) + 1) // 2, min(2, len(present)), squeeze=False).flatten()
        for axes, name in zip(panels, present, strict=False):
            for number, curve in enumerate(curves):
                values = [point.score.metrics[name] for point in curve.points]
                axes.errorbar(
                    curve.scales,
                    [value.value for value in values],
                    [bar_of(value) for value in values],
                    label=curve.label,
                    elinewidth=1,
                    **look_of(number),
                )
            if floor is not None and name in floor:
                axes.axhline(floor[name].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.set_xlabel("guidance scale w")
            over_scales(axes, [scale for curve in curves for scale in curve.scales])
            if name == "distance_debiased":
                _spread_out(axes, "y", [point.score.metrics[name] for curve in curves for point in curve.points])
            _named(axes, "y", name)
        for axes in panels[len(present) :]:
            axes.set_visible(False)
        _legend(figure, [(curve.label, look_of(number)) for number, curve in enumerate(curves)])
        _note(figure, curves, floor)
    return figure


def front_plot(
    curves: Sequence[Curve],
    floor: Mapping[str, Estimate] | None,
    best: Point | None,
    dominated: Collection[Setting] = (),
    adherence: str = "accuracy",
) -> Figure:
    """``adherence`` (a metric) and network rows against distance: a point per setting, joined along the scale, bars of
    one standard error. Filled: on the front; hollow: ``dominated``; ringed: ``best``. Left is better, and so are high
    adherence and few rows. Settings of less than half the best adherence are left out of the first panel, and the note
    counts them."""
    points = [point for curve in curves for point in curve.points]
    highest = max(point.score.metrics[adherence].value for point in points)
    least = -math.inf if adherence == "cosine" else highest / 2  # a share has a 0, and a cosine none
    with plot_style():
        figure = new_figure(4.2, len(curves))
        panels = figure.subplots(1, 2)
        for axes, name in zip(panels, (adherence, "rows"), strict=True):
            for number, curve in enumerate(curves):
                shown = [p for p in curve.points if name == "rows" or p.score.metrics[adherence].value >= least]
                x = [point.score.metrics["distance_debiased"] for point in shown]
                y = [_height(point, name) for point in shown]
                look = look_of(number)
                if name == adherence:
                    line = {**look, "marker": ""}
                    axes.plot([e.value for e in x], [e.value for e in y], linewidth=1, alpha=0.5, **line)
                for point, a, b in zip(shown, x, y, strict=True):
                    hollow = {"markerfacecolor": "white"} if point.setting in dominated else {}
                    axes.errorbar(
                        a.value, b.value, xerr=bar_of(a), yerr=bar_of(b) or None, ecolor="#A9AEB7", elinewidth=1,
                        **{**look, **hollow, "linestyle": ""},
                    )  # fmt: skip
                    if point is best:
                        axes.plot(a.value, b.value, "o", markersize=15, color=GREY, alpha=0.35, zorder=0)
            if floor is not None and name in floor:
                axes.axhline(floor[name].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            if floor is not None:
                axes.axvline(floor["distance_debiased"].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.margins(0.1)
            _spread_out(axes, "x", [point.score.metrics["distance_debiased"] for point in points])
            _named(axes, "x", "distance_debiased")
            _named(axes, "y", name)
            _number(axes, curves, name, least)
            if name == "rows":
                axes.yaxis.set_major_locator(FixedLocator(sorted({point.rows_per_image for point in points})))
        _legend(figure, [(curve.label, look_of(number)) for number, curve in enumerate(curves)])
        more = "filled: on the front, hollow: beaten in everything; number: guidance scale; ring: recommended"
        out = sum(point.score.metrics[adherence].value < least for point in points)
        if out:
            more += f"; left out on the left: {out} setting{'s' * (out > 1)} below {100 * least:.0f} % {adherence}"
        _note(figure, curves, floor, more)
    return figure


def _height(point: Point, name: str) -> Estimate:
    return Estimate(point.rows_per_image, 0.0, 1) if name == "rows" else point.score.metrics[name]


def _spread_out(axes: Axes, which: str, distances: Sequence[Estimate]) -> None:
    """Distances over more than one power of ten: equal ratios, but for those within an error of 0."""
    lowest = min(distances, key=lambda e: e.value)
    small, high = max(lowest.value, bar_of(lowest), 1e-9), max(e.value for e in distances)
    if high < 10 * small:
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=small, linscale=0.5)
    least = min(0.0, *(e.value - bar_of(e) for e in distances)) - 0.4 * small
    (axes.set_xlim if which == "x" else axes.set_ylim)(least)
    places = [factor * 10.0**power for power in range(-3, 7) for factor in (1, 3)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator([0.0, *(p for p in places if small <= p <= 1.2 * high)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def over_scales(axes: Axes, scales: Sequence[float]) -> None:
    """Scales far apart: equal ratios above 1, ticks at those that were measured."""
    places = sorted(set(scales))
    if places[0] < 0 or places[-1] < 4:
        return
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.25)
    kept = places[:1]
    for place in places[1:]:
        if place >= max(kept[-1] * places[-1] ** 0.09, kept[-1] + 0.2):
            kept.append(place)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _number(axes: Axes, curves: Sequence[Curve], name: str, least: float) -> None:
    """The scale beside each point, but for those that would cover another's."""
    taken: list[tuple[float, float]] = []
    for index, curve in enumerate(curves):
        for scale, point in zip(curve.scales, curve.points, strict=False):
            metrics = point.score.metrics
            if name != "rows" and metrics[name].value < least:
                continue
            at = metrics["distance_debiased"].value, _height(point, name).value
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
                color=look_of(index)["color"],
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )


def new_figure(height: float, entries: int = 1) -> Figure:
    """Of the width of a page; ``entries`` of a legend above."""
    figure = Figure(figsize=(9.6, height + 0.35 + (0.2 * -(-entries // 2) if entries > 1 else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look_of(number: int) -> dict[str, str]:
    """Colour, marker and line of one curve of many."""
    lines = ("-", "--", ":", "-.")
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": lines[number // len(_COLOURS) % len(lines)],
    }


def _named(axes: Axes, which: str, name: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(_NAMES[name])
    if name in ("accuracy", "agreement", "saturation"):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.spines["right"].set_visible(False)


def _legend(figure: Figure, entries: Sequence[tuple[str, dict[str, str]]]) -> None:
    if len(entries) > 1:
        handles = [Line2D([], [], label=label, **look) for label, look in entries]  # type: ignore[arg-type]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.6, handlelength=2.6)


def _note(figure: Figure, curves: Sequence[Curve], floor: Mapping[str, Estimate] | None, more: str = "") -> None:
    n = curves[0].points[0].score.protocol.n
    parts = [f"N = {n:,} images per setting", "bars: ± 1 standard error", "debiased: without the bias of a finite N"]
    parts += ["dashed: held-out real images"] if floor else []
    parts += [more] if more else []
    figure.supxlabel(textwrap.fill("; ".join(parts), 120), fontsize=8.5, color=_QUIET)
