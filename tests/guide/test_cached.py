"""Cached guidance: what is carried on between refreshes, and when they are."""

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting, tally
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.sample.grids import trailing
from fairlead.sample.sampler import parse_sampler
from tests.guide.toy import MODEL, NETWORK, N, T, close, guided, images, points, steered

SPECS = [2, 0, 3, 2, 1]
GRID = trailing(NETWORK.schedule, 10)
START = images(t=torch.ones((), dtype=torch.float64))


def run(text: str, sampler: str = "ddim", specs: list | None = None) -> tuple[Tensor, int]:
    denoiser = steered(text, SPECS if specs is None else specs, times=GRID)
    with counting() as cost:
        frames = parse_sampler(sampler).frames(
            denoiser, START, GRID, NETWORK.schedule, denoiser.condition, lambda step: START
        )
        *_, last = frames
    return last.x_t, cost.rows


@pytest.mark.parametrize("inside", ["cfg(4)", "cfg([3, 1, 2, 0, -1])", "pag(2)", "apg(cfg(4), momentum=-0.5)"])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize("order", [0, 1])
def test_every_1_is_the_method_itself(inside: str, sampler: str, order: int) -> None:
    """To the bit where both evaluate the same rows. A refresh evaluates both branches of every sample, cfg alone leaves
    out those of scale 0 and 1, and a matrix product may round a row otherwise beside fewer rows."""
    plain, plain_rows = run(inside, sampler)
    cached, rows = run(f"cached({inside}, every=1, order={order})", sampler)
    assert torch.equal(cached, plain) if rows == plain_rows else rows > plain_rows
    close(cached, plain, 1e-11)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("every", [1, 2, 3, 4, 10, 99])
def test_the_row_formula(every: int, order: int) -> None:
    """N + ceil(N / every) a sample; with heun the refreshing steps evaluate both branches twice."""
    text = f"cached(cfg(4), every={every}, order={order})"
    assert run(text)[1] == N * (10 + math.ceil(10 / every))
    assert run(text, "heun")[1] == N * (19 + sum(2 if i < 9 else 1 for i in range(0, 10, every)))


def test_scales_per_sample_that_are_off_are_never_refreshed() -> None:
    assert run("cached(cfg([3, 1, 1, 3, 1]))")[1] == N * 10 + 2 * 5


@pytest.mark.parametrize("order", [0, 1])
def test_order_0_holds_and_order_1_is_the_line_by_hand(order: int) -> None:
    """Delta is 8, 4, -1, ... in the refreshing steps 0, 2, 4; a flow of 10 steps has u = t^2 / ((1 - t)^2 + t^2)."""
    schedule = RectifiedFlow()
    condition, delta = MODEL.encode([1]), 0.0

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = torch.where(condition.keep["label"][:, None], 0.0, -delta) * torch.ones_like(x_t)
        return Prediction(x0, x0)

    denoiser = GuidedDenoiser(denoise, parse(f"cached(cfg(2), order={order})"), schedule, condition, times=GRID)
    x_t, found = torch.zeros(1, 1, dtype=torch.float64), []
    for step, value in enumerate([8.0, 100.0, 4.0, 100.0, -1.0, 100.0]):
        delta = value
        found.append(float(denoiser.at(step)(x_t, GRID[step], condition).x0))
    share = [t**2 / ((1 - t) ** 2 + t**2) for t in GRID.tolist()]
    if order == 0:
        assert found == [8, 8, 4, 4, -1, -1]
    else:
        line = [
            8.0,
            8.0,
            4.0,
            4 + (share[3] - share[2]) / (share[2] - share[0]) * (4 - 8),
            -1.0,
            -1 + (share[5] - share[4]) / (share[4] - share[2]) * (-1 - 4),
        ]
        assert found == pytest.approx(line, abs=1e-12)


@pytest.mark.parametrize("schedule", [vp_linear(), VPCosine(), RectifiedFlow(), VE()], ids=lambda s: s.config()["name"])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_direction_linear_in_the_share_of_the_noise_is_extrapolated_exactly(
    schedule: NoiseSchedule, sampler: str
) -> None:
    """Classes N(m_c, 1) beside N(m, 1): D = m + alpha (x - alpha m) / (alpha^2 + sigma^2), so Delta = (m_c - m) u
    whatever x. From the second refresh on, order 1 is cfg at every step; order 0 is not."""
    means = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(t)
        mean = torch.where(condition.keep["label"][:, None], means[condition.values["label"]], 0.0)
        x0 = mean + alpha * (x_t - alpha * mean) / (alpha**2 + sigma**2)
        tally(len(x_t))
        return Prediction.from_x0(x0, x_t, alpha, sigma)

    condition, times = MODEL.encode([0, 1, 1]), trailing(schedule, 12)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    far = []
    for order in (1, 0):
        cached = GuidedDenoiser(
            denoise, parse(f"cached(cfg(3), every=3, order={order})"), schedule, condition, times=times
        )
        exact = GuidedDenoiser(denoise, parse("cfg(3)"), schedule, condition, times=times)
        worst = 0.0
        for step in range(12):
            evaluations = (times[step], times[step + 1]) if sampler == "heun" and step < 11 else (times[step],)
            for t in evaluations:
                gap = (cached.at(step)(x, t, condition).x0 - exact.at(step)(x, t, condition).x0).abs().max()
                worst = max(worst, float(gap)) if step > 3 else worst
        far.append(worst)
    assert far[0] < 1e-9
    assert far[1] > 1e-3


def test_extrapolated_directions_are_never_stored() -> None:
    """With every=5, each of steps 6 to 9 lies on the one line through steps 0 and 5: nothing compounds."""
    schedule, condition = RectifiedFlow(), MODEL.encode([1])
    level = {0: 1.0, 5: 3.0}

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        now = level.get(round(10 * (1 - float(t))), 1e9)
        x0 = torch.where(condition.keep["label"][:, None], 0.0, -now) * torch.ones_like(x_t)
        return Prediction(x0, x0)

    denoiser = GuidedDenoiser(denoise, parse("cached(cfg(2), every=5, order=1)"), schedule, condition, times=GRID)
    x_t = torch.zeros(1, 1, dtype=torch.float64)
    found = [float(denoiser.at(i)(x_t, GRID[i], condition).x0) for i in range(10)]
    u = [t**2 / ((1 - t) ** 2 + t**2) for t in GRID.tolist()]
    slope = (3 - 1) / (u[5] - u[0])
    assert found == pytest.approx([1.0] * 5 + [3 + slope * (u[i] - u[5]) for i in range(5, 10)], abs=1e-12)


def test_a_new_run_starts_fresh() -> None:
    denoiser = guided("cached(cfg(3), every=4, order=1)", times=trailing(vp_linear(), 8))
    x_t, times = points(), trailing(vp_linear(), 8)

    def whole() -> list[Tensor]:
        return [denoiser.at(i)(x_t * (1 + i), times[i], denoiser.condition).x0 for i in range(8)]

    first, second = whole(), whole()
    assert all(map(torch.equal, first, second))


def test_the_second_evaluation_of_a_step_does_not_move_the_anchors() -> None:
    """A step evaluated twice, at another x_t the second time, leaves the state of the first evaluation."""
    once, twice = (guided("cached(cfg(3), every=2, order=1)", times=trailing(vp_linear(), 8)) for _ in range(2))
    x_t, times = points(), trailing(vp_linear(), 8)
    for i in range(6):
        a = once.at(i)(x_t * (1 + i), times[i], once.condition).x0
        b = twice.at(i)(x_t * (1 + i), times[i], twice.condition).x0
        twice.at(i)(-x_t, times[i + 1], twice.condition)
        assert torch.equal(a, b)


def test_a_method_that_was_off_refreshes_when_it_comes_back() -> None:
    """On in steps 0 and 1, and from step 5 on, which is no multiple of 2."""
    denoiser = steered("cached(cfg(4)) + cached(pag(1), every=5).during(t=(0, 0.55))", SPECS, times=GRID)
    rows = []
    for i in range(10):
        with counting() as cost:
            denoiser.at(i)(START, GRID[i], denoiser.condition)
        rows.append(cost.rows // N)
    assert rows == [2, 1, 2, 1, 2, 2, 2, 1, 2, 1]


def test_around_apg_it_carries_on_the_projected_direction() -> None:
    denoiser, plain = (
        guided(text, times=trailing(vp_linear(), 8)) for text in ("cached(apg(cfg(4), norm=1))", "apg(cfg(4), norm=1)")
    )
    x_t = points()
    made = plain.at(0)(x_t, T, plain.condition).x0 - MODEL.denoiser(x_t, T, plain.condition).x0
    close(denoiser.at(0)(x_t, T, denoiser.condition).x0, plain.at(0)(x_t, T, plain.condition).x0, 1e-12)
    held = denoiser.at(1)(2 * x_t, T, denoiser.condition).x0 - MODEL.denoiser(2 * x_t, T, plain.condition).x0
    close(held, made, 1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cached(cfg(4), every=0)", "expected every to be a number of steps of at least 1, got 0"),
        ("cached(cfg(4), every=1.5)", "expected every to be a number of steps of at least 1, got 1.5"),
        ("cached(cfg(4), order=2)", r"expected order 0 \(hold\) or 1 \(extrapolate\), got 2"),
        ("cached(adaptive(cfg(4)))", r"cannot wrap adaptive\(...\), which needs the two predictions"),
        ("tcfg(cached(cfg(4)))", r"which evaluates its two branches in some steps only; write cached\(tcfg"),
        ("cached(compose({1: 2}))", "wraps one method of two branches"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_without_a_grid_there_are_no_steps_to_count() -> None:
    denoiser = guided("cached(cfg(4))")
    with pytest.raises(UsageError, match="counts the sampler's steps"):
        denoiser(points(), T, denoiser.condition)
