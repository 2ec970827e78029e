"""Condition specs as people write them, and the exact toy sampled end to end."""

import json

import pytest
import torch

from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import Gaussian, GaussianMixture
from fairlead.models.model import LabelEncoder, encode_nothing
from fairlead.models.toy import toy_model
from fairlead.sample.grids import make_grid
from fairlead.sample.noise import NoiseStream
from fairlead.sample.run import sample

NAMES = LabelEncoder(("zero", "one", "7", "Cat", "cat", "Dog"))


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        ("zero", 0),
        ("ZERO", 0),
        ("One", 1),
        (0, 0),
        (5, 5),
        ("0", 0),
        ("05", 5),
        ("7", 2),
        ("dog", 5),
        ("Cat", 3),
        ("cat", 4),
    ],
)
def test_a_name_comes_before_a_name_in_another_case_comes_before_an_index(spec, index: int) -> None:
    assert NAMES.index(spec) == index
    condition = NAMES([spec, None])
    assert condition.values["label"].dtype == torch.int64
    assert int(condition.values["label"][0]) == index
    assert condition.keep["label"].tolist() == [True, False]


def test_none_is_null() -> None:
    assert NAMES([None, None, None]).is_null
    assert not NAMES([None, 0]).is_null
    assert NAMES([None, "zero"]).equals(NAMES(["one", "ZERO"]).drop(torch.tensor([True, False])))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (6, "class index 6 is out of range: expected 0 to 5 .zero, one, "),
        (-1, "class index -1 is out of range"),
        ("6", "class index 6 is out of range"),
        ("-1", "class index -1 is out of range"),
        ("nine", r"unknown class 'nine' \(known: zero, one, .*, or 0 to 5\)"),
        ("CAT", "unknown class 'CAT'"),  # Cat or cat?
        ("", "unknown class ''"),
        ("--1", "unknown class '--1'"),
        ("\u00b2", "unknown class '\u00b2'"),
        ("1.0", "unknown class '1.0'"),
        ("9" * 5000, "unknown class '999"),
        (True, "unknown class True"),
        (1.0, "unknown class 1.0"),
    ],
)
def test_what_is_no_class_is_refused(spec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NAMES([0, spec])


def test_an_unconditional_model_takes_none_only() -> None:
    assert encode_nothing([None, None]).equals(encode_nothing([None, None]))
    assert encode_nothing([None, None]).n == 2
    with pytest.raises(UsageError, match="this model is unconditional, but the condition 'seven' was given"):
        encode_nothing([None, "seven"])


def test_the_toy_denoiser_is_the_oracle_per_sample_and_counts_its_rows() -> None:
    mixture, schedule = GaussianMixture.ring(), vp_linear()
    model, t = toy_model(mixture, schedule), torch.tensor(0.3, dtype=torch.float64)
    x_t, condition = torch.randn(4, 2, dtype=torch.float64), model.encode([3, None, "1", 0])
    alpha, sigma = schedule.alpha_sigma(t)
    with counting() as cost:
        prediction = model.denoiser(x_t, t, condition)
        each = model.denoiser(x_t, t.expand(4), condition)
    assert (cost.rows, cost.calls) == (8, 2)
    assert torch.equal(prediction.x0, each.x0)
    for i, label in enumerate([3, None, 1, 0]):
        one = None if label is None else torch.tensor([label])
        torch.testing.assert_close(prediction.x0[i : i + 1], mixture.denoise(x_t[i : i + 1], alpha, sigma, one))
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t)
    assert model.denoiser(x_t.float(), t, condition).x0.dtype == torch.float32
    assert json.loads(json.dumps(model.metadata, allow_nan=False)) == model.metadata


SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}
STD = 0.3


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "dpmpp_3m"])
@pytest.mark.parametrize("label", SCHEDULES)
def test_samples_of_a_class_are_its_gaussian(sampler: str, label: str) -> None:
    """Class 2 of the ring is N((-2, 0), 0.3^2). On a Gaussian every ODE sampler is linear in its start:
    x0 = m + gain (x_1 - alpha_1 m), exactly; 50 steps of second order get the spread right to 0.5 %, of DDIM to 7 %.
    Mean and covariance then lie within five standard errors."""
    n, schedule = 2000, SCHEDULES[label]
    mixture = GaussianMixture.ring(classes=4, radius=2.0, std=STD)
    model, mean = toy_model(mixture, schedule), mixture.means[2]
    run = sample(model, "2", guidance="cfg(1)", n=n, sampler=sampler, steps=50, grid="log_snr", batch_size=n)
    assert run.images is None
    assert run.cost.rows == n * (99 if sampler == "heun" else 50)
    x0, one = run.x0.double(), torch.ones((), dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(one)
    start = sigma * NoiseStream(run.seeds, (2,)).start().double() - alpha * mean
    gain = float((start * (x0 - mean)).sum() / (start * start).sum())
    torch.testing.assert_close(x0, mean + gain * start, rtol=0, atol=2e-5)
    spread = gain * float((alpha**2 * STD**2 + sigma**2).sqrt()) / STD
    assert spread == pytest.approx(1, abs=0.07 if sampler == "ddim" else 0.005)

    centre = mean - gain * alpha * mean  # the start has mean 0 where the marginal has alpha_1 m
    variance = (gain * sigma) ** 2
    assert torch.all((x0.mean(0) - centre).abs() < 5 * (variance / n).sqrt())
    assert torch.all((centre - mean).abs() < 0.01)
    error = 5 * float(variance) * (2 / n) ** 0.5
    torch.testing.assert_close(torch.cov(x0.T), variance * torch.eye(2).double(), rtol=0, atol=error)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("grid", ["trailing", "log_snr", "karras"])
def test_ddim_on_a_class_is_its_product_of_steps(label: str, grid: str) -> None:
    """x' - alpha' m = (alpha alpha' s^2 + sigma sigma') / (alpha^2 s^2 + sigma^2) (x - alpha m), step by step."""
    schedule = SCHEDULES[label]
    mixture = GaussianMixture.ring(classes=4, radius=2.0, std=STD)
    run = sample(toy_model(mixture, schedule), 1, seeds=[5, 6, 7], steps=12, grid=grid)
    alpha, sigma = schedule.alpha_sigma(make_grid(grid, schedule, 12))
    factors = (alpha[1:] * alpha[:-1] * STD**2 + sigma[1:] * sigma[:-1]) / (alpha[:-1] ** 2 * STD**2 + sigma[:-1] ** 2)
    start = sigma[0] * NoiseStream((5, 6, 7), (2,)).start().double() - alpha[0] * mixture.means[1]
    torch.testing.assert_close(run.x0.double(), mixture.means[1] + factors.prod() * start, rtol=0, atol=2e-5)


def test_one_gaussian_is_a_model_and_the_ode_carries_the_start_where_the_closed_form_says() -> None:
    gaussian = Gaussian(torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.5, 1.0], [2.0, 0.1]]))
    schedule = RectifiedFlow()
    model = toy_model(gaussian, schedule)
    run = sample(model, n=3, seeds=7, sampler="heun", steps=200)
    start = NoiseStream((7, 8, 9), (2, 2)).start()
    assert model.shape == (2, 2)
    torch.testing.assert_close(run.x0, gaussian.flow(start, (0.0, 1.0), (1.0, 0.0)).float(), atol=2e-3, rtol=0)
    with pytest.raises(UsageError, match="unconditional"):
        sample(model, "0")
