"""Independent condition guidance: the draw, and the mean over draws in closed form."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.icg import ICG, IndependentClass
from fairlead.guide.moment import NoiseSource
from fairlead.guide.step import Grid, Step
from fairlead.sample.grids import trailing
from fairlead.sample.noise import NoiseStream
from tests.guide.toy import MODEL, SCHEDULE, SPECS, N, T, call, close, exact, guided, moment, points, steered

GRID = trailing(SCHEDULE, 10)
CLASSES = 4


def drawing(seeds: tuple[int, ...]) -> NoiseSource:
    return lambda number, shape: NoiseStream(seeds, shape).extra(number)


def at(index: int) -> Step:
    grid = Grid.of(GRID, SCHEDULE)
    return Step(grid.times[index], grid.sigma[index], grid.log_snr[index], index, grid)


def labels(seeds: tuple[int, ...], index: int = 3) -> torch.Tensor:
    return IndependentClass().labels(moment(at(index), draws=drawing(seeds)))


def icg(text: str, seeds: tuple[int, ...], specs: list, model=MODEL) -> GuidedDenoiser:
    return GuidedDenoiser.of(model, parse(text), model.encode(specs), draw=drawing(seeds), times=GRID)


def test_the_class_is_a_pure_function_of_seed_and_step_whatever_the_batch() -> None:
    seeds = tuple(range(40))
    together = labels(seeds)
    assert torch.equal(together, labels(seeds))
    assert torch.equal(together.flip(0), labels(seeds[::-1]))
    assert together.tolist() == [int(labels((seed,))) for seed in seeds]
    torch.manual_seed(99)
    assert torch.equal(together, labels(seeds))


def chi_square(counts: torch.Tensor) -> float:
    expected = float(counts.sum()) / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_class_is_uniform_and_independent_between_steps() -> None:
    """Chi-square below its 99.9 % quantile: 16.3 at 3 degrees of freedom, 37.7 at 15."""
    first, second = labels(tuple(range(2000)), 0), labels(tuple(range(2000)), 1)
    assert chi_square(first.bincount(minlength=CLASSES)) < 16.3
    assert chi_square((first * CLASSES + second).bincount(minlength=CLASSES**2)) < 37.7


@pytest.mark.parametrize("scale", [0.0, 0.4, 3.0])
def test_the_rule_by_hand(scale: float) -> None:
    """D_r + scale (D_c - D_r) under the classes drawn at this step."""
    x_t, seeds = points(), (11, 12, 13, 14, 15)
    denoiser = icg(f"icg({scale})", seeds, SPECS)
    step = denoiser.grid.index(float(T)) if denoiser.grid else 0
    random = exact(x_t, labels(seeds, step))
    prediction, cost = call(denoiser, x_t)
    close(prediction.x0, random + scale * (exact(x_t, torch.tensor(SPECS)) - random))
    assert (cost.rows, cost.calls) == (N if scale == 0 else 2 * N, 1)


def test_the_mean_over_draws_is_guidance_away_from_the_average_over_classes() -> None:
    """Exactly so for the shares that were drawn, and within four standard errors for equal shares."""
    n, label, scale = 1000, 2, 3.0
    seeds, x_t = tuple(range(n)), points()[:1]
    many = x_t.expand(n, -1)
    denoiser = icg(f"icg({scale})", seeds, [label] * n)
    step = denoiser.grid.index(float(T)) if denoiser.grid else 0
    each = call(denoiser, many)[0].x0 - exact(many, label)
    by_class = torch.cat([exact(x_t, k) for k in range(CLASSES)])
    shares = labels(seeds, step).bincount(minlength=CLASSES).double() / n
    close(each.mean(0), (scale - 1) * (exact(x_t, label)[0] - shares @ by_class))
    closed = (scale - 1) * (exact(x_t, label)[0] - by_class.mean(0))
    assert bool(((each.mean(0) - closed).abs() < 4 * each.std(0) / n**0.5).all())


def test_two_evaluations_of_a_step_see_the_same_classes_and_another_step_draws_anew() -> None:
    x_t, specs = points(), [0] * N
    denoiser = icg("icg(3)", tuple(range(N)), specs)
    first, again = (denoiser.at(4)(x_t, T, denoiser.condition).x0 for _ in range(2))
    assert torch.equal(first, again)
    drawn = [tuple(labels(tuple(range(N)), step).tolist()) for step in range(10)]
    assert len(set(drawn)) == 10


def test_a_sample_without_a_condition_is_left_as_it_is() -> None:
    x_t, specs = points(), [2, None, 0, None, 1]
    prediction, _ = call(icg("icg(5)", tuple(range(N)), specs), x_t)
    bare = torch.tensor([spec is None for spec in specs])
    close(prediction.x0[bare], exact(x_t, None)[bare], 1e-12)


def test_with_cads_the_draw_is_another_than_the_noise_and_both_ride_in_one_call() -> None:
    x_t = torch.zeros(N, 1, 8, 8, dtype=torch.float64)
    denoiser = steered("icg(3) + cads(0.3)", SPECS, times=GRID, batching="fused")
    _, cost = call(denoiser, x_t)
    assert (cost.rows, cost.calls) == (2 * N, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: icg("icg(3)", (1,), [None]), "steers towards the run's condition, but none was given"),
        (lambda: guided("icg(3)"), r"icg\(3\): draws random classes, and this model has no classes; use cfg or pag"),
        (
            lambda: call(GuidedDenoiser.of(MODEL, ICG(3), MODEL.encode(SPECS)), points()),
            "draws noise, which needs seeds and the sampler's grid",
        ),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
