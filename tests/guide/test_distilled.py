"""The scale that a student has learned: it goes with the run's own condition, at one row (2210.03142)."""

import re
from dataclasses import replace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.guide.methods.distilled import with_scale
from fairlead.sample.grids import trailing
from tests.guide.toy import CLASSES, NETWORK, ONLY_LABELS, N, T, call, close, images, steered

SPECS = [2, 0, None, 2, 1]
X_T = images()


def of_network(scale: object, specs: list = SPECS) -> torch.Tensor:
    """The x0 of the network at this scale; None: none."""
    condition = NETWORK.encode(specs)
    return NETWORK.denoiser(X_T, T, condition if scale is None else with_scale(condition, scale)).x0  # type: ignore[arg-type]


@pytest.mark.parametrize("batching", ["fused", "sequential"])
def test_it_is_the_network_at_that_scale_in_one_row(batching: str) -> None:
    scales = [3.0, 1.0, 2.0, 0.0, -1.0]
    for text, scale in ((f"distilled({scales})", torch.tensor(scales)), ("distilled(2.5)", 2.5)):
        prediction, cost = call(steered(text, SPECS, batching=batching), X_T)
        close(prediction.x0, of_network(scale), 1e-10)
        assert cost.rows == N
    assert float((of_network(2.5) - of_network(1.0)).abs().max()) > 1e-3


def test_a_run_without_conditions_is_told_the_scale_too() -> None:
    prediction, cost = call(steered("distilled(2.5)", [None] * N), X_T)
    close(prediction.x0, of_network(2.5, [None] * N), 1e-10)
    assert cost.rows == N


def test_null_and_other_conditions_are_told_none() -> None:
    own, null, one = of_network(2.5), of_network(None, [None] * N), of_network(None, [1] * N)
    both, cost = call(steered('distilled(2.5) + cfg(3) + cfg(2, negative="one")', SPECS), X_T)
    close(both.x0, own + 2 * (own - null) + (own - one), 1e-9)
    assert cost.rows == 3 * N
    assert CLASSES[1] == "one"


def test_a_perturbed_branch_is_told_it_as_the_own_one_is() -> None:
    plain, _ = call(steered("pag(2)", SPECS), X_T)
    added, _ = call(steered("distilled(0) + pag(2)", SPECS), X_T)
    assert float((added.x0 - plain.x0).abs().max()) > 1e-3
    away = (added.x0 - of_network(0.0)) / 2
    condition = with_scale(NETWORK.encode(SPECS), 0.0)
    perturbation = next(b.perturb for b in steered("pag(2)", SPECS).coefficients(_step()) if b.perturb is not None)
    perturbed = NETWORK.denoiser(X_T, T, condition.perturbed(perturbation)).x0
    close(away, of_network(0.0) - perturbed, 1e-9)


def _step():
    denoiser = steered("pag(2)", SPECS, times=trailing(NETWORK.schedule, 4))
    return denoiser._step(0)


def test_outside_of_its_interval_the_student_is_not_guided() -> None:
    inside, _ = call(steered("distilled(3).during(t=(0.4, 0.5))", SPECS), X_T)
    outside, _ = call(steered("distilled(3).during(t=(0.5, 0.6))", SPECS), X_T)
    close(inside.x0, of_network(3.0), 1e-10)
    close(outside.x0, of_network(None), 1e-10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distilled(9)", "the student learned scales from -1 to 8, got 9"),
        ("distilled([1, 2, 3, -2, 1])", "from -1 to 8, got -2"),
        ("distilled(ramp(1, 20))", "from -1 to 8, got"),
        ("distilled(region(3, 1, [0, 0, 0.5, 1]))", "takes one scale per sample, not one per pixel"),
    ],
)
def test_scales_that_were_not_taught_are_refused_before_the_first_call(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        steered(text, SPECS, times=trailing(NETWORK.schedule, 5))


def test_models_without_a_range_are_refused() -> None:
    with pytest.raises(
        UsageError,
        match="this model does not take a scale as an input; train a student that does with fairlead distill",
    ):
        steered("distilled(2)", SPECS, model=replace(ONLY_LABELS, scale_range=None))
