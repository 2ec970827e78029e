"""What is done beside the training of a denoiser: previews, the loss on held-out images, the page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import astuple

from fairlead.core.errors import UsageError
from fairlead.core.progress import working
from fairlead.data.images import ImageData
from fairlead.report.trainings.training_page import write_training_page
from fairlead.report.trainings.validation import (
    COLUMNS,
    HeldOutLoss,
    Validation,
    check_held_out,
    held_out_images,
    images_for,
)
from fairlead.train.loop import StepRecord, Training
from fairlead.train.step_table import StepTable

_TIMES, _LEAST = 10, 100


class Watch:
    """Called after each step, in the main process; ``close`` ends it.

    Args:
        preview_every: steps between calls of ``preview``, 0: none.
        held_out: the images to measure on; None: those that the data of the training hold out.
        validate_every: steps between two measurements of the loss on held-out images, which is measured after the last
            step in any case; None: ten times in a run, but not more often than every 100 steps; 0: never.
    """

    def __init__(
        self,
        training: Training,
        preview_every: int,
        preview: Callable[[Training], object],
        held_out: ImageData | None,
        validate_every: int | None,
    ) -> None:
        steps = training.config.steps
        self.held_out: tuple[HeldOutLoss, ...] = ()
        """Of the last measurement."""
        self._preview_every, self._preview = preview_every, preview
        self._every = max(_LEAST, steps // _TIMES) if validate_every is None else validate_every
        self._table: StepTable | None = None
        if not self._every or training.step >= steps or not training.accelerator.is_main_process:
            return
        assert training.out is not None
        try:
            with working("reading held-out images"):
                count = images_for(training)
                if held_out is None:
                    held_out = held_out_images(training, count)
                check_held_out(held_out, training.data)
                self._validation = Validation(training, held_out, count)
        except UsageError as error:
            print(f"no loss on held-out images: {error}", file=sys.stderr)
            return
        self._table = StepTable(training.out / "validation.csv", COLUMNS, training.step)

    def __call__(self, training: Training, record: StepRecord) -> None:
        if self._preview_every and record.step % self._preview_every == 0:
            self._preview(training)
        if self._table is None or (record.step % self._every and record.step != training.config.steps):
            return
        self.held_out = tuple(self._validation.measure())
        for row in self.held_out:
            self._table.add(*astuple(row))
        training.accelerator.log(
            {
                f"held-out loss at log-SNR {row.low:g} to {row.high:g}, {weights}": getattr(row, weights)
                for row in self.held_out
                for weights in ("raw", "averaged")
            },
            step=record.step,
        )
        if record.step < training.config.steps:
            write_training_page(training)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
