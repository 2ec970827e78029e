"""Recurrence of DDIM: taking a step, noising back and taking it again keeps the marginals."""

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow, VPCosine, vp_linear
from fairlead.sample.ddim import DDIM
from fairlead.sample.grids import trailing
from fairlead.sample.sampler import parse_sampler
from tests.sample.gaussian import MEAN, STD, GaussianDenoiser, run

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow()}


def moments(sampler: DDIM, label: str, steps: int) -> tuple[float, float]:
    """Exact mean and variance of the result: on Gaussian data the sampler is affine in the start and in every noise,
    so row k answers a unit impulse in noise k and row 0 none."""
    schedule = SCHEDULES[label]
    draws = 1 + steps * (2 * sampler.recur - 1)

    def impulse(number: int) -> Tensor:
        noise = torch.zeros(1 + draws, 1, dtype=torch.float64)
        noise[2 + number] = 1
        return noise

    sigma = schedule.alpha_sigma(torch.ones((), dtype=torch.float64))[1]
    start = impulse(-1) * sigma
    x0 = run(sampler, GaussianDenoiser(schedule), start, trailing(schedule, steps), schedule, impulse)[-1].x_t
    return float(x0[0]), float((x0[1:] - x0[0]).square().sum())


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_recurrence_keeps_the_mean_better_and_the_variance_to_twice_the_error_of_one_pass(
    label: str, eta: float
) -> None:
    once, thrice = (moments(DDIM(eta=eta, recur=recur), label, 40) for recur in (1, 3))
    assert abs(thrice[0] - MEAN) <= abs(once[0] - MEAN) + 1e-12 < 3e-3
    assert 0 < STD**2 - once[1] < STD**2 - thrice[1] < 2 * (STD**2 - once[1])


@pytest.mark.parametrize("label", SCHEDULES)
def test_its_variance_converges_at_first_order_to_the_exact_one(label: str) -> None:
    errors = [abs(moments(DDIM(recur=3), label, steps)[1] - STD**2) for steps in (80, 160)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)


def test_one_step_by_hand() -> None:
    """Noised back with alpha / alpha' and the variance that is missing, then the step again."""
    schedule, times = RectifiedFlow(), torch.tensor([0.8, 0.3], dtype=torch.float64)
    x_t, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.7]], dtype=torch.float64)

    def step(x: Tensor) -> Tensor:
        prediction = GaussianDenoiser(schedule)(x, times[0], type("One", (), {"n": 1})())
        return 0.7 * prediction.x0 + 0.3 * prediction.eps

    back = (0.2 / 0.7) * step(x_t) + (0.8**2 - (0.2 / 0.7 * 0.3) ** 2) ** 0.5 * z
    numbers = []

    def noise(number: int) -> Tensor:
        numbers.append(number)
        return z

    (frame,) = run(DDIM(recur=2), GaussianDenoiser(schedule), x_t, times, schedule, noise)
    torch.testing.assert_close(frame.x_t, step(back), rtol=1e-12, atol=1e-12)
    assert numbers == [0]


def test_every_draw_has_its_own_number_and_one_pass_has_the_steps() -> None:
    schedule = RectifiedFlow()
    for sampler, per_step in ((DDIM(eta=1), 1), (DDIM(eta=1, recur=3), 5), (DDIM(recur=3), 2)):
        numbers: list[int] = []

        def noise(number: int, numbers: list[int] = numbers) -> Tensor:
            numbers.append(number)
            return torch.zeros(1, 1, dtype=torch.float64)

        start = torch.zeros(1, 1, dtype=torch.float64)
        run(sampler, GaussianDenoiser(schedule), start, trailing(schedule, 4), schedule, noise)
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 4 * per_step
        if per_step == 1:
            assert numbers == [0, 1, 2, 3]


def test_the_expression_reads_an_integer() -> None:
    assert parse_sampler("ddim(recur=3)") == DDIM(recur=3)
    assert str(DDIM(recur=3)) == "ddim(recur=3)"
    for wrong in ("0", "2.5", "-1"):
        with pytest.raises(UsageError, match=f"ddim recur {wrong}"):
            parse_sampler(f"ddim(recur={wrong})")
