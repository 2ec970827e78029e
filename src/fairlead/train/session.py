"""A training to its end: behind a progress bar, stopped and saved by signals."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fairlead.core.progress import Bar
from fairlead.core.signals import EndSignal, noting
from fairlead.train.loop import StepRecord, Training


def train_to_end(
    training: Training, preview_every: int = 0, preview: Callable[[Training], object] | None = None
) -> float | None:
    """Train to the end behind a progress bar. Ctrl-C, SIGTERM and SIGHUP finish the step, save, and raise
    ``EndSignal``; SIGUSR1 finishes the step, saves, and goes on.

    Args:
        preview: called every ``preview_every`` steps, 0 for never.

    Returns:
        the loss, averaged over the last steps; None if nothing was left to train.
    """
    main = training.accelerator.is_main_process
    loss: float | None = None
    unread: list[StepRecord] = []
    with (
        noting() as noted,
        Bar(training.config.steps, "step", initial=training.step, shown=main) as bar,
    ):
        if training.step == training.config.steps and main:
            print(f"{training.out} is trained already: step {training.step} of {training.config.steps}")
        for record in training.run():
            unread.append(record)
            if len(unread) >= training.outcomes.every or record.step == training.config.steps:
                for each in unread:
                    loss = each.loss if loss is None else 0.98 * loss + 0.02 * each.loss
                unread.clear()
            said = "" if loss is None else f"loss {loss:.4f} "
            bar.note(f"{said}lr {record.lr:.1e} {record.images_per_second:.0f} img/s")
            bar.update()
            if main and preview is not None and preview_every and record.step % preview_every == 0:
                preview(training)
            asked = training.anywhere(_ASKED_END + noted.ended if noted.ended else int(noted.wants_save()))
            if not asked:
                continue
            saved = record.saved or training.save()
            if asked > _ASKED_END:
                bar.close()
                if main:
                    left = "trained to the end" if record.step == training.config.steps else "go on with --resume"
                    print(f"stopped after step {record.step}; saved {saved}; {left}", file=sys.stderr)
                raise EndSignal(asked - _ASKED_END)
            if main:
                bar.write(f"saved {saved}", file=sys.stderr)
    return loss


_ASKED_END = 1000
"""More than that: the number of a signal that asks to end; 1: a save."""
