"""The search of a tuning, as a section of its report."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fairlead.measure.metrics import SHARES, maximised, title_of
from fairlead.report.page import Block, Section, Svg, Table, Text
from fairlead.report.plots import GREY, plot_style, to_svg
from fairlead.report.text_table import in_columns
from fairlead.tune.answers import Answer, question_of, template_of
from fairlead.tune.class_scales import ByClass
from fairlead.tune.recommend import Tuned
from fairlead.tune.template import Template


def search_sections(answers: Sequence[Answer]) -> list[Section]:
    """The latest search, and, folded, those that asked other questions before."""
    found = []
    for index, answer in enumerate(answers):
        tuned, template = Tuned.from_dict(answer), template_of(answer)
        title = "The search" if index == 0 else f"Another search: {question_of(answer)}"
        found.append(search_section(tuned, template, answer["objective"], title, folded=index > 0))
    return found


def search_section(
    tuned: Tuned, template: Template, metric: str, title: str = "The search", folded: bool = False
) -> Section:
    """What was searched, the curve of one knob with the interval of its best, and every setting that was measured."""
    body: list[Block] = [Text(summary(tuned, template, metric))]
    figure = search_plot(tuned, template, metric)
    if figure is not None:
        body.append(
            Svg(
                to_svg(figure),
                f"{title_of(metric)} over {next(iter(template.knobs))}; line and shade: where it is {_end(metric)}, "
                "with the 95 % interval; ring: recommended",
            )
        )
    heads = ["guidance", "images", "rows per image", "front", *map(title_of, tuned.rows[0].metrics)]
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
    chosen = next((index for index, row in enumerate(tuned.rows) if row.guidance == tuned.guidance), None)
    caption = (
        f"values of the seeds of the search, ± one standard error, {SHARES}; settings of different numbers of images "
        "compare on the seeds that both have"
    )
    body.append(Table(heads, rows, caption, chosen))
    if tuned.by_class is not None and tuned.by_class.apart:
        body.append(scales_table(tuned.by_class))
    return Section(title, body, folded)


def _end(metric: str) -> str:
    return "highest" if maximised(metric) else "lowest"


def summary(tuned: Tuned, template: Template, metric: str) -> str:
    """One paragraph in plain words."""
    parts = [f"{len(tuned.rows)} settings of {template.text}, {tuned.images:,} images."]
    if tuned.best is not None:
        value, low, high = tuned.best
        name = next(iter(template.knobs))
        where = f"The {title_of(metric)} is {_end(metric)} at {name} {value:.3g}"
        parts.append(f"{where}, 95 % interval of that place {low:.3g} to {high:.3g}.")
    parts += [f"{note[0].upper()}{note[1:]}." for note in tuned.notes]
    parts.append(tuned.recommendation)
    parts += [] if tuned.by_class is None else [tuned.by_class.text]
    return " ".join(parts)


def class_sections(found: ByClass | None) -> list[Section]:
    """Which scale suits each class, where that was asked for: the table where they differ surely, else one line."""
    if found is None:
        return []
    return [Section("By class", [Text(found.text), *([scales_table(found)] if found.apart else [])])]


def scales_table(found: ByClass) -> Table:
    """A row for each class: the scale where the objective is best, where that may lie, what it gains there."""
    rows = [
        [
            one.name, f"{one.n:,}", f"{one.scale:g}", f"{one.low:g} to {one.high:g}",
            "can be" if one.common else "surely not", f"{'+' if one.gain.value > 0 else ''}{one.gain}",
        ]
        for one in found.classes
    ]  # fmt: skip
    heads = [
        "class", "images", "best scale", f"{found.level:.0%} interval", f"{found.scale:g} the best",
        f"{title_of(found.metric)} against {found.scale:g}",
    ]  # fmt: skip
    caption = (
        f"intervals hold for all classes at once ({found.comparisons} comparisons, Bonferroni), among the measured "
        "scales; differences paired image by image, ± one standard error"
    )
    return Table(heads, rows, caption)


def class_lines(found: ByClass) -> list[str]:
    """:func:`scales_table` for a terminal."""
    table = scales_table(found)
    return in_columns([(head, [row[i] for row in table.rows]) for i, head in enumerate(table.header)])


def front_lines(tuned: Tuned) -> list[str]:
    """The settings of the search that no other surely beats, for a terminal: a row each, standard errors behind ±."""
    rows = [row for row in tuned.rows if row.on_front]
    return in_columns(
        [
            ("not beaten", [row.guidance for row in rows]),
            ("images", [f"{row.n:,}" for row in rows]),
            ("rows per image", [f"{row.rows:.3g}" for row in rows]),
            *((title_of(name), [str(row.metrics[name]) for row in rows]) for name in rows[0].metrics),
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
        for row in tuned.rows:
            if row.guidance == tuned.guidance:
                at = row.setting[0], row.metrics[metric].value
                axes.plot(*at, "o", markersize=15, color=GREY, alpha=0.35, zorder=0)
        if knob.log:
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{place:.3g}" for place in places], rotation=60, fontsize=7)
            axes.minorticks_off()
        axes.set_xlabel(next(iter(template.knobs)))
        axes.set_ylabel(title_of(metric))
    return figure
