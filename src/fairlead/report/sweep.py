"""The page of a sweep: what was found, the pictures, the trade-off, the table, the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from fairlead.measure.estimate import Estimate
from fairlead.measure.score import METRICS, Difference, Floor
from fairlead.report.grids import image_grid
from fairlead.report.page import Png, Section, Svg, Table, Text, score_table, write_page
from fairlead.report.plots import TradeoffRow, to_svg, tradeoff_plot
from fairlead.tune.sweep import Point

ENOUGH = 0.99
"""Accuracy that a recommended setting must reach, if any setting does."""


def recommend(points: Sequence[Point]) -> Point:
    """The setting of smallest debiased distance among those whose accuracy is at least ``ENOUGH``; if none is, the
    most accurate one."""
    good = [point for point in points if point.score.metrics["accuracy"].value >= ENOUGH]
    if good:
        return min(good, key=lambda point: point.score.metrics["distance_debiased"].value)
    return max(points, key=lambda point: point.score.metrics["accuracy"].value)


def findings(points: Sequence[Point], floor: Floor) -> tuple[Point, str]:
    """The recommended setting and a paragraph that says what was found."""
    best = recommend(points)
    metrics, real = best.score.metrics, floor.metrics
    times = metrics["distance"].value / real["distance"].value
    text = (
        f"Best: {best.guidance}. The judge recognises {percent(metrics['accuracy'])} of its images as what was asked "
        f"for (real images: {percent(real['accuracy'])}). "
        f"Their distance to the training images is {metrics['distance']}, "
        f"{times:.2f} times that of held-out real images ({real['distance']}, both at N = {floor.n:,}). "
    )
    plain = next((point for point in points if point.scale == 1.0), None)
    if plain is not None and plain is not best:
        before = plain.score.metrics
        text += (
            f"Without guidance: {percent(before['accuracy'])} and {before['distance']}, "
            f"at {plain.rows_per_image:g} instead of {best.rows_per_image:g} network rows an image. "
        )
        if plain.differences is None and best.differences is not None:  # plain is the baseline
            change = best.differences["distance"]
            size = Estimate(abs(change.value), change.error, change.n)
            how = "paired" if change.paired else "not paired: the errors of both added in squares"
            text += (
                f"The distance is {size} {'less' if change.value < 0 else 'more'} than without guidance "
                f"({how}, same seeds). "
            )
    accurate = metrics["accuracy"].value >= ENOUGH
    text += (
        f"Rule: the smallest distance among settings with an accuracy of at least {ENOUGH:.0%}."
        if accurate
        else f"No setting reaches an accuracy of {ENOUGH:.0%}, so the most accurate one is named."
    )
    return best, text


def percent(estimate: Estimate) -> str:
    """``99.954 ± 0.046 %``, as ``str(estimate)``."""
    return f"{Estimate(100 * estimate.value, 100 * estimate.error, estimate.n)} %"


def sweep_page(path: Path, about: Mapping[str, Any], points: Sequence[Point], extra: Sequence[Section] = ()) -> Path:
    """Write the report of a sweep as one HTML file.

    Args:
        about: what ``SweepFolder.read`` returns beside the points.
        extra: sections to put between the sweep's pictures and its table.
    """
    floor = Floor.from_dict(about["floor"])
    best, text = findings(points, floor)
    sections = [_rows(points, about), *_tradeoff(points, floor), *extra, _numbers(points, floor, best)]
    settings = about["settings"]
    provenance = {
        **{name: str(value) for name, value in about["model"].items()},
        **{name: str(value) for name, value in settings.items()},
        **{f"protocol: {name}": str(value) for name, value in asdict(best.score.protocol).items()},
        "protocol: hash": best.score.protocol.hash,
        "floor": floor.note,
    }
    title = f"Guidance on {about['model'].get('data', 'a model')}"
    return write_page(path, title, sections, provenance, findings=text, commands=[about["command"]])


def _rows(points: Sequence[Point], about: Mapping[str, Any]) -> Section:
    """A row a guidance, the first images of each, from the same noise."""
    names = about["classes"]
    columns = min(20, len(names) if len(names) > 1 else 8, *(len(point.examples) for point in points))
    images = torch.stack([point.examples[:columns] for point in points])
    labels = [str(names[i % len(names)]) for i in range(columns)]
    picture = image_grid(images, [point.guidance for point in points], labels)
    caption = "Every row starts from the same noise; scale 0 ignores the class, 1 is the conditional model alone."
    return Section("The same noise under each guidance", [Png(picture, "one row of samples a guidance", caption)])


def sweep_plot(points: Sequence[Point], floor: Floor) -> Figure | None:
    """The trade-off over the scale; None where the guidances are not one curve of ``cfg(w)``."""
    rows = [TradeoffRow(point.scale, point.score.metrics) for point in points if point.scale is not None]
    if len(rows) < 2 or len({row.scale for row in rows}) < len(rows):
        return None
    return tradeoff_plot(rows, floor.metrics, recommended=recommend(points).scale)


def _tradeoff(points: Sequence[Point], floor: Floor) -> list[Section]:
    figure = sweep_plot(points, floor)
    if figure is None:
        return []
    return [Section("The trade-off", [Svg(to_svg(figure), "distance, accuracy and diversity over the guidance scale")])]


def _numbers(points: Sequence[Point], floor: Floor, best: Point) -> Section:
    scores = score_table(
        [(point.guidance, point.score) for point in points],
        floor.metrics,
        highlight=best.guidance,
        caption="value ± one standard error; " + floor.note,
    )
    costs = Table(
        ["setting", "network rows an image", "ms an image"],
        [[point.guidance, f"{point.rows_per_image:g}", f"{point.ms_per_image:.1f}"] for point in points],
    )
    meanings = "\n\n".join(f"{name.replace('_', ' ')}: {meaning}." for name, meaning in METRICS.items())
    return Section("All numbers", [scores, *_differences(points), costs, Text(meanings)])


def _differences(points: Sequence[Point]) -> list[Table]:
    """A row a guidance beside the baseline; no table for one guidance, or a sweep stored without differences."""
    compared = [(point.guidance, point.differences) for point in points if point.differences is not None]
    baseline = next((point.guidance for point in points if point.differences is None), None)
    if not compared or baseline is None:
        return []
    present = [name for name in METRICS if any(name in differences for _, differences in compared)]
    rows = [[guidance, *(_change(differences.get(name)) for name in present)] for guidance, differences in compared]
    caption = f"difference to {baseline}, same seeds; ± one standard error, paired sample by sample"
    if any(not change.paired for _, differences in compared for change in differences.values()):
        caption += "; * not paired: the errors of both settings added in squares, too large rather than too small"
    return [Table(["setting", *(name.replace("_", " ") for name in present)], rows, caption)]


def _change(difference: Difference | None) -> str:
    if difference is None:
        return "n/a"
    return f"{'+' if difference.value > 0 else ''}{difference}{'' if difference.paired else ' *'}"
