"""What came of the steps of a training: on the device until it is read, many steps at a time.

Reading waits for the device to finish all that it was given. A GPU that is waited for in every step idles while the
next one is launched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fairlead.core.errors import UsageError

EVERY = 20
"""Steps after which the outcomes on a GPU are read; on a CPU nothing is waited for, and each is read at once."""


class Outcome:
    """Loss and gradient norm of one step."""

    def __init__(self, outcomes: Outcomes, step: int, lr: float, loss: Tensor, norm: Tensor) -> None:
        self.step, self.lr = step, lr
        self.values: tuple[Tensor, ...] = (loss, norm)
        self._outcomes, self._read = outcomes, (math.nan, math.nan)

    def set(self, loss: float, norm: float) -> None:
        self.values, self._read = (), (loss, norm)

    def read(self) -> tuple[float, float]:
        """As numbers; all that wait are read with it.

        Raises:
            UsageError: as :meth:`Outcomes.read`.
        """
        if self.values:
            self._outcomes.read()
        return self._read


class Outcomes:
    """Those of a run.

    Args:
        every: steps after which they are read.
        lr: peak learning rate, for the advice of the message.
        log: called with loss, lr and grad_norm, and the step, once they are read; in the order of the steps.
    """

    def __init__(self, every: int, lr: float, log: Callable[..., object]) -> None:
        self.every, self.lr, self.log = every, lr, log
        self._waiting: list[Outcome] = []

    def add(self, step: int, lr: float, loss: Tensor, norm: Tensor) -> Outcome:
        """Keep what came of a step, scalars on the device, and read all that wait if it is time.

        Raises:
            UsageError: as :meth:`read`.
        """
        outcome = Outcome(self, step, lr, loss, norm)
        self._waiting.append(outcome)
        if len(self._waiting) >= self.every:
            self.read()
        return outcome

    def read(self) -> None:
        """Read and log all that wait.

        Raises:
            UsageError: for the first step whose loss or gradient norm is not finite; a gradient that is not has already
                spoiled the weights, even under a finite loss.
        """
        if not self._waiting:
            return
        values = [value.float() for outcome in self._waiting for value in outcome.values]
        numbers = torch.stack(values).tolist()
        for loss, norm in zip(numbers[::2], numbers[1::2], strict=True):
            outcome = self._waiting[0]
            for what, number in (("loss", loss), ("gradient norm", norm)):
                if not math.isfinite(number):  # it goes on waiting: a later attempt to save raises it again
                    raise UsageError(
                        f"training: the {what} of step {outcome.step} is {number}; lower --lr ({self.lr:g}) or use "
                        "--precision fp32, with another --out"
                    )
            outcome.set(loss, norm)
            self._waiting.pop(0)
            self.log({"loss": loss, "lr": outcome.lr, "grad_norm": norm}, step=outcome.step)


@dataclass(frozen=True)
class StepRecord:
    """What happened in a step (1-based).

    Attributes:
        lr: learning rate of this step.
        images_per_second: since the start of this process.
        saved: the checkpoint written after it from which the run can be resumed: a snapshot is none.
    """

    step: int
    lr: float
    images_per_second: float
    saved: Path | None
    outcome: Outcome = field(repr=False)

    @property
    def loss(self) -> float:
        """Of this step. A GPU is waited for where it was not read yet (every ``EVERY`` steps they are)."""
        return self.outcome.read()[0]

    @property
    def grad_norm(self) -> float:
        """Of this step, before clipping; read as :attr:`loss`."""
        return self.outcome.read()[1]
