"""A function of one's own as a Model: anything that predicts from a noisy sample, its noise level and a condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from fairlead.core.arguments import as_names, chosen, shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting, level_at, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, Prediction, TiedPrediction, check_pair
from fairlead.core.schedule import NoiseSchedule, as_schedule
from fairlead.models.model import LabelEncoder, Model, Spec, encode_nothing, identity

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x [n, ...], sigma [n], condition of n samples) -> prediction [n, ...]"""


class FunctionDenoiser:
    """A denoiser from a :data:`Predict`; its rows are counted here unless it counts some itself."""

    counts = True

    def __init__(self, predict: Predict, schedule: NoiseSchedule, objective: Objective) -> None:
        self.predict, self.schedule, self.objective = predict, schedule, objective

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        mixing = level_at(self.schedule, t, x_t).mixing
        with counting() as cost:
            output = self.predict(x_t, mixing.sigma.flatten().expand(len(x_t)), condition)
        if not isinstance(output, Tensor) or output.shape != x_t.shape:
            got = list(output.shape) if isinstance(output, Tensor) else shown(output)
            raise UsageError(f"denoiser: expected a prediction {list(x_t.shape)} like x, got {got}")
        if not cost.rows:
            tally(len(x_t))
        return TiedPrediction(mixing.x0_of(output.to(x_t.dtype), self.objective, x_t), x_t, mixing)


def denoiser(
    predict: Predict,
    schedule: NoiseSchedule | str,
    *,
    shape: Sequence[int],
    objective: Objective = "x0",
    classes: Sequence[str] = (),
    encode: Callable[[Sequence[Spec]], Condition] | None = None,
    decode: Callable[[Tensor], Tensor] = identity,
    device: str | torch.device = "cpu",
) -> Model:
    """Make a Model of any function that predicts, for sampling, guidance and measuring.

    Args:
        predict: called with x = alpha x0 + sigma eps [n, *shape], sigma [n] of the schedule at that time, in the dtype
            of x, and the :class:`Condition` of n samples; returns a prediction [n, *shape]. With ``classes``,
            ``condition.values["label"]`` holds their indices and ``condition.keep["label"]`` is False where the label
            is null: there it has to predict without one.
        schedule: that x is noised by, by name ("flow", "ve", "vp_cosine", ...) or as an object.
        shape: of one sample; [c, h, w] are images in [-1, 1].
        objective: what it predicts, with x as above: "x0", "eps", "v" (alpha eps - sigma x0) or "flow" (eps - x0).
        classes: names of the labels; () for a model without conditions.
        encode: specs, one per sample -> Condition, in place of ``classes``.
        decode: x0 [n, *shape] -> images [n, c, h, w] in [-1, 1].
        device: where x is made.

    Raises:
        UsageError: for an unknown schedule or objective, or one that cannot be used together.
    """
    if not callable(predict):
        raise UsageError(f"denoiser: expected a function (x, sigma, condition) -> prediction, got {shown(predict)}")
    schedule, names = as_schedule(schedule), as_names("denoiser: classes", classes)
    chosen("objective", objective, get_args(Objective))
    check_pair(objective, schedule)
    if encode is not None and names:
        raise UsageError("denoiser: expected classes or encode, got both; leave one out")
    return Model(
        denoiser=FunctionDenoiser(predict, schedule, objective),
        schedule=schedule,
        shape=tuple(shape),
        encode=encode or (LabelEncoder(names) if names else encode_nothing),
        decode=decode,
        classes=names,
        data_range=(-1.0, 1.0) if len(shape) == 3 and decode is identity else None,
        objective=objective,
        conditions=("label",) if names else (),
        examples=names,
        metadata={"function": getattr(predict, "__qualname__", type(predict).__name__), "schedule": schedule.config()},
        device=torch.device(device),
    )
