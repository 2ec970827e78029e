"""What the page of a sweep says and shows where prompts alone were given: no judge, a row of pictures per prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fairlead.measure.extractors import fitted
from fairlead.measure.metrics import DEBIASED, percent, shown_as, title_of
from fairlead.measure.score import Difference, Floor
from fairlead.report.image_grid import image_grid
from fairlead.report.page import Png, Section
from fairlead.tune.measurements import z_of
from fairlead.tune.recommend import Choice
from fairlead.tune.setting import Point

FIRST = 8
"""Prompts whose pictures stand on top; those of the others are folded."""
_SIDE = 128
"""Larger images are shown at this many pixels."""
_WIDTH, _LINES = 34, 3
"""Of a prompt beside its pictures: characters a line, lines."""


def prompt_findings(points: Sequence[Point], floor: Floor, choice: Choice, plain: Point | None) -> str:
    """A paragraph that says what was found, the recommendation first.

    Args:
        plain: no guidance, with the checkpoint, sampler and steps of the recommended setting, if it is measured.
    """
    best = choice.point
    if best is None:
        return f"{choice.text} It is not among the settings that are measured here."
    metrics = best.score.metrics
    parts = [choice.text]
    if choice.searched:
        parts.append("It was chosen on the seeds of the search; the numbers here are of other seeds.")
    parts.append(f"The {title_of('cosine')} of its images and their own prompts is {metrics['cosine']}.")
    changes = best.differences or {}
    if plain is not None and plain is not best and best.baseline == plain.setting:
        if "cosine" in changes:
            parts.append(f"That is {_changed(changes['cosine'])} without guidance.")
        if DEBIASED in changes:
            parts.append(f"Its {title_of(DEBIASED)} is {metrics[DEBIASED]}: {_changed(changes[DEBIASED])} without.")
        if "diversity" in changes:
            parts.append(f"Its diversity is {_changed(changes['diversity'])} without.")
        rows = f"{best.rows_per_image:g} instead of {plain.rows_per_image:g}"
        parts.append(f"It takes {rows} network rows per image.")
    elif DEBIASED in metrics:
        parts.append(f"Its {title_of(DEBIASED)} is {metrics[DEBIASED]}.")
    if DEBIASED in floor.metrics:
        parts.append(
            f"Held-out real images have a {title_of(DEBIASED)} of {floor.metrics[DEBIASED]} (N = {floor.n:,})."
        )
    if "saturation" in metrics:
        parts.append(f"{percent(metrics['saturation'])} of the pixel values are at the limits.")
    for rule in choice.rules:
        if rule.metric in metrics and not rule.holds(metrics[rule.metric].value):
            parts.append(f"On these seeds {rule} does not hold: it is {shown_as(rule.metric, metrics[rule.metric])}.")
    return " ".join(parts)


def _changed(change: Difference) -> str:
    """``0.0123 (95 % interval 0.0105 to 0.0141, paired over prompts and seeds) more than``"""
    half = z_of(0.95) * change.error
    size, word = abs(change.value), "less" if change.value < 0 else "more"
    how = "paired over prompts and seeds" if change.paired else "not paired: the variances of both add"
    return f"{size:.3g} {word} (95 % interval {size - half:.3g} to {size + half:.3g}, {how}) than"


def prompt_pictures(
    points: Sequence[Point], names: Sequence[str], shown: Sequence[Point], about: Mapping[str, Any]
) -> list[Section]:
    """A row of pictures per prompt, a column per setting, from the same noise; the first prompts on top, others folded.

    Args:
        names: of ``points``.
        shown: the settings that have a column.
        about: what ``SweepFolder.read`` returns beside the points; its prompts are those of the examples.
    """
    asked = list(dict.fromkeys(about["prompts"]))
    count = min(len(asked), *(len(point.examples) for point in points))
    heads = [
        f"{name} {point.score.metrics['cosine'].value:.3f}"
        for name, point in zip(names, points, strict=True)
        if point in shown
    ]
    columns = [_small(point.examples[:count]) for point in shown]
    images = torch.stack(columns, dim=1)
    caption = (
        f"One row per prompt and one column per setting, with its {title_of('cosine')}; the images of a row start from "
        "the same "
        "noise. Scale 0 ignores the prompt, 1 is the conditional model alone."
    )
    if len(shown) < len(points):
        caption += f" Here are {len(shown)} of {len(points)} settings; the table has all."
    if count < len(about["classes"]):
        caption += f" Pictures are kept of the first {count:,} of {len(about['classes']):,} prompts."
    sections = []
    for title, part, folded in (
        ("The same noise under each setting, prompt by prompt", slice(0, FIRST), False),
        ("The other prompts", slice(FIRST, count), True),
    ):
        if len(images[part]):
            labels = [_beside(prompt) for prompt in asked[:count][part]]
            picture = Png(image_grid(images[part], labels, heads), "one row of samples per prompt", caption)
            sections.append(Section(title, [picture], folded))
    return sections


def _small(images: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = images.shape
    shrink = max(1.0, max(height, width) / _SIDE)
    return fitted(images, (channels, max(1, round(height / shrink)), max(1, round(width / shrink))))


def _beside(prompt: str) -> str:
    lines = textwrap.wrap(prompt, _WIDTH) or [""]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1][: _WIDTH - 3]}..."])
