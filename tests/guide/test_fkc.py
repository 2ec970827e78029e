"""Feynman-Kac correctors: in closed form on Gaussians, by particles on the mixture, where cfg alone is off."""

import math
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.methods.fkc import FKC
from fairlead.models.model import Model
from fairlead.sample.grids import make_grid
from fairlead.sample.particles import Particles
from fairlead.sample.sampler import GridLevels, parse_sampler
from tests.guide.toy import MIXTURE, MODEL, SPECS, call, close, guided, points
from tests.sample.test_particles import quick, whole  # noqa: F401

MEAN, STD, WIDE = 0.7, 0.6, 1.1


def _same(noise: Tensor, _: int) -> Tensor:
    return noise


def two_gaussians(schedule: str) -> Model:
    """In one dimension p(x | a) = N(MEAN, STD^2) and p(x) = N(0, WIDE^2)."""

    def predict(x: Tensor, sigma: Tensor, condition) -> Tensor:
        keep, s = condition.keep["label"][:, None], sigma[:, None].double()
        alpha = {"vp_linear": (1 - s**2).clamp(min=0).sqrt(), "flow": 1 - s, "ve": torch.ones_like(s)}[schedule]
        mean, variance = torch.where(keep, MEAN, 0.0), torch.where(keep, STD**2, WIDE**2)
        return mean + alpha * variance / (alpha**2 * variance + s**2) * (x - alpha * mean)

    return fl.denoiser(predict, schedule, shape=(1,), classes=("a",))


def end_of_the_flow(model: Model, w: float, steps: int, sampler: str, corrected: bool) -> tuple[float, float]:
    """Mean and variance at t = 0 of infinitely many particles: a Gaussian that every step multiplies by
    exp(log-weight), which is a quadratic, and moves by an affine map plus noise."""
    times, condition, term, weights = make_grid("log_snr", model.schedule, steps), model.encode(["a"] * 3), None, []
    term = fl.fkc(fl.cfg(w))
    denoiser = GuidedDenoiser.of(
        model, term, condition, times=times, observe=lambda seen: weights.append(term.log_weight(seen.seen))
    )
    x, way = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64), parse_sampler(sampler)
    memory = way.begin(GridLevels.of(model.schedule, times, x))
    mean, variance = 0.0, float(model.schedule.alpha_sigma(times[0])[1]) ** 2
    noises = torch.zeros_like(x), torch.ones_like(x)
    for i in range(steps):

        def denoise(x_t: Tensor, place: int, i: int = i):
            return denoiser.at(i)(x_t, times[place], condition)

        still, noisy = (way.step(i, x, denoise, partial(_same, value), memory)[0] for value in noises)
        if corrected:
            low, at, high = weights[-1].tolist()
            bend, slope = (low + high - 2 * at) / 2, (high - low) / 2
            precision = 1 / variance - 2 * bend
            mean, variance = (mean / variance + slope) / precision, 1 / precision
        slope, drawn = float(still[2] - still[0]) / 2, float(noisy[1] - still[1])
        mean, variance = slope * mean + float(still[1]), slope**2 * variance + drawn**2
    return mean, variance


def product(w: float) -> tuple[float, float]:
    """Mean and variance of N(MEAN, STD^2)^w N(0, WIDE^2)^(1 - w)."""
    precision = w / STD**2 + (1 - w) / WIDE**2
    return w * MEAN / STD**2 / precision, 1 / precision


@pytest.mark.parametrize(
    ("schedule", "sampler", "w"),
    [("vp_linear", "ddpm", 2), ("flow", "ddpm", 3), ("ve", "ddpm", 2), ("vp_linear", "ddim(eta=0.5)", 3)],
)
def test_the_corrected_flow_of_gaussians_ends_at_their_product_and_that_of_cfg_elsewhere(
    schedule: str, sampler: str, w: float
) -> None:
    """First order in the steps: twice the steps, half the error, down to the product at no error."""
    model, wanted = two_gaussians(schedule), product(w)
    found = {steps: end_of_the_flow(model, w, steps, sampler, True) for steps in (50, 100, 200)}
    for k in range(2):
        errors = [found[steps][k] - wanted[k] for steps in (50, 100, 200)]
        assert 1.6 < errors[1] / errors[2] < 2.6
        limit = 2 * found[200][k] - found[100][k]
        assert abs(limit - wanted[k]) < 0.4 * abs(errors[2])
    plain = {steps: end_of_the_flow(model, w, steps, sampler, False) for steps in (100, 200)}
    for k in range(2):
        limit = 2 * plain[200][k] - plain[100][k]
        assert abs(limit - wanted[k]) > 0.08 * wanted[k]


@pytest.mark.parametrize("guidance", ["cfg([3, 1, 2, 0, -1])", "compose({2: 1.5, 0: 1})"])
def test_the_predictions_are_those_of_what_is_inside(guidance: str) -> None:
    specs = None if guidance.startswith("cfg") else [None] * len(SPECS)
    x_t = points()
    (inside, cost), (around, same) = (call(guided(text, specs), x_t) for text in (guidance, f"fkc({guidance})"))
    assert torch.equal(inside.x0, around.x0)
    assert cost == same


def weights_of(text: str, specs: list, times: Tensor, step: int, x_t: Tensor) -> Tensor:
    term: Any = fl.parse(text)
    found: list[Any] = []
    condition = MODEL.encode(specs)
    denoiser = GuidedDenoiser.of(MODEL, term, condition, times=times, observe=lambda o: found.append(o.seen))
    denoiser.at(step)(x_t, times[step], condition)
    weight: Tensor = term.log_weight(found[0])
    return weight


def test_log_weights_by_hand() -> None:
    """1/2 w (w - 1) h ||D_c - D_u||^2 for cfg, - 1/2 h sum_i c_i ||D_i - D||^2 for a product; 0 where nothing is
    guided."""
    times = make_grid("trailing", MODEL.schedule, 6)
    x_t, w = points(t=times[3]), torch.tensor([3.0, 1.0, 2.0, 0.0, -1.0]).double()
    alpha, sigma = MODEL.schedule.alpha_sigma(times)
    before, now, after = 1 / (1 + (alpha[2:5] / sigma[2:5]) ** 2)  # half of the steps on both sides
    h = (before - after) / 2 / now**2
    cond, null = (MIXTURE.denoise(x_t, alpha[3], sigma[3], label) for label in (torch.tensor(SPECS), None))
    by_hand = 0.5 * w * (w - 1) * h * (cond - null).square().sum(1)
    close(weights_of("fkc(cfg([3, 1, 2, 0, -1]))", SPECS, times, 3, x_t), by_hand)
    two, zero = (MIXTURE.denoise(x_t, alpha[3], sigma[3], torch.full((len(x_t),), label)) for label in (2, 0))
    total = null + 1.5 * (two - null) + (zero - null)
    parts = [(1.5, two), (1.0, zero), (-1.5, null)]
    spread = sum(c * (d - total).square().sum(1) for c, d in parts)
    close(weights_of("fkc(compose({2: 1.5, 0: 1}))", [None] * 5, times, 3, x_t), -0.5 * h * spread)
    last = weights_of("fkc(cfg(2))", SPECS, times, 5, points(t=times[5]))
    assert bool(last.isfinite().all())


LINE = fl.GaussianMixture(torch.tensor([[-1.5], [0.0], [1.5]]), torch.full((3,), 0.6), torch.ones(3), torch.arange(3))
"""Three classes on a line, where the law of particles is a sum over a grid."""
AXIS = torch.linspace(-5, 5, 201, dtype=torch.float64)[:, None]


def target(powers: dict[int | None, float]) -> tuple[float, float]:
    """Mean and deviation of prod_c p(x | c)^power, None for p(x), by quadrature."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    total = torch.zeros(len(x), dtype=torch.float64)
    for label, power in powers.items():
        total += power * LINE.log_density(x, 1.0, 0.0, None if label is None else torch.full((len(x),), label))
    return of_law(x[:, 0], total.softmax(0))


def of_law(x: Tensor, p: Tensor) -> tuple[float, float]:
    mean = float(p @ x)
    return mean, math.sqrt(float(p @ (x - mean).square()))


def end_of_the_line(guidance: str, cond: str | None, steps: int, corrected: bool = True) -> tuple[float, float]:
    """Mean and deviation at t = 0 of infinitely many particles of ``ddpm`` on :data:`LINE`: a density on a grid that
    every step multiplies by exp(log-weight) and moves by the sampler's Gaussians."""
    model, term = fl.toy(LINE, "vp_linear"), cast("FKC", fl.parse(f"fkc({guidance})"))
    times, condition = make_grid("trailing", model.schedule, steps), model.encode([cond] * len(AXIS))
    weights: list[Tensor] = []
    denoiser = GuidedDenoiser.of(
        model, term, condition, times=times, observe=lambda seen: weights.append(term.log_weight(seen.seen))
    )
    way = parse_sampler("ddpm")
    memory = way.begin(GridLevels.of(model.schedule, times, AXIS))
    p = (-0.5 * (AXIS[:, 0] / float(model.schedule.alpha_sigma(times[0])[1])) ** 2).softmax(0)
    for i in range(steps):

        def denoise(x_t: Tensor, place: int, i: int = i):
            return denoiser.at(i)(x_t, times[place], condition)

        still = way.step(i, AXIS, denoise, partial(_same, torch.zeros_like(AXIS)), memory)[0][:, 0]
        if corrected:
            p = (p.log() + weights[-1]).softmax(0)
        spread = float(memory.of_draw[i])
        if i == steps - 1:
            assert spread == 0
            return of_law(still, p)
        p = p @ (-0.5 * ((AXIS[:, 0] - still[:, None]) / spread) ** 2).softmax(1)
    raise AssertionError


@pytest.mark.parametrize(
    ("guidance", "cond", "powers"),
    [
        ("cfg(3)", "2", {2: 3.0, None: -2.0}),
        ('compose({"1": 1, "2": 2})', None, {1: 1.0, 2: 2.0, None: -2.0}),
    ],
)
def test_infinitely_many_particles_end_at_the_product_to_first_order_in_the_steps(
    guidance: str, cond: str | None, powers: dict
) -> None:
    """Classes that overlap, so that neither the predictions nor their difference are linear. Twice the steps, half the
    error, and next to none of it in the limit, where the mean without correctors is off by more than ten times that."""
    wanted = target(powers)
    limits: dict[bool, list[float]] = {}
    for corrected in (True, False):
        ends = [end_of_the_line(guidance, cond, steps, corrected) for steps in (20, 40, 80)]
        off = [[value - want for value in moment] for moment, want in zip(zip(*ends, strict=True), wanted, strict=True)]
        limits[corrected] = [(8 * c - 6 * b + a) / 3 for a, b, c in off]  # without the first two orders
        if corrected:
            for (_, b, c), limit in zip(off, limits[True], strict=True):
                assert 1.6 < b / c < 2.3
                assert abs(limit) < 0.25 * abs(c)
    assert abs(limits[False][0]) > 10 * abs(limits[True][0])


@pytest.mark.parametrize(("guidance", "cond"), [("cfg(3)", "2"), ('compose({"1": 1, "2": 2})', None)])
@pytest.mark.usefixtures("quick")
def test_a_thousand_particles_have_the_moments_of_infinitely_many(
    whole: list[Tensor],  # noqa: F811
    guidance: str,
    cond: str | None,
) -> None:
    """At any number of steps, so at few; those of cfg alone are off by far more than the errors."""
    model, steps = fl.toy(LINE, "vp_linear"), 12
    fl.sample(model, cond, n=32, guidance=f"fkc({guidance})", particles=Particles(1024, every=1), sampler="ddpm",
              steps=steps, batch_size=10**6)  # fmt: skip
    found = torch.cat(whole)
    error = found.std(0) / math.sqrt(len(found))

    def off(corrected: bool) -> Tensor:
        mean, deviation = end_of_the_line(guidance, cond, steps, corrected)
        return (found.mean(0) - torch.tensor([mean, mean**2 + deviation**2])).abs() / error

    assert bool((off(True) < 4).all())
    assert bool((off(False) > 8).all())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fkc(pag(2))", "wraps cfg, compose or auto"),
        ("fkc(adaptive(cfg(3)))", "wraps cfg, compose or auto"),
        ("fkc(cfg(ramp(1, 3)))", "expected numbers for scales"),
        ('fkc(compose({"1": ramp(1, 3)}))', "expected numbers for scales"),
        ("fkc(cfg(3).during(t=(0, 0.5)))", "wraps cfg, compose or auto"),
        ("apg(fkc(cfg(3)))", "weighs particles for exactly what is inside of it"),
    ],
)
def test_what_has_no_known_product_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fl.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
