"""The noise levels of a pipeline's samples: whether they are known, and what leads to the next one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import RectifiedFlow
from fairlead.diffusers.guiding.pattern import Pattern
from fairlead.diffusers.schedulers import Levels, objective_of, schedule_of
from fairlead.guide.step import Grid
from fairlead.models.model import Model


def unknown_levels(pipe: Any, pattern: Pattern, model: Model) -> str:
    """Why the noise levels of a pipeline's samples are not known; "" if they are."""
    if model.metadata["unknown"]:
        return str(model.metadata["unknown"])
    if pattern.output is None or pattern.latents is None:
        return f"{type(pipe).__name__} changes its network's answers before its scheduler sees them"
    try:  # whether it goes down through noise levels of its table
        Grid.of(Levels.of(pipe.scheduler).times(model.schedule, 0), model.schedule)
    except (UsageError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        return str(error)
    return ""


def levels_of(pipe: Any) -> tuple[Any, Any, str]:
    """(schedule, objective, "") of a pipeline's scheduler; where its noise levels are not known, a stand-in for both
    and the reason."""
    scheduler = getattr(pipe, "scheduler", None)
    try:
        objective = objective_of(scheduler)
        return schedule_of(scheduler), objective, ""
    except (UsageError, AttributeError, TypeError) as error:
        return RectifiedFlow(1.0), "x0", str(error)


def tied(prediction: Prediction, x_t: Tensor, alpha: Tensor, sigma: Tensor, after: float) -> Prediction:
    """The prediction with eps = (x_t - alpha x0) / sigma whose first-order step leads to the same x.

    The step x' = alpha' x0 + sigma' eps, with eps free, is that of x0 + gain (eps - eps of x0), where
    gain = r' / (1 - alpha r' / sigma).

    Args:
        after: r' = sigma' / alpha', the level that the step leads to.
    """
    gain = after / (1 - after * alpha / sigma)
    own = Prediction.from_x0(prediction.x0, x_t, alpha, sigma)
    return Prediction.from_x0(prediction.x0 + gain * (prediction.eps - own.eps), x_t, alpha, sigma)
