"""Feedback guidance: its rule, its posterior, and who is let go (2506.06085)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.fbg import FBG, evidence
from fairlead.guide.observation import Observation
from fairlead.sample.grids import trailing
from fairlead.sample.sampler import parse_sampler
from tests.guide.toy import LABELS, MIXTURE, MODEL, NETWORK, N, call, close, images, points, steered

FLOW = RectifiedFlow()
SPECS = [2, 0, 3, 2, 1]


@pytest.mark.parametrize("pi", [0.3, 0.9, 0.999])
def test_with_the_ratio_of_a_corrupted_model_it_is_the_model_without_corruption(pi: float) -> None:
    """Learnt is pi p(x | c) + (1 - pi) p(x): its denoiser and its r are closed forms, and the rule gives D of p(x | c)
    back, to the last digits."""
    t = torch.tensor(0.4, dtype=torch.float64)
    x_t, (alpha, sigma) = points(FLOW, t), FLOW.alpha_sigma(t)
    true, null = (MIXTURE.denoise(x_t, alpha, sigma, label) for label in (LABELS, None))
    ratio = (MIXTURE.log_density(x_t, alpha, sigma, LABELS) - MIXTURE.log_density(x_t, alpha, sigma)).exp()
    mixed = pi * ratio + 1 - pi  # of the corrupted density, beside the unconditional one
    share = (pi * ratio / mixed)[:, None]
    corrupted = share * true + (1 - share) * null
    scale = FBG(pi, most=1e6, sure=1e3).scale_of(mixed.log())
    assert float(scale.min()) > 1
    close(null + scale[:, None] * (corrupted - null), true, 1e-8)


def test_the_scale_by_hand() -> None:
    fbg = FBG(0.9, most=5, sure=2)
    ratios = torch.tensor([1.0, 0.2, 0.125, 0.1, 0.0, math.e**2 - 1e-9, math.e**2], dtype=torch.float64)
    expected = [1 / 0.9, 2, 5, 5, 5, math.e**2 / (math.e**2 - 0.1), 1]
    assert fbg.scale_of(ratios.log()).tolist() == pytest.approx(expected)


def ancestral(schedule: NoiseSchedule, times: Tensor, seed: int, noisy: bool) -> tuple[Tensor, Tensor, list]:
    """Along paths of samples of the mixture's own classes: log r as it is learnt and that of the densities at the end,
    [n], and what it passed through."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(64) % 4
    levels = [(float(a), float(s)) for a, s in zip(*schedule.alpha_sigma(times), strict=True)]
    (alpha, sigma), path = levels[0], []
    x = alpha * MIXTURE.sample(64, labels, seed) + sigma * torch.randn(64, 2, generator=generator).double()
    total = MIXTURE.log_density(x, alpha, sigma, labels) - MIXTURE.log_density(x, alpha, sigma)
    for level, after in pairwise(levels):
        (alpha, sigma), (alpha2, sigma2) = level, after
        cond, null = (MIXTURE.denoise(x, alpha, sigma, label) for label in (labels, None))
        eps, kept = (x - alpha * cond) / sigma, (alpha * sigma2 / (alpha2 * sigma)) ** 2 if noisy else 1.0
        fresh = sigma2 * math.sqrt(1 - kept) * torch.randn(64, 2, generator=generator).double()
        new = alpha2 * cond + sigma2 * math.sqrt(kept) * eps + (fresh if noisy else 0)
        total = total + evidence(x, level, new, after, cond, null)
        path.append((x, level, after, labels))
        x = new
    exact = MIXTURE.log_density(x, *levels[-1], labels) - MIXTURE.log_density(x, *levels[-1])
    return total, exact, path


@pytest.mark.parametrize("schedule", [FLOW, VPCosine(), VE()], ids=["flow", "cosine", "ve"])
def test_the_posterior_of_the_mixture_is_the_closed_form(schedule: NoiseSchedule) -> None:
    """Along ancestral sampling log r converges to that of the densities, at the order 1/2 of a path with noise."""
    noise = torch.linspace(3, -2, 801, dtype=torch.float64).exp()
    errors = []
    for every in (16, 1):
        total, exact, _ = ancestral(schedule, schedule.t_of_ratio(noise[::every]), 1, noisy=True)
        errors.append(float((total - exact).square().mean().sqrt()))
    assert errors[1] < 0.1
    assert 2.5 < errors[0] / errors[1] < 6
    assert float(exact.std()) > 5 * errors[1]


def test_a_deterministic_path_lacks_half_of_the_integral_of_the_traces() -> None:
    """tr Cov(x0 | x_t) = sigma^2 / alpha div D, of both models, over s = SNR; so log r comes out too small."""
    noise = torch.linspace(3, -2, 401, dtype=torch.float64).exp()
    total, exact, path = ancestral(FLOW, FLOW.t_of_ratio(noise), 1, noisy=False)

    def trace(x: Tensor, alpha: float, sigma: float, labels: Tensor | None) -> Tensor:
        leaf = x.clone().requires_grad_()
        x0 = MIXTURE.denoise(leaf, alpha, sigma, labels)
        along = [torch.autograd.grad(x0[:, i].sum(), leaf, retain_graph=True)[0][:, i] for i in range(2)]
        return sigma**2 / alpha * (along[0] + along[1])

    missing = torch.zeros(64, dtype=torch.float64)
    for x, (alpha, sigma), (alpha2, sigma2), labels in path:
        gained = (alpha2 / sigma2) ** 2 - (alpha / sigma) ** 2
        missing += gained / 2 * (trace(x, alpha, sigma, None) - trace(x, alpha, sigma, labels))
    assert float(missing.min()) > 0.1
    close(exact - total, missing, 0.04)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "ddim(eta=1)", "dpmpp_2m"])
@pytest.mark.parametrize("steps", [3, 10])
def test_between_two_points_it_is_exact_at_any_number_of_steps(sampler: str, steps: int) -> None:
    """D_c = m and D_u = -m whatever x: r is the ratio of two Gaussians, exp(2 <m, x> alpha / sigma^2), and 1 in the
    pure noise that a flow starts from. The guided prediction is that of the scale at this r, at every evaluation but
    the second one of the first step, which has nothing to compare with yet."""
    point = torch.tensor([0.02, -0.01], dtype=torch.float64)

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = torch.where(condition.keep["label"][:, None], point, -point) * torch.ones_like(x_t)
        return Prediction.from_x0(x0, x_t, *FLOW.alpha_sigma(t))

    fbg, condition, times = FBG(0.7, most=50, sure=20), MODEL.encode([0, 0, 0]), trailing(FLOW, steps)
    checked = 0

    def observe(seen: Observation) -> None:
        nonlocal checked
        alpha, sigma = FLOW.alpha_sigma(seen.seen.t)
        log_ratio = 2 * (seen.seen.x_t @ point) * alpha / sigma**2 * (seen.seen.step.index != 0)
        close(seen.guided, -point + fbg.scale_of(log_ratio)[:, None] * 2 * point, 1e-9)
        checked += 1

    denoiser = GuidedDenoiser(denoise, fbg, FLOW, condition, times=times, observe=observe)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    draws = [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(steps)]
    list(parse_sampler(sampler).frames(denoiser, start, times, FLOW, condition, draws.__getitem__))
    assert checked == (2 * steps - 1 if sampler == "heun" else steps)


def test_temperature_and_offset_of_all_steps_together() -> None:
    """With temperature 0 nothing is learnt: log r is a line from 0 to the offset, whatever the steps."""
    for steps in (4, 8):
        times = trailing(NETWORK.schedule, steps)
        found: list[Observation] = []
        denoiser = steered("fbg(0.999, temperature=0, offset=-8, most=100)", SPECS, times=times, observe=found.append)
        x = images(t=torch.ones((), dtype=torch.float64))
        for step in range(steps):
            denoiser.at(step)(x, times[step], denoiser.condition)
        assert len(found) == steps
        for step, seen in enumerate(found):
            scale = 1 / (1 - 0.001 * math.exp(8 * step / steps)) if step < 0.8 * steps else 100
            cond, null = (seen.seen.x0(branch) for branch in seen.asks[0].looks)
            close(seen.guided, null + scale * (cond - null), 1e-8)


def test_rows_leave_for_good_once_a_sample_is_sure() -> None:
    """A sample costs two rows up to and including the step in which its log r reaches ``sure``, and one afterwards."""
    times, masks = trailing(NETWORK.schedule, 10), []

    def observe(seen: Observation) -> None:
        still = seen.asks[0].looks.values() if seen.asks[0].looks else [torch.zeros(N, dtype=torch.bool)]
        masks.append(next(torch.ones(N, dtype=torch.bool) if rows is None else rows for rows in still))

    denoiser = steered("fbg(0.8, sure=0.5)", SPECS, times=times, observe=observe)
    x = images(t=torch.ones((), dtype=torch.float64))
    with counting() as cost:
        list(parse_sampler("ddim").frames(denoiser, x, times, NETWORK.schedule, denoiser.condition, lambda step: x))
    assert cost.rows == 10 * N + sum(int(mask.sum()) for mask in masks)
    assert all(bool((before | ~after).all()) for before, after in pairwise(masks))
    assert N * 10 < cost.rows < 2 * N * 10
    gone = ~masks[-1]
    assert bool(gone.any())
    plain = steered("none", SPECS, times=times)
    ended, alone = (one.at(9)(x, times[9], one.condition).x0 for one in (denoiser, plain))
    close(ended[gone], alone[gone], 1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fbg(0)", r"fbg: expected pi in \(0, 1\], such as 0.9, got 0"),
        ("fbg(1.5)", "fbg: expected pi in"),
        ("fbg(0.9, temperature=-1)", "fbg: expected temperature of at least 0"),
        ("fbg(0.9, offset=inf)", "fbg: expected offset to be a number"),
        ("fbg(0.9, most=1)", "fbg: expected most > 1, such as 10, got 1"),
        ('fbg(0.9, sure="a")', "fbg: expected sure to be a number such as 3"),
        (
            "fbg(0.9, sure=-5)",
            "fbg: at pi=0.9 the scale is 10 at log r -2.2, which is not below sure=-5: nothing would",
        ),
        ("apg(fbg(0.9))", r"apg\(...\) wraps one method of two branches"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_without_a_grid_it_is_refused() -> None:
    with pytest.raises(UsageError, match="counts the sampler's steps"):
        call(steered("fbg(0.9)", SPECS), images())
