"""A training to its end: behind a progress bar, stopped and saved by signals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext

from fairlead.core.progress import Bar
from fairlead.core.signals import EndSignal, noting
from fairlead.train.loop import StepRecord, Training
from fairlead.train.step_table import StepTable

LOSSES = ("step", "loss", "lr", "grad_norm")
"""Columns of ``RUN/loss.csv``, which has a line for each step."""


def train_to_end(training: Training, watch: Callable[[Training, StepRecord], object] | None = None) -> float | None:
    """Train to the end with a progress bar and a line per step in ``RUN/loss.csv``. Ctrl-C, SIGTERM and SIGHUP finish
    the step, save, and raise ``EndSignal``; SIGUSR1 finishes the step, saves, and goes on, and so does the end of
    ``checkpoint_minutes``.

    Args:
        watch: called after each step, in the main process.

    Returns:
        the loss, averaged over the last steps; None if nothing was left to train.
    """
    main, every = training.accelerator.is_main_process, 60 * training.config.checkpoint_minutes
    loss: float | None = None
    unread: list[StepRecord] = []
    last = time.monotonic()
    path = None if training.out is None or not main else training.out / "loss.csv"
    with (
        noting() as noted,
        nullcontext() if path is None else closing(StepTable(path, LOSSES, training.step)) as losses,
        Bar(training.config.steps, "step", initial=training.step, shown=main) as bar,
    ):
        if training.step == training.config.steps and main:
            print(f"{training.out} is trained already: step {training.step} of {training.config.steps}")
        for record in training.run():
            unread.append(record)
            if len(unread) >= training.outcomes.every or record.saved or record.step == training.config.steps:
                loss = _read(unread, loss, losses)
            said = "" if loss is None else f"loss {loss:.4f} "
            bar.note(f"{said}lr {record.lr:.1e} {record.images_per_second:.0f} img/s")
            bar.update()
            if main and watch is not None:
                watch(training, record)
            if record.saved:
                last = time.monotonic()
            due = _DUE if every and time.monotonic() - last >= every else 0
            asked = _ASKED_END + noted.ended if noted.ended else _ASKED_SAVE if noted.wants_save() else due
            asked = training.anywhere(asked)
            if not asked:
                continue
            loss = _read(unread, loss, losses)
            saved, last = record.saved or training.save(), time.monotonic()
            if asked > _ASKED_END:
                bar.close()
                if main:
                    left = "trained to the end" if record.step == training.config.steps else "go on with --resume"
                    print(f"stopped after step {record.step}; saved {saved}; {left}", file=sys.stderr)
                raise EndSignal(asked - _ASKED_END)
            if main and asked == _ASKED_SAVE:
                bar.write(f"saved {saved}", file=sys.stderr)
    return loss


def _read(records: list[StepRecord], loss: float | None, losses: StepTable | None) -> float | None:
    """Add the records to the table and to the average loss, and forget them."""
    for record in records:
        if losses is not None:
            losses.add(record.step, record.loss, record.lr, record.grad_norm)
        loss = record.loss if loss is None else 0.98 * loss + 0.02 * record.loss
    records.clear()
    return loss


_DUE, _ASKED_SAVE, _ASKED_END = 1, 2, 1000
"""A checkpoint is due, one was asked for; more than the last: the number of a signal that asks to end."""
