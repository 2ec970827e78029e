"""The page of a sweep: what was found, the pictures, the trade-off, the table, the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from fairlead.measure.metrics import DEBIASED, RAW, SHARES, Estimate, few_for_features, percent, shown_as, title_of
from fairlead.measure.score import METRICS, Floor
from fairlead.report.agreement_section import agreement_section
from fairlead.report.curves import curves_of, curves_plot, front_plot
from fairlead.report.image_grid import image_grid
from fairlead.report.page import Png, Section, Svg, Table, Text, difference_tables, score_table, write_page
from fairlead.report.plots import TradeoffRow, to_svg, tradeoff_plot
from fairlead.report.prompt_page import prompt_findings, prompt_pictures
from fairlead.tune.recommend import Choice, adherence
from fairlead.tune.setting import Point, Setting, name_of, setting_labels, varying

PROMPTS = 8
"""Columns of pictures that are headed by whole prompts."""
_MOST = 100
"""Prompts that the protocol lists."""
GLANCE = 10
"""Most settings of which pictures stand on top."""


def sweep_findings(points: Sequence[Point], floor: Floor, choice: Choice) -> str:
    """A paragraph that says what was found, the recommendation first; constraints of a search that the numbers here
    break are named."""
    best, name = choice.point, adherence(points)
    plain = None if best is None else next((p for p in points if _group(p) == _group(best) and p.scale == 1.0), None)
    if name == "cosine":
        return prompt_findings(points, floor, choice, plain)
    if best is None:
        return f"{choice.text} It is not among the settings that are measured here."
    metrics, real = best.score.metrics, floor.metrics
    raw, debiased = title_of(RAW), title_of(DEBIASED)
    times = metrics[RAW].value / real[RAW].value
    text = choice.text + " "
    if choice.searched:
        text += "It was chosen on the seeds of the search; the numbers here are of other seeds. "
    text += (
        f"The judge sees everything that was asked for in {percent(metrics[name])} of its images"
        if name == "agreement"
        else f"The judge recognises {percent(metrics[name])} of its images as what was asked for"
    )
    text += (
        f" (real images: {percent(real[name])}). "
        f"Their {debiased} to the training images is {metrics[DEBIASED]}, that of held-out real images "
        f"{real[DEBIASED]}; their {raw} is {metrics[RAW]}, "
        f"{times:.2f} times that of held-out real images ({real[RAW]}, both at N = {floor.n:,}). "
    )
    if plain is not None and plain is not best:
        before = plain.score.metrics
        text += (
            f"Without guidance: {percent(before[name])} and a {raw} of {before[RAW]}, "
            f"at {plain.rows_per_image:g} instead of {best.rows_per_image:g} network rows per image. "
        )
        if best.baseline == plain.setting and best.differences is not None:
            change = best.differences[RAW]
            size = Estimate(abs(change.value), change.error, change.n)
            how = "paired" if change.paired else "not paired: the variances of both add"
            text += (
                f"The {raw} is {size} {'less' if change.value < 0 else 'more'} than without guidance "
                f"({how}, same seeds). "
            )
    broken = [rule for rule in choice.rules if rule.metric in metrics and not rule.holds(metrics[rule.metric].value)]
    text += "".join(
        f"On these seeds {rule} does not hold: it is {shown_as(rule.metric, metrics[rule.metric])}. " for rule in broken
    )
    return text.strip()


def _names(points: Sequence[Point]) -> list[str]:
    return setting_labels([point.setting for point in points])


def _group(point: Point) -> tuple[str, str, int]:
    return point.setting.checkpoint, point.setting.sampler, point.setting.steps


def sweep_page(
    path: Path,
    about: Mapping[str, Any],
    points: Sequence[Point],
    choice: Choice,
    extra: Sequence[Section] = (),
    beaten: Mapping[Setting, Sequence[Setting]] | None = None,
    features: int = 0,
) -> Path:
    """Write the report of a sweep as one HTML file.

    Args:
        about: what ``SweepFolder.read`` returns beside the points.
        choice: what is recommended.
        extra: sections to put between the sweep's pictures and its table.
        beaten: setting -> those that beat it in everything, see ``tune.front.sweep_front``; None leaves the front out.
        features: dimensions of the features that the distance is of; 0: not known.
    """
    floor = Floor.from_dict(about["floor"])
    best, text = choice.point, sweep_findings(points, floor, choice)
    left = len(about["settings"]) - len(points)
    if left:
        text += f" {left} of {len(about['settings'])} settings are not measured yet; the command at the end goes on."
    glance = _at_a_glance(points, best, beaten)
    alone, same = adherence(points) == "cosine", "The same noise under each setting"
    sections = [
        *_mind(about, points, features),
        *(prompt_pictures(points, _names(points), glance, about) if alone else [_rows(same, points, glance, about)]),
        *_pictures(points, floor, best, beaten),
        *agreement_section(points, _names(points), floor, best),
        *extra,
        _numbers(points, floor, best, beaten),
    ]
    if len(glance) < len(points) and not alone:
        sections.append(_rows("The same noise under all settings", points, points, about, folded=True))
    first = points[0].setting
    one_model = len(about["models"]) == 1
    provenance = {
        **{
            (name if one_model else f"{checkpoint}: {name}"): str(value)
            for checkpoint, model in about["models"].items()
            for name, value in model.items()
        },
        **{axis: name_of(first, [axis]) for axis in ("guidance", "sampler", "steps") if axis not in _axes(points)},
        **{name: _said(value) for name, value in about["shared"].items()},
        **{f"protocol: {name}": str(value) for name, value in points[0].score.protocol.as_dict().items()},
        "protocol: hash": points[0].score.protocol.hash,
        "floor": floor.note,
    }
    title = f"Guidance on {about['models'][first.checkpoint].get('data', 'a model')}"
    return write_page(path, title, sections, provenance, findings=text, commands=about["commands"])


def _axes(points: Sequence[Point]) -> list[str]:
    return varying([point.setting for point in points])


def _at_a_glance(
    points: Sequence[Point], best: Point | None, beaten: Mapping[Setting, Sequence[Setting]] | None
) -> Sequence[Point]:
    """All settings where they are few, else no guidance, the recommended one and as many of the front as fit."""
    if len(points) <= GLANCE:
        return points
    group = _group(best or points[0])
    first = [point for point in points if point is best or (point.scale == 1.0 and _group(point) == group)]
    front = [point for point in points if point not in first and beaten is not None and not beaten[point.setting]]
    chosen = [*first, *front][:GLANCE]
    return [point for point in points if point in chosen]


def _rows(
    title: str, points: Sequence[Point], shown: Sequence[Point], about: Mapping[str, Any], folded: bool = False
) -> Section:
    """A row for each setting that is ``shown``, its first images, from the same noise."""
    prompts = about.get("prompts") or []
    names = prompts[:PROMPTS] or about["classes"]
    columns = min(20, len(names) if len(names) > 1 else 8, *(len(point.examples) for point in points))
    images = torch.stack([point.examples[:columns] for point in shown])
    labels = [str(names[i % len(names)]) for i in range(columns)]
    adherence_metric = adherence(points)
    rows = [
        f"{name}   {point.score.metrics['distance_debiased'].value:.2f}   "
        f"{100 * point.score.metrics[adherence_metric].value:.0f} %"
        for name, point in zip(_names(points), points, strict=True)
        if point in shown
    ]
    caption = (
        f"Every row starts from the same noise; scale 0 ignores the {'prompt' if prompts else 'class'}, 1 is the "
        f"conditional model alone. Beside a setting: its {title_of(DEBIASED)}, and {adherence_metric}."
    )
    if len(shown) < len(points):
        caption += f" Here are {len(shown)} of {len(points)} settings; all of them are at the end."
    return Section(title, [Png(image_grid(images, rows, labels), "one row of samples per setting", caption)], folded)


def sweep_plot(points: Sequence[Point], floor: Floor, best: Point | None) -> Figure | None:
    """The metrics over the scale: one trade-off where the settings are one curve of ``cfg(w)``, else a line for each
    checkpoint, sampler, steps and form of guidance; None where nothing lies on a line.

    Args:
        best: what is recommended, to be marked.
    """
    curves = curves_of(points)
    rows = [TradeoffRow(point.scale, point.score.metrics) for point in points if point.scale is not None]
    alike = len(curves) == 1 and len(rows) == len(points) == len({row.scale for row in rows}) > 1
    if alike and all({"accuracy", "diversity"} <= set(row.metrics) for row in rows):
        return tradeoff_plot(rows, floor.metrics, recommended=best.scale if best else None)
    return curves_plot(curves, floor.metrics)


def _mind(about: Mapping[str, Any], points: Sequence[Point], features: int) -> list[Section]:
    """What makes the numbers less than they look."""
    protocol, far = points[0].score.protocol, RAW in points[0].score.metrics
    few = [few_for_features(protocol.n, features), few_for_features(protocol.reference_n, features, "real images")]
    few = few if far else []
    if far and protocol.block < protocol.n:
        few.append(few_for_features(protocol.block, features, "images in a block of the raw distance"))
    notes = [note for note in few if note is not None] + list(about.get("notes", ()))
    return [Section("Mind", [Text("\n\n".join(f"{note[0].upper()}{note[1:]}." for note in notes))])] if notes else []


def _pictures(
    points: Sequence[Point], floor: Floor, best: Point | None, beaten: Mapping[Setting, Sequence[Setting]] | None
) -> list[Section]:
    figure, blocks = sweep_plot(points, floor, best), []
    if figure is not None:
        blocks.append(Svg(to_svg(figure), f"what was measured over the guidance scale, {adherence(points)} among it"))
    sections = [Section("The trade-off", blocks)] if blocks else []
    if len(points) > 1 and beaten is not None:
        front = front_plot(curves_of(points, alone=True), floor.metrics, best, _dominated(beaten), adherence(points))
        alt = (
            f"{adherence(points)} and network rows against {title_of(DEBIASED)}, one point per setting, with error bars"
        )
        title = f"{title_of(DEBIASED).capitalize()} against {title_of('cosine')}"
        title = title if adherence(points) == "cosine" else "The front"
        sections.append(Section(title, [Text(front_said(points, beaten)), Svg(to_svg(front), alt)]))
    return sections


def front_said(points: Sequence[Point], beaten: Mapping[Setting, Sequence[Setting]]) -> str:
    """Which settings are worth a look, in a paragraph."""
    on = [name for name, point in zip(_names(points), points, strict=True) if not beaten[point.setting]]
    return (
        f"{len(on)} of {len(points)} settings are on the front: no other is surely better in {title_of(DEBIASED)} and "
        f"{title_of(adherence(points))} at "
        f"no more network rows. They are {'; '.join(on)}. Surely means beyond 1.96 paired standard errors in each, so "
        "with more images the front gets shorter."
    )


def _dominated(beaten: Mapping[Setting, Sequence[Setting]]) -> set[Setting]:
    return {setting for setting, others in beaten.items() if others}


def _numbers(
    points: Sequence[Point], floor: Floor, best: Point | None, beaten: Mapping[Setting, Sequence[Setting]] | None
) -> Section:
    names = _names(points)
    scores = score_table(
        [(name, point.score) for name, point in zip(names, points, strict=True)],
        floor.metrics or None,
        highlight=names[points.index(best)] if best else None,
        caption=f"value ± one standard error{_held(points)}, {SHARES}; {floor.note}",
    )
    named = dict(zip((point.setting for point in points), names, strict=True))
    costs = Table(
        ["setting", "network rows per image", "ms per image", *([] if beaten is None else ["front"])],
        [
            [
                name,
                f"{point.rows_per_image:g}",
                f"{point.ms_per_image:.1f}",
                *([] if beaten is None else [_standing([named[other] for other in beaten[point.setting]])]),
            ]
            for name, point in zip(names, points, strict=True)
        ],
        highlight=points.index(best) if best else None,
    )
    known = [name for name in METRICS if any(name in point.score.metrics for point in points)]
    meanings = "\n\n".join(f"{title_of(name)}: {METRICS[name]}." for name in known)
    changes = difference_tables(points, names, {name: title_of(name) for name in METRICS}, SHARES)
    return Section("All numbers", [scores, *changes, costs, Text(meanings)])


def _held(points: Sequence[Point]) -> str:
    alone = adherence(points) == "cosine"
    return " (where a prompt is used more than once: for other seeds under these prompts)" if alone else ""


def _said(value: Any) -> str:
    """Of a value that settings share; of many prompts the first."""
    several = isinstance(value, list) and len(value) > _MOST
    return f"{value[:_MOST]} and {len(value) - _MOST:,} more" if several else str(value)


def _standing(others: Sequence[str]) -> str:
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"beaten by {others[0]}{more}" if others else "on it"
