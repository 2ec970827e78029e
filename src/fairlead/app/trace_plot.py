"""What two guidances did, step by step, in one picture: left in blue, right in orange, as far as they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fairlead.app.forming import FormingSides
from fairlead.report.plots import BLUE, GREY, plot_style
from fairlead.sample.trace import Trace

_COLOURS = (BLUE, "#D55E00")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def trace_figure(sides: FormingSides) -> Figure:
    """Six panels over the steps: size and angle of what each term adds, effective scale, saturation, rows and time."""
    with plot_style():
        figure = Figure(figsize=(10.4, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = dict(zip(("size", "angle", "scale", "outside", "rows", "ms"), figure.subplots(2, 3).flat, strict=True))
        for (name, one), colour in zip(sides.items(), _COLOURS, strict=False):
            _draw(panels, name, one.trace, one.tracing.seconds, colour, one.step)
        _name(panels, max(one.steps for one in sides.values()))
        for axes in panels.values():
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7.5)
    return figure


def _draw(
    panels: Mapping[str, Axes], name: str, trace: Trace, seconds: Sequence[float], colour: str, taken: int
) -> None:
    steps = range(1, trace.steps + 1)
    for k, term in enumerate(trace.terms):
        look = {"color": colour, "linestyle": _LINES[k % 4], "marker": _MARKERS[k % 4], "markersize": 3.0}
        label = f"{name}: {_short(term)}"
        _line(panels["size"], steps, trace.mean("size", k), label, **look)
        _line(panels["angle"], steps, trace.mean("angle", k), label, **look)
        scale = trace.mean("scale", k)
        _line(
            panels["scale"], steps, scale, f"{name}: scale of {_short(term)}", color=colour, alpha=0.45, linestyle=":"
        )
    finished = "effective_finished" if trace.finishers else "effective"
    _line(panels["scale"], steps, trace.mean(finished), f"{name}: effective", color=colour)
    outside = "outside_finished" if trace.finishers else "outside"
    _line(panels["outside"], steps, trace.mean(outside), name, color=colour)
    n = len(trace.seeds)
    for panel, each in (("rows", trace.rows), ("ms", [1000 * value for value in seconds])):
        sums = [value / n for value in itertools.accumulate(each[:taken])]
        _line(panels[panel], range(1, taken + 1), sums, name, color=colour)


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float], label: str, **look: object) -> None:
    if not all(math.isnan(value) for value in values):
        axes.plot(steps, values, label=label, **look)  # type: ignore[arg-type]


def _name(panels: Mapping[str, Axes], steps: int) -> None:
    titles = {
        "size": "Size of what is added to x0",
        "angle": "Its angle to the prediction, °",
        "scale": "Effective scale: closest cfg(w)",
        "outside": "Share of x0 outside the data range",
        "rows": "Network rows per image so far",
        "ms": "Milliseconds per image so far",
    }
    for name, axes in panels.items():
        axes.set_title(titles[name])
        axes.set_xlim(0.5, steps + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name in ("size", "outside", "rows", "ms"):
            axes.set_ylim(bottom=0)
        if name in ("outside", "rows", "ms"):
            axes.set_xlabel("step")
    panels["angle"].axhline(90, color=GREY, linewidth=0.8)
    panels["scale"].axhline(1, color=GREY, linewidth=0.8)
    panels["outside"].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _short(term: str, most: int = 22) -> str:
    return term if len(term) <= most else f"{term[: most - 1]}…"
