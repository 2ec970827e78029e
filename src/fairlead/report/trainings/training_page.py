"""The page of a training: its loss, the loss on held-out images, the latest preview, what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fairlead.core.errors import UsageError
from fairlead.report.curves import look_of, new_figure
from fairlead.report.page import Code, Png, Section, Svg, Table, write_page
from fairlead.report.plots import BLUE, GREY, plot_style, to_svg
from fairlead.report.trainings.next_steps import made, next_commands
from fairlead.report.trainings.validation import HeldOutLoss, cell, read_losses
from fairlead.train.loop import Training
from fairlead.train.session import LOSSES
from fairlead.train.step_table import read_table

_POINTS = 400
"""Of the curve of the training loss, at most: each is the mean of the steps about it."""
_SURE = 1.96


def write_training_page(training: Training, loss: float | None = None) -> Path:
    """Write ``RUN/report.html`` of the present state.

    Args:
        loss: averaged over the last steps.

    Raises:
        UsageError: if it cannot be written.
    """
    assert training.out is not None
    run, config = training.out, training.config
    noted = [(float(row[0]), float(row[1])) for row in read_table(run / "loss.csv", LOSSES)]
    held_out = read_losses(run)
    last = [row for row in held_out if row.step == held_out[-1].step]
    sections = []
    if noted:
        alt = "loss over the steps: of training batches, and of held-out images by noise level"
        caption = (
            "loss.csv and validation.csv hold the numbers. Training: with the weighting and the dropped conditions of "
            "the training; held out: unweighted, under the images' own conditions"
        )
        sections.append(Section("Loss", [Svg(to_svg(loss_plot(noted, held_out)), alt, caption if held_out else "")]))
    if last:
        sections.append(Section("Held-out images", [_table(last)]))
    previews = sorted((run / "previews").glob("step-*.png"))
    if previews:
        sections.append(Section("Latest preview", [Png(previews[-1].read_bytes(), "samples", previews[-1].name)]))
    commands = next_commands(training)
    sections.append(Section("What to do next", [Code("\n".join(commands))]))
    shape = "x".join(map(str, training.data.shape))
    provenance = {
        "data": f"{training.data.name} {training.data.split}, {len(training.data):,} images {shape}, "
        f"{len(training.data.classes)} classes, #{training.data.fingerprint}",
        "network": f"{config.net['kind']}, {training.parameters:,} parameters",
        "objective": f"{config.objective}, weighting {config.weighting}, schedule {config.schedule['name']}",
        "batches": f"{config.batch_size} images, peak learning rate {config.lr:g}, seed {config.seed}",
        "precision": training.precision,
    }
    try:
        return write_page(
            run / "report.html",
            f"Training {run.name}",
            sections,
            provenance,
            findings=weights_compared(training, loss, last),
        )
    except OSError as error:
        raise UsageError(f"cannot write {run / 'report.html'}: {error}; the last checkpoint is whole") from error


def weights_compared(training: Training, loss: float | None, last: Sequence[HeldOutLoss]) -> str:
    """What is there, and in which ranges of noise averaged and raw weights can be distinguished."""
    text = f"{made(training, loss)}."
    if not last:
        return text
    better = [row for row in last if row.difference < -_SURE * row.difference_error]
    worse = [row for row in last if row.difference > _SURE * row.difference_error]
    for rows, word in ((better, "lower"), (worse, "higher")):
        if rows:
            where = ", ".join(f"{row.low:g} to {row.high:g}" for row in rows)
            text += (
                f" On {rows[0].n:,} held-out images the averaged weights have the {word} loss at log-SNR {where} (each "
                "beyond 1.96 paired standard errors)."
            )
    if not better and not worse:
        text += f" On {last[0].n:,} held-out images averaged and raw weights are statistically indistinguishable."
    return text


def loss_plot(noted: Sequence[tuple[float, float]], held_out: Sequence[HeldOutLoss]) -> Figure:
    """Left: the loss of training batches, (step, loss), in means over neighbouring steps. Right, where there are
    ``held_out`` losses: a line for each range of log-SNR, solid averaged weights, dashed raw ones."""
    each = math.ceil(len(noted) / _POINTS)
    means = [noted[i : i + each] for i in range(0, len(noted), each)]
    ranges = list(dict.fromkeys((row.low, row.high) for row in held_out))
    with plot_style():
        figure = new_figure(3.6, len(ranges))
        panels = figure.subplots(1, 2 if ranges else 1, squeeze=False)[0]
        panels[0].plot(
            [sum(step for step, _ in part) / len(part) for part in means],
            [sum(loss for _, loss in part) / len(part) for part in means],
            color=BLUE,
        )
        for axes in panels:
            axes.set_yscale("log")
            for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
        over = f", means over {each} steps" if each > 1 else ""
        panels[0].set(xlabel="step", ylabel=f"loss{over}", title="Training batches")
        for number, (low, high) in enumerate(ranges):
            rows = [row for row in held_out if (row.low, row.high) == (low, high)]
            steps, look = [row.step for row in rows], look_of(number)
            averaged = [row.averaged for row in rows]
            errors = [0.0 if math.isnan(row.averaged_error) else row.averaged_error for row in rows]
            panels[1].errorbar(steps, averaged, errors, label=f"{low:g} to {high:g}", **look)
            panels[1].plot(steps, [row.raw for row in rows], color=look["color"], linestyle=":", linewidth=1)
        if ranges:
            panels[1].set(xlabel="step", title=f"{held_out[-1].n:,} held-out images, by log-SNR")
            panels[1].plot([], [], color=GREY, linestyle=":", label="raw weights")
            figure.legend(loc="outside upper center", ncols=len(ranges) + 1)
    return figure


def _table(last: Sequence[HeldOutLoss]) -> Table:
    rows = [
        [
            f"{row.low:g} to {row.high:g}",
            cell(row.raw, row.raw_error),
            cell(row.averaged, row.averaged_error),
            ("+" if row.difference > 0 else "") + cell(row.difference, row.difference_error),
        ]
        for row in last
    ]
    caption = (
        f"loss at step {last[0].step:,} by noise level, {last[0].n:,} images; ± one standard error, that of the "
        "difference paired image by image"
    )
    return Table(["log-SNR", "raw weights", "averaged weights", "averaged minus raw"], rows, caption)
