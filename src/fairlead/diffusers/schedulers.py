"""The noise levels of a diffusers scheduler, read from its own tables, in our units.

Every network of the families in ``pipelines.py`` sees x = alpha x0 + sigma eps: variance-preserving where the scheduler
has ``alphas_cumprod`` (schedulers that keep x0 + sigma eps scale it by 1 / sqrt(1 + sigma^2) before the network), and
alpha = 1 - sigma for flow matching. What an interval calls sigma is sigma / alpha on both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective, check_pair
from fairlead.core.schedule import NoiseSchedule, RectifiedFlow, TableSchedule
from fairlead.diffusers.pretrained import setting

_OBJECTIVES: dict[str, Objective] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
PREDICTIONS: dict[str, str] = {objective: prediction for prediction, objective in _OBJECTIVES.items()}
"""Objective of ours -> ``prediction_type`` of a scheduler."""


def is_flow(scheduler: Any) -> bool:
    """Whether x = (1 - sigma) x0 + sigma eps, and the network returns eps - x0."""
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(setting(scheduler, "use_flow_sigmas"))
        or setting(scheduler, "prediction_type") == "flow_prediction"
    )


def objective_of(scheduler: Any) -> Objective:
    """What the network returns, by the scheduler's ``prediction_type``.

    Raises:
        UsageError: for schedulers without a table of noise levels, or with one upside down, and predictions that are
            none of ours.
    """
    kind = type(scheduler).__name__
    if setting(scheduler, "invert_sigmas"):
        raise UsageError(
            f"scheduler {kind} counts its noise levels upwards (invert_sigmas), which is not read here; fl.attach "
            "takes cfg with plain scales there"
        )
    if is_flow(scheduler):
        return "flow"
    if not isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
        raise UsageError(
            f"scheduler {kind} has no table of noise levels (alphas_cumprod, or flow-matching sigmas), so its noise "
            "level is not known here; take e.g. DDIMScheduler, EulerDiscreteScheduler or UniPCMultistepScheduler"
        )
    prediction = setting(scheduler, "prediction_type", "epsilon")
    if prediction not in _OBJECTIVES:
        raise UsageError(f"scheduler {kind}: prediction_type {prediction!r} is none of {', '.join(_OBJECTIVES)}")
    return _OBJECTIVES[prediction]


def schedule_of(scheduler: Any, shift: float = 1.0) -> NoiseSchedule:
    """The schedule of a scheduler: its table of ``alphas_cumprod`` with entry k at t = (k + 1) / T, or rectified flow,
    whose t is the flow's sigma where ``shift`` is 1.

    Raises:
        UsageError: as :func:`objective_of`, and for an eps network on a table that ends in pure noise.
    """
    objective = objective_of(scheduler)
    if objective == "flow":
        return RectifiedFlow(shift)
    schedule = TableSchedule(tuple(scheduler.alphas_cumprod.cpu().double().tolist()))
    check_pair(objective, schedule)
    return schedule


@dataclass(frozen=True)
class Levels:
    """The levels sigma / alpha of a scheduler that has been given its timesteps, one for each entry and the last one
    after them; ``stages`` entries make one step."""

    ratios: tuple[float, ...]
    stages: int

    @classmethod
    def of(cls, scheduler: Any) -> Levels:
        count, stages = len(scheduler.timesteps), int(getattr(scheduler, "order", 1))
        sigmas = getattr(scheduler, "sigmas", None)
        if isinstance(sigmas, Tensor) and len(sigmas) > count:
            values = sigmas[: count + 1].tolist()
            between = getattr(scheduler, "sigmas_interpol", None)
            if isinstance(between, Tensor):  # KDPM2: its second evaluation lies inside the step
                early = "Ancestral" in type(scheduler).__name__  # its table is one entry ahead
                values[1:count:2] = [float(between[i - early]) for i in range(1, count, 2)]
            if is_flow(scheduler):
                values = [v / (1 - v) if v < 1 else math.inf for v in values]
            return cls(tuple(values), stages)
        table = scheduler.alphas_cumprod.cpu().double()
        kept = [table[int(k)] for k in scheduler.timesteps.tolist()]
        kept.append(torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0), dtype=torch.float64))
        return cls(tuple(math.sqrt((1 - a) / a) if a > 0 else math.inf for a in map(float, kept)), stages)

    def times(self, schedule: NoiseSchedule, start: int) -> Tensor:
        """The grid of a run that starts at entry ``start``: t where each step begins and where the last one ends.

        Raises:
            UsageError: for levels beyond the schedule.
        """
        chosen = [*self.ratios[start : len(self.ratios) - 1 : self.stages], self.ratios[-1]]
        highest = float(schedule.ratio(torch.ones((), dtype=torch.float64)))
        if chosen[0] > highest * 1.001:
            raise UsageError(
                f"the scheduler starts at sigma {chosen[0]:.4g}, beyond the last entry {highest:.4g} of its own table; "
                "start at or below it"
            )
        return times_of(schedule, chosen)

    def entries(self, schedule: NoiseSchedule) -> Tensor:
        """t of every entry, float64, without the last that is after them."""
        return times_of(schedule, self.ratios[:-1])


def times_of(schedule: NoiseSchedule, ratios: Sequence[float]) -> Tensor:
    return schedule.t_of_ratio(torch.tensor(ratios, dtype=torch.float64))


def position_of(scheduler: Any, timestep: Tensor | float, scale: float = 1.0) -> int:
    """The entry of ``scheduler.timesteps`` at which the network is called now.

    Args:
        timestep: what the network is given; all entries equal.
        scale: of that number beside the scheduler's.

    Raises:
        UsageError: if it is none of the scheduler's timesteps.
    """
    for name in ("step_index", "begin_index"):
        known = getattr(scheduler, name, None)
        if known is not None:
            return int(known)
    wanted = float(torch.as_tensor(timestep).flatten()[0]) / scale
    distance = (scheduler.timesteps.float() - wanted).abs()
    position = int(distance.argmin())
    if float(distance[position]) > 1e-3 * max(1.0, abs(wanted)):
        raise UsageError(f"the network was called at timestep {wanted:g}, which is none of the scheduler's timesteps")
    return position


def level_after(scheduler: Any, levels: Levels, position: int) -> float:
    """The level sigma / alpha to which the scheduler's step from this entry leads."""
    if hasattr(scheduler, "sigmas") or type(scheduler).__name__ != "DDIMScheduler":
        return levels.ratios[position + 1]
    # DDIM counts back by a fixed number of entries, which need not be the next of its timesteps
    table, count = scheduler.alphas_cumprod, scheduler.num_inference_steps
    before = int(scheduler.timesteps[position]) - setting(scheduler, "num_train_timesteps") // count
    kept = float(table[before] if before >= 0 else scheduler.final_alpha_cumprod)
    return math.sqrt((1 - kept) / kept)
