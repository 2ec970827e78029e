"""When a guidance acts in the steps of a pipeline: intervals in sigma, progress, and steps of two evaluations."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import fairlead as fl
from tests.pipelines.families import FAMILIES, SCHEDULERS, apart, ratios, run

N, CLOSE = 2, 1e-4


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "dit"])
def test_an_interval_in_sigma_is_the_hand_computed_set_of_steps(family: str) -> None:
    case = FAMILIES[family]
    pipe, arguments = case.make(), case.arguments(N)
    low, high = 0.3, 6.0
    with fl.attach(pipe, f"cfg(4).during(sigma=({low}, {high}))") as attached:
        guided = run(pipe, arguments, 12)
    scheduler = pipe.scheduler
    levels = [float(s) for s in scheduler.sigmas[:-1]] if family == "sdxl" else ratios(scheduler)
    inside = [i for i, level in enumerate(levels) if low < level <= high]
    assert 0 < len(inside) < 12
    assert attached.cost.rows == N * (12 + len(inside))
    assert apart(guided, by_hand(pipe, case, arguments, set(inside))) < CLOSE


def by_hand(pipe: Any, case: Any, arguments: dict[str, Any], inside: set[int]) -> Tensor:
    """The pipeline's own guidance at scale 4 in these steps and 1 in the others: its answers are mixed by hand."""
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    calls = 0
    alone = type(network).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        answer = alone(network, *args, **kwargs)
        twice = case.scale == "true_cfg_scale"
        step, calls = calls // (2 if twice else 1), calls + 1
        if step in inside:
            return answer
        if twice:  # the first call of a step is the conditional one, the second is to be the same
            forward.cond = answer if calls % 2 else forward.cond  # type: ignore[attr-defined]
            return forward.cond  # type: ignore[attr-defined]
        output = answer[0]
        half = len(output) // 2
        cond = output[:half] if isinstance(pipe, diffusers.DiTPipeline) else output[half:]
        both = torch.cat([cond, cond])
        return (both,) if isinstance(answer, tuple) else type(answer)(sample=both)

    network.forward = forward
    try:
        return run(pipe, arguments, 12, **{case.scale: 4.0})
    finally:
        del network.forward


def test_progress_counts_from_the_first_step_that_is_run() -> None:
    """Image-to-image starts in the middle of the scheduler's grid: a ramp by progress starts there too."""
    case = FAMILIES["sd img2img"]
    pipe, arguments = case.make(), case.arguments(1)
    steps: list[Any] = []
    with fl.attach(pipe, 'cfg(ramp(2, 5, by="progress"))', observe=lambda o: steps.append(o.seen.step)):
        run(pipe, arguments, 10)
    assert [step.index for step in steps] == list(range(6))
    assert [step.progress("progress") for step in steps] == [i / 5 for i in range(6)]


def test_the_corrector_of_heun_belongs_to_its_step() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(scheduler=SCHEDULERS["heun"]()), case.arguments(1)
    steps: list[tuple[int | None, float, float]] = []
    with fl.attach(
        pipe,
        "cfg(4)",
        observe=lambda o: steps.append((o.seen.step.index, o.seen.step.sigma, float(o.seen.sigma / o.seen.alpha))),
    ):
        run(pipe, arguments, 4)
    assert [index for index, _, _ in steps] == [0, 0, 1, 1, 2, 2, 3]
    sigmas = pipe.scheduler.sigmas.double()
    starts = [float(sigmas[i]) for i in (0, 0, 2, 2, 4, 4, 6)]
    assert [level for _, level, _ in steps] == pytest.approx(starts, rel=1e-5)
    assert [at for _, _, at in steps] == pytest.approx(sigmas[:7].tolist(), rel=1e-5)
