"""The trade-off over the guidance scale, drawn off screen, returned as SVG.

Colours are from Okabe & Ito's palette; markers differ too, so nothing rests on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate

BLUE, _ORANGE, _GREEN, GREY, _INK = "#0072B2", "#D55E00", "#009E73", "#8A8F98", "#181C22"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#B8BDC6",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9EBEF",
    "grid.linewidth": 0.8,
    "xtick.color": "#4A505A",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.color": "#4A505A",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "fairlead",
}


@dataclass(frozen=True)
class TradeoffRow:
    """One guidance scale and what was measured there (``Score.metrics``: distance_debiased, accuracy, ...)."""

    scale: float
    metrics: Mapping[str, Estimate]


def tradeoff_plot(
    rows: Sequence[TradeoffRow],
    floor: Mapping[str, Estimate] | None = None,
    *,
    recommended: float | None = None,
    scale_label: str = "guidance scale (1 = off)",
) -> Figure:
    """Two panels: debiased distance (left axis), accuracy and confidence (right axis) over the scale; diversity over
    that distance.

    Error bars are one standard error.

    Args:
        rows: at least two scales, each with distance_debiased, accuracy, confidence and diversity.
        floor: the same metrics of held-out real images (``Floor.metrics``), drawn dashed.
        recommended: a scale to mark.

    Raises:
        UsageError: if there are fewer than two rows or a metric is missing.
    """
    needed = ("distance_debiased", "accuracy", "confidence", "diversity")
    missing = {name for row in rows for name in needed if name not in row.metrics}
    if len(rows) < 2 or missing:
        raise UsageError(
            f"trade-off plot: expected 2 or more rows with {', '.join(needed)}; got {len(rows)} rows"
            + (f" without {', '.join(sorted(missing))}" if missing else "")
        )
    rows = sorted(rows, key=lambda row: row.scale)
    with plot_style():
        figure = Figure(figsize=(9.6, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        over_scale, front = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _over_scale(over_scale, rows, floor, recommended, scale_label)
        _front(front, rows, floor, recommended)
        counts = sorted({row.metrics["distance_debiased"].n for row in rows})
        n = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        note = f"N = {n} images per setting; bars: ± 1 standard error; debiased: without the bias of a finite N"
        figure.supxlabel(note + ("; dashed: held-out real images" if floor else ""), fontsize=8.5, color="#4A505A")
    return figure


def to_svg(figure: Figure) -> str:
    """An ``<svg>`` element to stand inside a page: text as outlines, without prolog or metadata."""
    stream = io.StringIO()
    with plot_style():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _over_scale(
    axes: Axes,
    rows: Sequence[TradeoffRow],
    floor: Mapping[str, Estimate] | None,
    recommended: float | None,
    scale_label: str,
) -> None:
    scales = [row.scale for row in rows]
    axes.set_title("Over the guidance scale", pad=26)
    right = axes.twinx()
    right.grid(False)
    lines = [
        _line(axes, scales, [row.metrics["distance_debiased"] for row in rows], BLUE, "o", "debiased distance (left)"),
        _line(right, scales, [row.metrics["accuracy"] for row in rows], _ORANGE, "s", "accuracy (right)"),
        _line(right, scales, [row.metrics["confidence"] for row in rows], _GREEN, "^", "confidence (right)"),
    ]
    if floor is not None:
        axes.axhline(floor["distance_debiased"].value, color=BLUE, linestyle=(0, (5, 3)), linewidth=1)
        right.axhline(floor["accuracy"].value, color=_ORANGE, linestyle=(0, (5, 3)), linewidth=1)
    if recommended is not None:
        axes.axvline(recommended, color=GREY, linewidth=6, alpha=0.25, zorder=0)
    if min(scales) > 0 and max(scales) / min(scales) >= 4:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_locator(FixedLocator(_spaced(scales)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(scale_label)
    axes.set_ylabel("debiased Fréchet distance (squared feature units)", color=BLUE)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    right.set_ylabel("judge's accuracy, confidence", color=_ORANGE)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    right.set_ylim(top=min(1.005, right.get_ylim()[1] + 0.02))
    axes.legend(
        [line.lines[0] for line in lines],
        [str(line.get_label()) for line in lines],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def _front(
    axes: Axes,
    rows: Sequence[TradeoffRow],
    floor: Mapping[str, Estimate] | None,
    recommended: float | None,
) -> None:
    axes.set_title("Diversity against debiased distance", pad=26)
    axes.spines["right"].set_visible(False)
    x = [row.metrics["distance_debiased"] for row in rows]
    y = [row.metrics["diversity"] for row in rows]
    axes.errorbar(
        [e.value for e in x],
        [e.value for e in y],
        xerr=[bar_of(e) for e in x],
        yerr=[bar_of(e) for e in y],
        color=_INK,
        ecolor="#A9AEB7",
        elinewidth=1,
        marker="o",
        linewidth=1,
    )
    for row, a, b in zip(rows, x, y, strict=True):
        axes.annotate(
            f"{row.scale:g}",
            (a.value, b.value),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=8.5,
            color=_INK,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        if row.scale == recommended:
            axes.plot(a.value, b.value, "o", markersize=15, color=GREY, alpha=0.35, zorder=0)
    if floor is not None:
        axes.axhline(floor["diversity"].value, color=_INK, linestyle=(0, (5, 3)), linewidth=1)
        axes.axvline(floor["distance_debiased"].value, color=BLUE, linestyle=(0, (5, 3)), linewidth=1)
    axes.margins(0.1)
    axes.set_xlabel("debiased Fréchet distance (squared feature units)")
    axes.set_ylabel("diversity (feature units)")
    axes.annotate(
        "number at a point: guidance scale",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        fontsize=8.5,
        color="#4A505A",
    )


def _line(
    axes: Axes, x: Sequence[float], y: Sequence[Estimate], color: str, marker: str, label: str
) -> ErrorbarContainer:
    return axes.errorbar(
        x, [e.value for e in y], yerr=[bar_of(e) for e in y], color=color, marker=marker, label=label, elinewidth=1
    )


def bar_of(estimate: Estimate) -> float:
    """Length of its error bar: none where the error is nan."""
    return estimate.error if estimate.error == estimate.error else 0.0


def _spaced(scales: Sequence[float]) -> list[float]:
    """Ticks at measured scales, leaving out those that would touch the one before."""
    span = scales[-1] / scales[0]
    kept = [scales[0]]
    for scale in scales[1:]:
        if scale / kept[-1] >= span**0.06:
            kept.append(scale)
    return kept


@contextmanager
def plot_style() -> Iterator[None]:
    """Inside, matplotlib draws in the style of the reports."""
    with matplotlib.rc_context(_STYLE):
        yield
