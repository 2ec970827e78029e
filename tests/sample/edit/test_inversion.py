"""Inversion against closed forms: the order of the solver, rounding by fixed point, edits that only move the mean."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import Remark, UsageError
from fairlead.data.toys import Gaussian, GaussianMixture
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.edit import inversion
from fairlead.sample.edit.implicit import factors, fixed_point
from fairlead.sample.edit.inversion import Method, invert
from fairlead.sample.edit.inverted import Inversion, signal_to_noise
from fairlead.sample.grids import make_grid
from fairlead.sample.run import sample
from fairlead.sample.sampler import GridLevels
from tests.guide.toy import NETWORK
from tests.sample.edit.test_start import IMAGES

GAUSSIAN = Gaussian(torch.tensor([0.5, -1.0]), 0.6)
MIXTURE = GaussianMixture.ring()
ONES = torch.ones(16, dtype=torch.int64)
CASES: dict[str, tuple[Gaussian | GaussianMixture, str | None, Tensor]] = {
    "gaussian": (GAUSSIAN, None, GAUSSIAN.sample(16, seed=1)),
    "mixture": (MIXTURE, "1", MIXTURE.sample(16, ONES, 1)),
}
SCHEDULES = ("flow", "vp_cosine", "vp_linear")


def orders(errors: Sequence[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_inversion_and_back_has_the_order_of_the_solver(case: str, schedule: str) -> None:
    toy, cond, x0 = CASES[case]
    model = toy_model(toy, schedule)
    errors = [float(invert(model, x0, cond, steps=steps).error.max()) for steps in (40, 80, 160)]
    assert orders(errors) == pytest.approx([1, 1], abs=0.06)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_noise_converges_to_that_of_the_exact_flow(schedule: str) -> None:
    model, (_, _, x0) = toy_model(GAUSSIAN, schedule), CASES["gaussian"]
    errors = []
    for steps in (40, 80, 160):
        times = make_grid("trailing", model.schedule, steps)
        alpha, sigma = model.schedule.alpha_sigma(times[0])
        exact = GAUSSIAN.flow(x0, (1.0, 0.0), (alpha, sigma))
        errors.append(float((invert(model, x0, steps=steps).x_t - exact).abs().max()))
    assert orders(errors) == pytest.approx([1, 1], abs=0.12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_the_published_factor_misses_by_more(case: str, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.7 to 8 times as much; where alpha is 0 it is the ratio of the sigmas in its place."""
    toy, cond, x0 = CASES[case]
    model = toy_model(toy, schedule)
    ours = invert(model, x0, cond).error.square().mean().sqrt()

    def published(levels: GridLevels) -> list[float]:
        alpha, sigma = levels.alpha, levels.sigma
        ratio: list[float] = torch.where(alpha[:-1] > 0, alpha[:-1] / alpha[1:], sigma[:-1] / sigma[1:]).tolist()
        return ratio

    monkeypatch.setattr(inversion, "factors", published)
    theirs = invert(model, x0, cond).error.square().mean().sqrt()
    assert 1.6 < float(theirs / ours) < 9


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_evaluation_is_exact_on_data_of_unit_variance(schedule: str) -> None:
    x0 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = invert(toy_model(Gaussian(torch.zeros(3), 1.0), schedule), x0, steps=5)
    assert float(found.error.max()) < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_a_fixed_point_comes_back_to_rounding(case: str, schedule: str) -> None:
    toy, cond, x0 = CASES[case]
    found = invert(toy_model(toy, schedule), x0, cond, method="fixed-point")
    assert float(found.error.max()) < 5e-6
    assert found.cost.rows / 16 < 20 * 5


def test_a_fixed_point_comes_back_under_guidance() -> None:
    """At scale 2 on mixtures wide enough that the guided step is one to one."""
    wide = GaussianMixture.ring(radius=1.0, std=0.8)
    x0 = wide.sample(16, ONES, 3)
    model = toy_model(wide, "vp_cosine")
    found = invert(model, x0, "1", method="fixed-point", guidance="cfg(2)")
    assert float(found.error.max()) < 5e-6
    plain = invert(model, x0, "1", guidance="cfg(2)")
    assert float(plain.error.max()) > 1000 * float(found.error.max())


def test_a_step_in_float64_is_solved_to_its_rounding() -> None:
    model = toy_model(MIXTURE, "vp_cosine")
    times = make_grid("trailing", model.schedule, 10)
    condition = model.encode(["1"] * 16)
    x0 = CASES["mixture"][2]
    levels = GridLevels.of(model.schedule, times, x0)
    sampler = DDIM()

    def step(x: Tensor) -> Tensor:
        return sampler.step(9, x, lambda x, i: model.denoiser(x, times[i], condition), _never, sampler.begin(levels))[0]

    x, error = fixed_point(step, x0, factors(levels)[9], 60, 1e-14)
    assert float(error.max()) < 1e-13
    torch.testing.assert_close(step(x), x0, rtol=1e-12, atol=1e-12)


def _never(number: int) -> Tensor:
    raise AssertionError


def test_a_sample_is_solved_alone() -> None:
    """A hard sample in the batch changes nothing of an easy one, which stays where it was when it was done."""

    def step(x: Tensor) -> Tensor:
        return torch.cat([0.9 * x[:1] + 0.05 * x[:1].sin(), x[1:] ** 3])  # which has no inverse that it finds from here

    after = torch.tensor([[0.3, -0.2], [5.0, -7.0]], dtype=torch.float64)
    together, _ = fixed_point(step, after, 1.0, 30, 1e-12)
    alone, error = fixed_point(lambda x: 0.9 * x + 0.05 * x.sin(), after[:1], 1.0, 30, 1e-12)
    assert float(error) < 1e-12
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-13)


def test_the_closest_iterate_is_kept_where_there_is_no_solution() -> None:
    after = torch.tensor([[2.0, 2.0]], dtype=torch.float64)  # sin never is 2
    x, error = fixed_point(lambda x: x.sin(), after, 1.0, 30, 1e-12)
    assert bool(x.isfinite().all())
    assert float(error) <= float((after - after.sin()).square().mean().sqrt() / 2)


def test_an_edit_by_condition_moves_the_mean_and_keeps_the_rest() -> None:
    """Classes that are one Gaussian each of one width: from the noise of x0 under one class, sampling under the other
    ends at x0 - m_1 + m_2 once alpha is 0 where they part; by fixed point at any number of steps, for the steps of both
    classes are parallel."""
    model, x0 = toy_model(MIXTURE, "flow"), CASES["mixture"][2]
    expected = x0 - MIXTURE.means[1] + MIXTURE.means[2]

    def edited(method: Method, steps: int) -> float:
        found = invert(model, x0, "1", method=method, steps=steps)
        return float((sample(model, "2", start=found, steps=steps).x0 - expected).abs().max())

    assert edited("fixed-point", 5) < 1e-5
    assert orders([edited("inversion", steps) for steps in (40, 80, 160)]) == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize("method", ["inversion", "fixed-point", "null-text", "negative"])
def test_batches_and_order_change_nothing(method: Method) -> None:
    conds, order = ["one", "two", "three"], [2, 0, 1]
    options: dict[str, Any] = {"method": method, "steps": 3, "guidance": "cfg(1.5)"}
    options |= {"rounds": 3} if method in inversion.ROUNDS else {}
    together = invert(NETWORK, IMAGES, conds, **options)
    parts = invert(NETWORK, IMAGES, conds, batch_size=2, **options)
    turned = invert(NETWORK, IMAGES[order], [conds[i] for i in order], **options)
    for name in ("x_t", "back"):
        whole = getattr(together, name)
        torch.testing.assert_close(getattr(parts, name), whole, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(getattr(turned, name), whole[order], rtol=1e-3, atol=1e-4)


def test_rows_of_inverting_and_of_the_way_back() -> None:
    with counting() as cost:
        found = invert(NETWORK, IMAGES, "two", steps=4, guidance="cfg(2)")
    assert (found.cost.rows, found.back_cost.rows) == (3 * 4 * 2, 3 * 4 * 2)
    assert cost.rows == 3 * (4 * 2 + 4 * 2)
    half = invert(NETWORK, IMAGES, "two", steps=4, strength=0.5)
    assert (half.cost.rows, half.back_cost.rows) == (3 * 2, 3 * 2)
    found = invert(NETWORK, IMAGES, "two", steps=4, guidance="cfg(2)", method="negative")
    assert (found.cost.rows, found.back_cost.rows) == (3 * 4, 3 * 4)


def test_negative_inversion_comes_back_as_without_guidance() -> None:
    """Under the source condition both branches are one, at any scale."""
    plain = invert(NETWORK, IMAGES, "two", steps=4)
    found = invert(NETWORK, IMAGES, "two", steps=4, guidance="cfg(7)", method="negative")
    assert torch.equal(found.x_t, plain.x_t)
    assert torch.equal(found.back, plain.back)


def test_negative_inversion_samples_away_from_the_source() -> None:
    found = invert(NETWORK, IMAGES, "two", steps=4, guidance="cfg(3)", method="negative")
    edited = sample(NETWORK, "one", start=found, steps=4, guidance="cfg(3)").x0
    plain = invert(NETWORK, IMAGES, "two", steps=4)
    named = sample(NETWORK, "one", start=plain, steps=4, guidance='cfg(3, negative="two")').x0
    torch.testing.assert_close(edited, named)


def test_a_start_is_the_same_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    for method in ("null-text", "negative"):
        found = invert(NETWORK, IMAGES, "two", method=method, steps=3, guidance="cfg(3)")
        found.save(path)
        again = Inversion.load(path)
        assert str(again) == str(found)
        assert repr(again.error) == repr(found.error)
        each = [sample(NETWORK, "one", start=start, steps=3, guidance="cfg(3)").x0 for start in (found, again)]
        assert torch.equal(*each)
    with pytest.raises(UsageError, match="of a model with weights None, samples"):
        sample(toy_model(MIXTURE, "flow"), "1", start=again, steps=3)
    other = replace(NETWORK, metadata={"weights_hash": "abc"})
    with pytest.raises(UsageError, match="this one has 'abc'"):
        sample(other, "one", start=again, steps=3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="is damaged"):
        Inversion.load(path)
    with pytest.raises(UsageError, match="no file"):
        Inversion.load(tmp_path / "nothing")


def test_one_inversion_starts_several_samples() -> None:
    found = invert(NETWORK, IMAGES[:1], "two", method="null-text", steps=3, guidance="cfg(3)")
    run = sample(NETWORK, ["one", "three"], start=found, steps=3, guidance="cfg(3)")
    for i, cond in enumerate(("one", "three")):
        alone = sample(NETWORK, cond, start=found, steps=3, guidance="cfg(3)").x0
        torch.testing.assert_close(run.x0[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_run_has_to_be_that_of_the_inversion() -> None:
    found = invert(NETWORK, IMAGES, "two", steps=3)
    given: list[tuple[dict[str, Any], str]] = [
        ({"steps": 4}, "steps 4: the inversion is of steps 3"),
        ({"steps": 3, "grid": "karras"}, "grid 'karras': the inversion is of grid 'trailing'"),
        ({"steps": 3, "sampler": "heun"}, "sampler 'heun': the inversion is of sampler 'ddim'"),
        ({"steps": 3, "strength": 0.5}, "strength: an inversion has its own"),
        ({"steps": 3, "n": 2}, "n gives 2, start gives 3"),
    ]
    for options, message in given:
        with pytest.raises(UsageError, match=message):
            sample(NETWORK, "one", start=found, **options)


def test_signal_to_noise_is_that_of_a_known_difference() -> None:
    images = torch.zeros(2, 1, 4, 4)
    others = images + torch.tensor([0.02, 0.2])[:, None, None, None]
    assert signal_to_noise(images, others).tolist() == pytest.approx([40, 20], abs=1e-5)


def refusing(model: Model) -> Model:
    def never(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        raise AssertionError("the network was called")

    return replace(model, denoiser=never)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "edict"}, "unknown method 'edict'"),
        ({"strength": 1.5}, "strength: expected"),
        ({"rounds": 3}, "method 'inversion' does not iterate"),
        ({"method": "fixed-point", "rounds": 0}, "rounds: expected"),
        ({"images": IMAGES[..., :4]}, "start: expected images"),
        ({"images": "nowhere"}, "no file or folder 'nowhere'"),
        ({"cond": ["one", "two"]}, "cond gives 2, start gives 3"),
        ({"cond": "eleven"}, "eleven"),
        ({"steps": 0}, "steps 0"),
        ({"guidance": "cfg(3)", "cond": None}, "steers towards the run's condition"),
        ({"method": "null-text", "model": replace(NETWORK, null_tokens=None)}, "has no null tokens"),
    ],
)
def test_what_cannot_be_inverted_is_one_line_before_any_work(given: dict[str, Any], message: str) -> None:
    given = {"images": IMAGES, "cond": "two", "model": NETWORK, **given}
    with pytest.raises(UsageError, match=message):
        invert(refusing(given.pop("model")), **given)


def test_guidance_with_a_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="keeps something from step to step"):
        invert(NETWORK, IMAGES, "two", guidance="apg(cfg(3), momentum=-0.5)", steps=3)


def test_what_does_not_work_out_is_said() -> None:
    with pytest.warns(Remark, match="never looks at the null condition"):
        invert(NETWORK, IMAGES, "two", guidance='cfg(3, negative="one")', method="null-text", steps=2)
    x0 = MIXTURE.sample(16, ONES, 1) + 3.0  # which no sampling at scale 7 gives
    with pytest.warns(Remark, match="have a step that is not solved"):
        invert(toy_model(MIXTURE, "vp_linear"), x0, "1", guidance="cfg(7)", method="fixed-point", steps=10)
