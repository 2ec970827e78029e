"""Draws, condition dropout and the loss, against closed forms."""

import math

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.prediction import Prediction, target
from fairlead.core.schedule import RectifiedFlow, VPCosine, vp_linear
from fairlead.train.objective import Draw, diffusion_loss, drop_condition, loss_weight

OBJECTIVES = ("eps", "x0", "v", "flow")


def draw(n=12, shape=(2, 3), drop=0.4, seed=5, step=7, names=("label", "text")) -> Draw:
    return Draw.of(n, shape, dict.fromkeys(names, drop), seed, step)


def same(first: Draw, second: Draw) -> bool:
    return (
        torch.equal(first.t, second.t)
        and torch.equal(first.eps, second.eps)
        and all(torch.equal(first.dropped[name], second.dropped[name]) for name in first.dropped)
    )


def test_a_draw_is_a_pure_function_of_seed_and_step():
    first = draw()
    torch.manual_seed(99)
    torch.rand(3)
    state = torch.get_rng_state()
    assert same(first, draw())
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_and_steps_have_draws_of_their_own():
    noises = [draw(seed=seed, step=step).eps for seed in range(6) for step in range(40)]
    assert len({tuple(eps.flatten().tolist()) for eps in noises}) == 240


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_shares_of_all_processes_are_the_global_draw(world):
    whole = draw()
    shares = [whole.part(rank, world) for rank in range(world)]
    joined = Draw(
        torch.cat([share.t for share in shares]),
        torch.cat([share.eps for share in shares]),
        {name: torch.cat([share.dropped[name] for share in shares]) for name in whole.dropped},
    )
    assert same(whole, joined)


@pytest.mark.parametrize("n", [1, 7, 128])
def test_exactly_one_time_in_each_of_n_equal_parts(n):
    for step in range(20):
        t = draw(n=n, step=step).t
        assert t.dtype == torch.float64
        assert bool((t > 0).all() and (t <= 1).all())
        assert sorted(((1 - t) * n).floor().long().tolist()) == list(range(n))


def test_noise_is_standard_normal_and_times_are_uniform_within_their_part():
    many = draw(n=4096, shape=(16,))
    count = many.eps.numel()
    assert abs(float(many.eps.mean())) < 5 * count**-0.5
    assert abs(float(many.eps.square().mean()) - 1) < 5 * (2 / count) ** 0.5
    within = ((1 - many.t) * 4096).frac()
    assert abs(float(within.mean()) - 0.5) < 5 * (1 / 12 / 4096) ** 0.5


def test_conditions_are_dropped_at_their_rate_independently_by_name_and_sample():
    n, p = 200_000, 0.3
    many = draw(n=n, shape=(1,), drop=p)
    label, text = many.dropped["label"], many.dropped["text"]
    rates = {
        p: label, p + 1e-15: text, p * p: label & text, p**2 + 1e-15: label[1:] & label[:-1],
    }  # fmt: skip
    for rate, hits in rates.items():
        assert abs(float(hits.double().mean()) - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    # neither the noise nor the time of a sample says whether it is dropped
    assert abs(float(many.t[label].mean()) - 0.5) < 5 * (1 / 12 / (n * p)) ** 0.5
    assert abs(float(many.eps[label].mean())) < 5 * (n * p) ** -0.5


@pytest.mark.parametrize(("drop", "dropped"), [(0.0, False), (1.0, True)])
def test_drop_of_nothing_and_of_everything(drop, dropped):
    assert all(bool((mask == dropped).all()) for mask in draw(n=1000, drop=drop).dropped.values())


def test_dropping_is_the_conditions_own_drop():
    masks = draw().dropped
    condition = Condition.of(label=torch.arange(12), text=torch.randn(12, 3))
    result = drop_condition(condition, masks)
    for name, mask in masks.items():
        assert torch.equal(result.keep[name], ~mask)
        assert torch.equal(result.values[name], condition.values[name])
        assert torch.equal(result.keep[name], condition.drop(mask, [name]).keep[name])
    already = condition.drop(torch.ones(12, dtype=torch.bool), ["text"])
    assert not bool(drop_condition(already, masks).keep["text"].any())


@pytest.mark.parametrize("schedule", [VPCosine(), RectifiedFlow(), vp_linear()], ids=["cosine", "flow", "linear"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("weighting", "more"), [("min_snr", 0), ("capped_v", 1)])
def test_weights_are_the_same_loss_of_x0_whatever_the_network_returns(schedule, objective, weighting, more):
    """weight (output error)^2 = min(SNR, 5) (x0 error)^2, or min(1 + SNR, 5), elementwise in float64."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    x0, eps, guess = torch.randn(3, 99, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    predicted = Prediction.from_x0(guess, alpha * x0 + sigma * eps, alpha, sigma).output(objective, alpha, sigma)
    error = predicted - target(x0, eps, objective, alpha, sigma)
    weighted = loss_weight(weighting, objective, schedule.log_snr(t)) * error.square()
    expected = ((alpha / sigma).square() + more).clamp(max=5) * (guess - x0).square()
    torch.testing.assert_close(weighted, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("objective", ["x0", "v", "flow"])
def test_min_snr_is_finite_and_right_at_the_ends(objective):
    """At pure noise SNR is 0 and so is the weight; at clean data x0's weight is 5 and the others' vanish."""
    weight = loss_weight("min_snr", objective, torch.tensor([-math.inf, math.inf], dtype=torch.float64))
    assert weight.tolist() == pytest.approx([0.0, 5.0 if objective == "x0" else 0.0], abs=1e-4)
    end = Draw(torch.ones(3, dtype=torch.float64), torch.randn(3, 4), {})
    loss = diffusion_loss(torch.randn(3, 4), torch.randn(3, 4), end, RectifiedFlow(), objective, "min_snr")
    assert float(loss) == 0.0


def test_capped_v_is_the_error_of_v_itself_where_there_is_more_noise_than_twice_the_signal():
    """Weight 1 on v for SNR <= 4, also at zero terminal SNR; 5 on x0 at clean data."""
    weight = loss_weight("capped_v", "v", torch.tensor([-math.inf, -4.0, 0.0, math.log(4)], dtype=torch.float64))
    assert weight.tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    assert float(loss_weight("capped_v", "x0", torch.tensor(math.inf))) == 5.0


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "capped_v"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_perfect_network_has_loss_zero(objective, weighting):
    schedule, some, x0 = VPCosine(), draw(), torch.randn(12, 2, 3)
    alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(some.t))
    perfect = target(x0, some.eps, objective, alpha, sigma)
    assert float(diffusion_loss(perfect, x0, some, schedule, objective, weighting)) == 0.0
    worse = diffusion_loss(perfect + 0.5, x0, some, schedule, objective, "uniform")
    assert float(worse) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(("objective", "expected"), [("eps", 1.0), ("x0", 0.25), ("v", None), ("flow", 1.25)])
def test_the_loss_of_the_zero_network_is_the_power_of_its_target(objective, expected):
    """x0 = +-1/2: E eps^2 = 1, E x0^2 = 1/4, E v^2 = mean(alpha^2 + sigma^2 / 4), E (eps - x0)^2 = 5/4."""
    n, dim = 2048, 64
    schedule, some = VPCosine(), draw(n=n, shape=(dim,))
    x0 = torch.randint(2, (n, dim)) - 0.5
    if expected is None:
        alpha, sigma = schedule.alpha_sigma(some.t)
        expected = float((alpha**2 + sigma**2 / 4).mean())
    loss = diffusion_loss(torch.zeros(n, dim), x0, some, schedule, objective, "uniform")
    # the variance of a squared entry is at most that of (eps + 1/2)^2, which is 3
    assert abs(float(loss) - expected) < 5 * (3 / (n * dim)) ** 0.5 * (objective != "x0") + 1e-6


def test_the_loss_is_the_mean_over_samples_of_weight_times_mean_square():
    schedule, some, x0 = VPCosine(), draw(n=2, shape=(1, 2)), torch.zeros(2, 1, 2)
    output = torch.tensor([[[1.0, 3.0]], [[2.0, 4.0]]])
    capped = [min(math.exp(float(value)), 5.0) for value in schedule.log_snr(some.t)]
    loss = diffusion_loss(output, x0, some, schedule, "x0", "min_snr")
    assert float(loss) == pytest.approx((capped[0] * 5 + capped[1] * 10) / 2, rel=1e-6)
