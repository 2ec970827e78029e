"""Adaptive projected guidance: projection, limit and momentum, in x0 and per sample."""

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, RectifiedFlow, vp_linear
from fairlead.guide.expression import parse
from fairlead.guide.methods.apg import without_parallel
from fairlead.guide.per_sample import dot
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.grids import trailing
from fairlead.sample.heun import Heun
from tests.guide.stored import output, random, stored
from tests.guide.toy import LABELS, MIXTURE, MODEL, SCHEDULE, SPECS, N, T, call, close, exact, guided, points

X_T, COND, NULL = (random(N, 3, 4, seed=seed) for seed in range(3))
DELTA = COND - NULL
GRID = trailing(SCHEDULE, 6)


def size(x: Tensor) -> Tensor:
    return dot(x, x).sqrt()


def along(t: float, seed: int) -> Tensor:
    """Predictions that change with time."""
    return random(N, 3, 4, seed=seed) + t * random(N, 3, 4, seed=seed + 50)


def test_the_parts_of_a_direction() -> None:
    orthogonal = without_parallel(DELTA, COND, 0)
    close(dot(orthogonal, COND), torch.zeros(N, 1, 1).double())
    parallel = DELTA - orthogonal
    close(parallel * size(COND), COND * dot(parallel, COND) / size(COND))
    close(size(orthogonal) ** 2 + size(parallel) ** 2, size(DELTA) ** 2)
    close(without_parallel(DELTA, COND, 0.3), orthogonal + 0.3 * parallel)
    close(without_parallel(2.5 * COND, COND, 0), 0 * COND)
    close(without_parallel(orthogonal, COND, 0), orthogonal)
    assert torch.equal(without_parallel(DELTA, 0 * COND, 0), DELTA), "nothing is parallel to 0"


@pytest.mark.parametrize("schedule", [vp_linear(), RectifiedFlow(), VE()], ids=["vp", "flow", "ve"])
def test_on_the_exact_mixture(schedule) -> None:
    """D_c + omega (Delta - <Delta, D_c> / <D_c, D_c> D_c)."""
    x_t, model = points(schedule), toy_model(MIXTURE, schedule)
    cond = exact(x_t, LABELS, schedule=schedule)
    delta = cond - exact(x_t, None, schedule=schedule)
    expected = cond + 3 * (delta - dot(delta, cond) / dot(cond, cond) * cond)
    prediction, cost = call(guided("apg(cfg(4))", model=model), x_t)
    close(prediction.x0, expected)
    assert cost.rows == 2 * N


@pytest.mark.parametrize("inner", ["cfg(4)", "cfg([3, 1, 2, 0, -1])", "cfg(3, negative=1)", "cfg(ramp(1, 7))"])
def test_with_all_of_the_parallel_part_it_is_the_method_inside(inner: str) -> None:
    x_t = points()
    close(call(guided(f"apg({inner}, eta=1)"), x_t)[0].x0, call(guided(inner), x_t)[0].x0, 1e-12)


@pytest.mark.parametrize("text", ["apg(cfg(1))", "apg(cfg(1), norm=0.1, momentum=-0.5)"])
def test_scale_1_is_off(text: str) -> None:
    x_t = points()
    prediction, cost = call(guided(text), x_t)
    assert torch.equal(prediction.x0, MODEL.denoiser(x_t, T, MODEL.encode(SPECS)).x0)
    assert cost.rows == N


def test_the_limit_is_on_the_norm_of_a_sample_in_x0() -> None:
    """|D - D_c| = omega min(|Delta|, norm)."""
    norm = float(size(DELTA).median())
    prediction, _ = call(stored(f"apg(cfg(4), eta=1, norm={norm})", COND, NULL), X_T)
    close(size(prediction.x0 - COND), 3 * size(DELTA).clamp(max=norm))
    close(prediction.x0, COND + 3 * DELTA * (norm / size(DELTA)).clamp(max=1))
    still, _ = call(stored("apg(cfg(4), eta=1, norm=1)", COND, COND), X_T)
    close(still.x0, COND, 1e-12)


@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.75])
@pytest.mark.parametrize("norm", [None, 3.0])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_same_as_diffusers_in_x0_over_a_run(momentum: float, norm: float | None, eta: float) -> None:
    """In its "original formulation" (D_c plus omega times the direction), for a network that returns x0."""
    text = f"apg(cfg(5), eta={eta}, momentum={momentum}" + (")" if norm is None else f", norm={norm})")
    ours = stored(text, lambda t: along(t, 1), lambda t: along(t, 2), times=GRID)
    theirs = AdaptiveProjectedGuidance(4.0, momentum or None, norm or 0.0, eta=eta, use_original_formulation=True)
    for step, t in enumerate(GRID[:-1].tolist()):
        theirs.set_state(step, 6, torch.tensor(0))
        theirs.prepare_inputs({})
        expected = theirs.forward(along(t, 1), along(t, 2)).pred
        prediction = ours.at(step)(X_T, GRID[step], ours.condition)
        close(prediction.x0, expected, 1e-6)


def test_diffusers_default_formulation_starts_from_the_unconditional_prediction() -> None:
    """There, D_u + w times the direction: as w goes to 1, where it is switched off, it does not go to D_c."""
    theirs = AdaptiveProjectedGuidance(1 + 1e-6, None, 0.0, eta=0.0)
    close(theirs.forward(COND, NULL).pred, COND - (DELTA - without_parallel(DELTA, COND, 0)), 1e-4)
    ours, _ = call(stored(f"apg(cfg({1 + 1e-6}))", COND, NULL), X_T)
    close(ours.x0, COND, 1e-4)


def test_diffusers_limits_the_norm_of_the_raw_output() -> None:
    """Differences in eps are alpha / sigma times those in x0. So its limit on the output of an eps network, times that,
    is ours; with the same number it would be another limit at each noise level."""
    alpha, sigma = (float(value) for value in SCHEDULE.alpha_sigma(T))
    ours = stored("apg(cfg(4), eta=1, norm=1.5)", COND, NULL, objective="eps")
    theirs = AdaptiveProjectedGuidance(3.0, None, 1.5 * alpha / sigma, eta=1.0, use_original_formulation=True)
    close(output(call(ours, X_T)[0], ours, X_T, T), theirs.forward(COND, NULL).pred, 1e-6)


def test_momentum_is_of_the_step_and_not_of_the_evaluation() -> None:
    """Heun's corrector, the second evaluation of a step, starts from the momentum before it and leaves no trace."""
    ours = stored("apg(cfg(2), eta=1, momentum=-0.5)", lambda t: along(t, 1), lambda t: along(t, 2), times=GRID)

    def delta(i: int) -> Tensor:
        return along(float(GRID[i]), 1) - along(float(GRID[i]), 2)

    def added(step: int, i: int) -> Tensor:
        return ours.at(step)(X_T, GRID[i], ours.condition).x0 - along(float(GRID[i]), 1)

    close(added(0, 0), delta(0))
    close(added(0, 1), delta(1))
    close(added(1, 1), delta(1) - 0.5 * delta(0))
    close(added(1, 2), delta(2) - 0.5 * delta(0))
    close(added(2, 2), delta(2) - 0.5 * (delta(1) - 0.5 * delta(0)))
    close(added(0, 0), delta(0))  # a new run


def test_steps_outside_the_interval_leave_momentum_alone() -> None:
    text = "apg(cfg(2), eta=1, momentum=-0.5).during(t=(0, 0.7))"
    ours = stored(text, lambda t: along(t, 1), lambda t: along(t, 2), times=GRID)
    moves = []
    for i, t in enumerate(GRID[:4].tolist()):
        moves.append(ours.at(i)(X_T, GRID[i], ours.condition).x0 - along(t, 1))
    inside = next(i for i, t in enumerate(GRID.tolist()) if t <= 0.7)
    close(moves[inside - 1], 0 * X_T)
    close(moves[inside], along(float(GRID[inside]), 1) - along(float(GRID[inside]), 2))


def test_a_run_on_the_mixture_has_the_orders_of_its_samplers() -> None:
    """Momentum apart, apg is a smooth field: DDIM converges at first order and Heun at second."""
    schedule = VE()
    start = random(3, 2, seed=4) * schedule.alpha_sigma(torch.tensor(0.8).double())[1]
    model = toy_model(MIXTURE, schedule)

    def end(sampler, steps: int) -> Tensor:
        times = torch.linspace(0.8, 0.2, steps + 1, dtype=torch.float64)
        denoiser = guided("apg(cfg(3), norm=1.0)", [2, 0, 3], model=model)
        *_, last = sampler.frames(denoiser, start, times, schedule, denoiser.condition, None)
        x_t: Tensor = last.x_t
        return x_t

    truth = end(Heun(), 640)
    for sampler, steps, order in ((DDIM(), 80, 1), (Heun(), 40, 2)):
        coarse, fine = ((end(sampler, n) - truth).norm() for n in (steps, 2 * steps))
        assert 2 ** (order - 0.4) < float(coarse / fine) < 2 ** (order + 0.6)


def test_it_nests() -> None:
    """apg around another direction projects that one."""
    for inner in ("tcfg(cfg(4))", "mambo(cfg(4), 0.5)"):
        direction = call(stored(inner, COND, NULL), X_T)[0].x0 - COND
        prediction, _ = call(stored(f"apg({inner})", COND, NULL), X_T)
        close(prediction.x0, COND + without_parallel(direction, COND, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apg(4)", "wraps one method"),
        ("apg(cfg(4), norm=0)", "expected norm > 0"),
        ("apg(cfg(4), momentum=1)", r"momentum in \(-1, 1\)"),
        ('apg(cfg(4), eta="a")', "expected eta"),
        ("apg(zero_star(cfg(4)))", "does more than a direction"),
        ("apg(zero_star(cfg(4)).during(t=(0, 1)))", "does more than a direction"),
        ("tcfg(apg(cfg(4)))", r"tcfg\(...\) is a rule of two predictions, but apg\(cfg\(4\)\) makes another"),
        ("mambo(apg(cfg(4)).during(t=(0, 1)))", "is a rule of two predictions"),
        ("zero_star(tcfg(cfg(4)))", "is a rule of two predictions"),
        ("tcfg(tcfg(cfg(4)))", "is a rule of two predictions"),
        ("mambo(zero_star(cfg(4)))", "does more than a direction"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
