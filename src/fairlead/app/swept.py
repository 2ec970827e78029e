"""A sweep or a search that was measured, to be looked at: its curve, its front, and what lies at a point of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fairlead.core.errors import UsageError, unknown
from fairlead.measure.metrics import title_of
from fairlead.measure.score import Floor
from fairlead.report.curves import curves_of, front_plot
from fairlead.report.page import Table, Text
from fairlead.report.plots import plot_style, to_svg
from fairlead.report.search_page import search_plot, summary
from fairlead.report.sweep_page import front_said, sweep_findings, sweep_plot
from fairlead.tune.answers import read_answers, template_of
from fairlead.tune.front import sweep_front
from fairlead.tune.recommend import Choice, Tuned, adherence, choice_for
from fairlead.tune.setting import Point, Setting, setting_labels
from fairlead.tune.sweep_folder import SweepFolder

_DPI = 110
NEAR = 40
"""Pixels from a point at which a click still means it."""


@dataclass(frozen=True, eq=False)
class Swept:
    """The stored results of one folder.

    Attributes:
        points: name -> measured setting, in the order of the table.
        beaten: setting -> those that beat it in everything.
    """

    folder: SweepFolder
    points: Mapping[str, Point]
    classes: tuple[str, ...]
    floor: Floor
    choice: Choice
    beaten: Mapping[Setting, tuple[Setting, ...]]
    answers: tuple[dict[str, object], ...]

    @classmethod
    def of(cls, place: str) -> Swept:
        """Read a folder; raises UsageError as the report does: no sweep, nothing measured, damaged."""
        stored = SweepFolder(place)
        about, points = stored.read()
        path = Path(place) / "tuned.json"
        answers = read_answers(path) if path.is_file() else []
        names = setting_labels([point.setting for point in points])
        floor = Floor.from_dict(about["floor"])
        shown = about.get("prompts") or about["classes"]
        return cls(
            stored,
            dict(zip(names, points, strict=True)),
            tuple(map(str, shown)),
            floor,
            choice_for(points, answers, floor),
            sweep_front(stored, points),
            tuple(answers),
        )

    @property
    def best(self) -> str | None:
        """The name of what is recommended, if it is among the points."""
        return next((name for name, point in self.points.items() if point is self.choice.point), None)

    def findings(self) -> str:
        """HTML: what was found; of a search, what was searched."""
        points = list(self.points.values())
        said = [sweep_findings(points, self.floor, self.choice)]
        said += [front_said(points, self.beaten)] if len(points) > 1 else []
        for answer in self.answers[:1]:
            said.append(summary(Tuned.from_dict(answer), template_of(answer), str(answer["objective"])))
        paragraphs = Text("\n\n".join(said)).html()
        return f'<div class="findings">{paragraphs}</div>'

    def curves(self) -> str:
        """HTML: the metrics over the scale, and the curve of the search; "" where nothing lies on a line."""
        figures = [sweep_plot(list(self.points.values()), self.floor, self.choice.point)]
        for answer in self.answers[:1]:
            figures.append(search_plot(Tuned.from_dict(answer), template_of(answer), str(answer["objective"])))
        return "".join(f'<div class="wide">{to_svg(figure)}</div>' for figure in figures if figure is not None)

    @cached_property
    def front(self) -> tuple[np.ndarray, tuple[tuple[str, float, float], ...]]:
        """A picture of the front, uint8 [h, w, 3], and where in it each point is: name, pixels from the left, from the
        top; once in each panel that shows it."""
        points = list(self.points.values())
        adherence_metric = adherence(points)
        dominated = {setting for setting, others in self.beaten.items() if others}
        with plot_style():
            figure = front_plot(
                curves_of(points, alone=True), self.floor.metrics, self.choice.point, dominated, adherence_metric
            )
            figure.set_dpi(_DPI)
            canvas: Any = FigureCanvasAgg(figure)
            canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        height = len(picture)
        least = max(point.score.metrics[adherence_metric].value for point in points) / 2
        places = []
        for axes, panel in zip(figure.axes[:2], ("adherence", "rows"), strict=True):
            for name, point in self.points.items():
                metrics = point.score.metrics
                value = metrics[adherence_metric].value if panel == "adherence" else point.rows_per_image
                if panel == "rows" or value >= least:
                    x, y = axes.transData.transform((metrics["distance_debiased"].value, value))
                    places.append((name, float(x), float(height - y)))
        return picture, tuple(places)

    def nearest(self, x: float, y: float) -> str:
        """The name of the point at a place of :attr:`front`, in pixels from its upper left corner.

        Raises:
            UsageError: if there is none near.
        """
        away, name = min((math.hypot(x - a, y - b), name) for name, a, b in self.front[1])
        if away > NEAR:
            raise UsageError("no setting is near that place; click on a marker, or choose one by its name")
        return name

    def point(self, name: str) -> Point:
        """Raises UsageError for a name that it has not."""
        if name not in self.points:
            raise unknown("setting", name, self.points)
        return self.points[name]

    def against(self, name: str, other: str) -> str:
        """HTML: a table with every metric of two settings and their difference, paired sample by sample."""
        one, two = self.point(name), self.point(other)
        if one is two:
            rows = [[title_of(metric), str(value)] for metric, value in one.score.metrics.items()]
            return Table(["metric", name], rows, f"N = {one.score.protocol.n:,}; ± one standard error").html()
        changes = self.folder.compare(one.setting, two.setting)
        rows = []
        for metric, change in changes.items():
            star = "" if change.paired else " *"
            values = [str(point.score.metrics[metric]) for point in (one, two)]
            rows.append([title_of(metric), *values, f"{'+' if change.value > 0 else ''}{change}{star}"])
        note = f"difference: {name} minus {other}, same seeds; ± one standard error, paired sample by sample"
        note += "; * not paired" if any(not change.paired for change in changes.values()) else ""
        return Table(["metric", name, other, "difference"], rows, note).html()
