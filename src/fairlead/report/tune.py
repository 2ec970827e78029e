"""The search of a tuning, as a section of its report."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fairlead.report.columns import in_columns
from fairlead.report.page import Block, Section, Svg, Table, Text
from fairlead.report.plots import plot_style, to_svg
from fairlead.tune.template import Template
from fairlead.tune.tuning import Tuned


def search_section(tuned: Tuned, template: Template, metric: str) -> Section:
    """What was searched, the curve of one knob with the interval of its best, and every setting that was measured."""
    body: list[Block] = [Text(summary(tuned, template, metric))]
    figure = search_plot(tuned, template, metric)
    if figure is not None:
        body.append(
            Svg(to_svg(figure), f"{metric} over {next(iter(template.knobs))}; shaded: 95 % interval of the best")
        )
    heads = ["guidance", "images", "rows an image", "front", *tuned.rows[0].metrics]
    rows = [
        [
            row.guidance,
            f"{row.n:,}",
            f"{row.rows:.3g}",
            "on it" if row.on_front else "",
            *map(str, row.metrics.values()),
        ]
        for row in tuned.rows
    ]
    body.append(Table(heads, rows, "settings of different numbers of images compare on the seeds that both have"))
    return Section("The search", body)


def summary(tuned: Tuned, template: Template, metric: str) -> str:
    """One paragraph in plain words."""
    parts = [f"{len(tuned.rows)} settings of {template.text}, {tuned.images:,} images."]
    if tuned.best is not None:
        value, low, high = tuned.best
        name = next(iter(template.knobs))
        parts.append(f"Best {metric} at {name} {value:.3g}, 95 % interval {low:.3g} to {high:.3g}.")
    parts += [f"{note[0].upper()}{note[1:]}." for note in tuned.notes]
    parts.append(f"Recommended: {tuned.guidance}, the {tuned.why}.")
    return " ".join(parts)


def front_lines(tuned: Tuned) -> list[str]:
    """The settings of the search that no other surely beats, for a terminal: a row each, standard errors behind ±."""
    rows = [row for row in tuned.rows if row.on_front]
    return in_columns(
        [
            ("not beaten", [row.guidance for row in rows]),
            ("images", [f"{row.n:,}" for row in rows]),
            ("rows an image", [f"{row.rows:.3g}" for row in rows]),
            *((name, [str(row.metrics[name]) for row in rows]) for name in rows[0].metrics),
        ]
    )


def search_plot(tuned: Tuned, template: Template, metric: str) -> Figure | None:
    """The metric over the one knob, bars of one standard error; None with several knobs."""
    if tuned.best is None or len(template.knobs) != 1:
        return None
    knob = next(iter(template.knobs.values()))
    value, low, high = tuned.best
    with plot_style():
        figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        places = [row.setting[0] for row in tuned.rows]
        found = [row.metrics[metric] for row in tuned.rows]
        axes.axvspan(low, high, color="#D8E4F5", zorder=0)
        axes.axvline(value, color="#4A6FA5", linewidth=1)
        axes.errorbar(
            places, [e.value for e in found], yerr=[e.error for e in found], fmt="o", markersize=4, color="#1F3B63",
            ecolor="#A9AEB7", elinewidth=1,
        )  # fmt: skip
        if knob.log:
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{place:.3g}" for place in places], rotation=60, fontsize=7)
            axes.minorticks_off()
        axes.set_xlabel(next(iter(template.knobs)))
        axes.set_ylabel(metric)
    return figure
