"""Static and dynamic thresholding, by hand and against diffusers; eps follows the finished x0."""

from dataclasses import replace

import diffusers
import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.guide.methods.threshold import Clip, Threshold
from tests.guide.toy import MODEL, SCHEDULE, N, T, call, close, guided, looking, points

UNIT = looking((-1.0, 1.0))
PIXELS = replace(MODEL, data_range=(-1.0, 1.0))
X0 = torch.tensor(
    [[0.0, 0.5, -1.0, 2.0, -4.0], [0.1, -0.2, 0.3, 0.4, -0.5], [3.0, 3.0, -3.0, 3.0, 3.0]], dtype=torch.float64
)


def test_clip() -> None:
    assert Clip().finish(X0, UNIT).tolist() == X0.clamp(-1, 1).tolist()
    assert Clip().finish(X0, looking((0.0, 3.0))).tolist() == X0.clamp(0, 3).tolist()


def test_dynamic_threshold_by_hand() -> None:
    """Sorted absolute values of sample 0: 0, 0.5, 1, 2, 4. The 3/4 quantile is 2, halfway to 4 at 7/8. Sample 1 lies
    inside and is left alone; sample 2 is saturated everywhere."""
    close(Threshold(0.75).finish(X0, UNIT)[0], torch.tensor([0.0, 0.25, -0.5, 1.0, -1.0]).double())
    close(
        Threshold(0.875).finish(X0, UNIT)[0],
        torch.tensor([0, 0.5 / 3, -1 / 3, 2 / 3, -1]).double(),
        1e-7,
    )
    close(Threshold(1).finish(X0, UNIT)[0], X0[0] / 4)
    assert torch.equal(Threshold(0.75).finish(X0, UNIT)[1], X0[1])
    assert torch.equal(Threshold(0.75).finish(X0, UNIT)[2], X0[2].sign())


def test_dynamic_threshold_of_another_range_is_that_of_its_units() -> None:
    """[0, 10] is [-1, 1] times 5 plus 5."""
    expected = Threshold(0.9).finish(X0, UNIT) * 5 + 5
    close(Threshold(0.9).finish(X0 * 5 + 5, looking((0.0, 10.0))), expected)


@pytest.mark.parametrize("scheduler_type", [diffusers.DDPMScheduler, diffusers.DPMSolverMultistepScheduler])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995])
def test_dynamic_threshold_is_that_of_diffusers(scheduler_type, quantile: float) -> None:
    oracle = scheduler_type(thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=1e9)
    x0 = torch.randn(6, 3, 8, 8) * torch.tensor([0.1, 0.5, 1, 2, 5, 20]).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(Threshold(quantile).finish(x0, UNIT), oracle._threshold_sample(x0))


def test_each_sample_has_its_own_threshold() -> None:
    together = Threshold(0.8).finish(X0, UNIT)
    for i in range(len(X0)):
        assert torch.equal(together[i : i + 1], Threshold(0.8).finish(X0[i : i + 1], UNIT))


@pytest.mark.parametrize("finisher", [Clip(), Threshold(0.6)])
def test_eps_is_derived_again_from_the_finished_x0(finisher) -> None:
    x_t = points()
    plain = call(guided("cfg(6)", model=PIXELS), x_t)[0]
    finished, cost = call(guided(guided("cfg(6)").guidance | finisher, model=PIXELS), x_t)
    expected = finisher.finish(plain.x0, UNIT)
    assert not torch.equal(expected, plain.x0)
    close(finished.x0, expected, 1e-12)
    alpha, sigma = SCHEDULE.alpha_sigma(T)
    close(finished.eps, (x_t - alpha * expected) / sigma, 1e-12)
    assert cost.rows == 2 * N


def test_finishers_follow_each_other() -> None:
    x_t = points()
    both = call(guided("cfg(6) | threshold(0.6) | clip()", model=PIXELS), x_t)[0]
    first = call(guided("cfg(6) | threshold(0.6)", model=PIXELS), x_t)[0]
    close(both.x0, first.x0.clamp(-1, 1), 1e-12)


def test_a_finisher_needs_no_guidance() -> None:
    x_t = points()
    finished, cost = call(guided("none | clip()", model=PIXELS), x_t)
    close(finished.x0, MODEL.denoiser(x_t, T, MODEL.encode([2, 0, 3, 2, 1])).x0.clamp(-1, 1), 1e-12)
    assert cost.rows == N


@pytest.mark.parametrize("finisher", [Clip(), Threshold(0.9)])
def test_refused_where_data_have_no_range(finisher) -> None:
    for use in (lambda: guided(guided("cfg(3)").guidance | finisher), lambda: finisher.finish(X0, looking())):
        with pytest.raises(UsageError, match="data has no fixed range"):
            use()


@pytest.mark.parametrize("quantile", [0, -0.1, 1.5, float("nan"), "0.9", True, None])
def test_bad_quantiles_are_refused(quantile) -> None:
    with pytest.raises(UsageError, match=r"threshold: expected a quantile in \(0, 1\]"):
        Threshold(quantile)
