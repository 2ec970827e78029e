"""The pictures of the studies: what the package's own plots do not draw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from benchmarks.studies.runner import Case, Found, Picture
from fairlead.measure.metrics import Estimate
from fairlead.report.curves import curves_of, curves_plot
from fairlead.report.plots import GREY, plot_style

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
TITLES = {
    "distance_debiased": "debiased Fréchet distance",
    "accuracy": "accuracy of the judge",
    "diversity": "diversity",
}


def picture(name: str, figure: Figure, alt: str) -> Picture:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return Picture(f"{name}.png", stream.getvalue(), alt)


def over_scale(name: str, found: Found, cases: Sequence[Case], alt: str) -> Picture:
    """The package's panels over the guidance scale, of the means over the trainings."""
    figure = curves_plot(curves_of([found.point(case) for case in cases]), found.floor.metrics)
    assert figure is not None
    return picture(name, figure, alt)


def dots(name: str, found: Found, groups: Mapping[str, Sequence[Case]], alt: str, second: str = "accuracy") -> Picture:
    """A row a case, a panel for the distance and one for the ``second`` metric, one standard error; dashed: real
    images."""
    metrics = ("distance_debiased", second)
    count = sum(map(len, groups.values())) + 0.7 * len(groups)
    with plot_style():
        figure = Figure(figsize=(9.6, 0.9 + 0.235 * count), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        place, ticks = 0.0, []
        for number, (group, cases) in enumerate(groups.items()):
            if group:
                ticks.append((place, group, True))
                place += 0.9
            for case in cases:
                ticks.append((place, case.name, False))
                for axes, metric in zip(panels, metrics, strict=True):
                    value = found.estimate(case, metric)
                    look = {"color": COLOURS[number % 6], "fmt": MARKERS[number % 6], "elinewidth": 1}
                    axes.errorbar(value.value, place, xerr=value.error, **look)
                place += 1
            place += 0.4
        for axes, metric in zip(panels, metrics, strict=True):
            if metric in found.floor.metrics:
                axes.axvline(found.floor.metrics[metric].value, color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.set_xlabel(TITLES[metric])
            axes.grid(visible=False, axis="y")
        if second == "accuracy":
            panels[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        if panels[0].get_xlim()[1] > 20:  # what matters lies below 2
            panels[0].set_xscale("symlog", linthresh=1.0, linscale=0.6)
            cases = [case for group in groups.values() for case in group]
            low = min(e.value - e.error for e in (found.estimate(case, metrics[0]) for case in cases))
            panels[0].set_xlim(left=min(low, 0.0) - 0.3)
            panels[0].xaxis.set_major_locator(FixedLocator([0, 1, 3, 10, 30, 100, 300]))
            panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks])
        for label, tick in zip(panels[0].get_yticklabels(), ticks, strict=True):
            label.set_fontweight("bold" if tick[2] else "normal")
        panels[0].tick_params(axis="y", length=0)
        panels[1].tick_params(axis="y", length=0)
        panels[0].invert_yaxis()
    return picture(name, figure, alt)


def lines(
    name: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]],
    xlabel: str,
    alt: str,
    *,
    log_y: bool = False,
    dashed: Mapping[str, float] | None = None,
) -> Picture:
    """Panels side by side: title -> label -> points, over a logarithmic x axis."""
    with plot_style():
        figure = Figure(figsize=(9.6, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False, sharey=log_y)[0], panels.items(), strict=True
        ):
            for number, (label, points) in enumerate(curves.items()):
                look = {"color": COLOURS[number % 6], "marker": MARKERS[number % 6], "elinewidth": 1}
                x, y = zip(*points, strict=True)
                axes.errorbar(x, [e.value for e in y], [e.error for e in y], label=label, **look)
            axes.set_xscale("log")
            places = sorted({x for points in curves.values() for x, _ in points})
            axes.xaxis.set_major_locator(FixedLocator(places))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            if log_y:
                axes.set_yscale("log")
            if dashed and title in dashed:
                axes.axhline(dashed[title], color=GREY, linestyle=(0, (5, 3)), linewidth=1)
            axes.set(xlabel=xlabel, title=title)
            axes.legend()
    return picture(name, figure, alt)
