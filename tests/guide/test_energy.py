"""Guidance by scores against closed forms: linear-quadratic cases, hand-computed gradients, fixed draws."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import Gaussian
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse, to_guidance
from fairlead.guide.rewards.appearance import fit_image
from fairlead.guide.terms import Term
from fairlead.models.model import Model, encode_nothing, identity
from fairlead.models.resources import load_resources
from fairlead.models.toy import toy_model
from fairlead.sample.noise import NoiseStream
from fairlead.sample.run import sample
from tests.guide.toy import (
    NETWORK,
    RESOURCES,
    SPECS,
    N,
    T,
    call,
    close,
    images,
    network_model,
    noisy_classifier,
    steered,
)

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}
MEAN, STD, SEEN, ERROR = 0.4, 0.8, 1.5, 0.5


def gaussian(schedule=SCHEDULES["vp"], std: float = STD, mean: float = MEAN, d: int = 3) -> Model:
    return toy_model(Gaussian(torch.full((d,), mean), std), schedule)


def guided(term: Term, model: Model, n: int = N, **options) -> GuidedDenoiser:
    return GuidedDenoiser.of(model, term, model.encode([None] * n), **options)


def noisy(model: Model, n: int = N) -> Tensor:
    return torch.randn(n, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def measured(x0: Tensor, t: Tensor, condition) -> Tensor:
    """log N(SEEN; x0, ERROR^2) without its constant."""
    return -((SEEN - x0) ** 2).sum(1) / (2 * ERROR**2)


def shift(term: Term, model: Model, x_t: Tensor, t: Tensor = T, **options) -> Tensor:
    return (
        call(guided(term, model, len(x_t), **options), x_t, t)[0].x0
        - model.denoiser(x_t, t, model.encode([None] * len(x_t))).x0
    )


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("time", [0.1, 0.45, 0.9])
def test_through_the_network_scale_1_is_the_exact_posterior_of_a_linear_gaussian_measurement(
    label: str, time: float
) -> None:
    """x0 ~ N(m, s^2) given x_t has variance V = s^2 sigma^2 / (alpha^2 s^2 + sigma^2), so y = x0 + r z has
    log p(y | x_t) = -(y - D)^2 / 2 (r^2 + V) and E[x0 | x_t, y] - D = V (y - D) / (V + r^2), Kalman's gain."""
    schedule, t = SCHEDULES[label], torch.tensor(time, dtype=torch.float64)
    model, (alpha, sigma) = gaussian(schedule), schedule.alpha_sigma(t)
    variance = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)

    def score(x0: Tensor, t: Tensor, condition) -> Tensor:
        return -((SEEN - x0) ** 2).sum(1) / (2 * (ERROR**2 + variance))

    x_t = noisy(model) * float(alpha**2 + sigma**2) ** 0.5
    plain = model.denoiser(x_t, t, model.encode([None] * N)).x0
    close(shift(fl.energy(score), model, x_t, t), variance * (SEEN - plain) / (variance + ERROR**2))
    close(shift(fl.energy(score, 2.5), model, x_t, t), 2.5 * variance * (SEEN - plain) / (variance + ERROR**2))


def test_plain_dps_overshoots_by_the_variance_it_leaves_out() -> None:
    """2209.14687 puts D for x0 in the likelihood: the exact shift times (r^2 + V) / r^2."""
    model, x_t = gaussian(), noisy(gaussian())
    alpha, sigma = model.schedule.alpha_sigma(T)
    variance = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)
    plain = model.denoiser(x_t, T, model.encode([None] * N)).x0
    close(shift(fl.energy(measured), model, x_t), variance * (SEEN - plain) / ERROR**2)


@pytest.mark.parametrize("label", SCHEDULES)
def test_without_the_network_by_hand(label: str) -> None:
    """D + scale c_t grad f(D), c_t = sigma^2 / (alpha^2 + sigma^2)."""
    model = gaussian(SCHEDULES[label])
    x_t, (alpha, sigma) = noisy(model), model.schedule.alpha_sigma(T)
    plain = model.denoiser(x_t, T, model.encode([None] * N)).x0
    c = sigma**2 / (alpha**2 + sigma**2)
    close(shift(fl.energy(measured, 3, through=False), model, x_t), 3 * c * (SEEN - plain) / ERROR**2)


@pytest.mark.parametrize("label", SCHEDULES)
def test_on_unit_gaussian_data_both_forms_are_the_same(label: str) -> None:
    model = gaussian(SCHEDULES[label], std=1.0, mean=0.0)
    x_t = noisy(model)
    close(shift(fl.energy(measured), model, x_t), shift(fl.energy(measured, through=False), model, x_t))


def test_clip_bounds_each_sample_by_itself() -> None:
    model = gaussian()
    x_t = noisy(model) * torch.tensor([1.0, 5, 0.1, 20, 2], dtype=torch.float64)[:, None]
    free = shift(fl.energy(measured, through=False), model, x_t)
    lengths = free.norm(dim=1)
    bound = float(lengths.median())
    clipped = shift(fl.energy(measured, 2, through=False, clip=bound), model, x_t)
    close(clipped, 2 * free * (bound / lengths).clamp(max=1)[:, None])
    assert int((clipped.norm(dim=1) / 2 < bound * (1 - 1e-9)).sum()) == 2


def test_the_gradient_of_a_linear_score_is_the_same_under_any_smoothing() -> None:
    model, x_t = gaussian(), noisy(gaussian())
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def linear(x0: Tensor, t: Tensor, condition) -> Tensor:
        return x0 @ slope

    alpha, sigma = model.schedule.alpha_sigma(T)
    c = sigma**2 / (alpha**2 + sigma**2)
    smooth = fl.energy(linear, through=False, draws=3, spread=2)
    close(shift(smooth, model, x_t, **drawing(N)), (c * slope).expand(N, -1))


def drawing(n: int, steps: int = 5) -> dict:
    """Options of a run on a grid, with the samples' streams 0 .. n - 1."""
    times = torch.cat([T + 0.1 * torch.arange(1, steps).flip(0), T[None], torch.zeros(1)]).double()

    def draw(number: int, shape: tuple[int, ...]) -> Tensor:
        return NoiseStream(tuple(range(n)), shape).extra(number)

    return {"draw": draw, "times": times}


def test_smoothing_by_hand_with_fixed_draws() -> None:
    """grad log mean_i exp f(D + r z_i) = sum_i softmax_i(f) grad f, r = spread sqrt(c_t)."""
    model, x_t, options = gaussian(), noisy(gaussian()), drawing(N)
    alpha, sigma = model.schedule.alpha_sigma(T)
    c = sigma**2 / (alpha**2 + sigma**2)
    plain = model.denoiser(x_t, T, model.encode([None] * N)).x0
    step = len(options["times"]) - 2
    z = torch.stack([options["draw"](1000 * step + i, (3,)).double() for i in range(4)])
    around = plain + 0.7 * c.sqrt() * z
    share = torch.stack([measured(one, T, None) for one in around]).softmax(0)
    gradient = (share[..., None] * (SEEN - around) / ERROR**2).sum(0)
    term = fl.energy(measured, 1.5, through=False, draws=4, spread=0.7)
    close(shift(term, model, x_t, **options), 1.5 * c * gradient)


def test_many_draws_with_spread_1_give_the_exact_posterior_on_unit_gaussian_data() -> None:
    """LGD: E exp f over N(D, V) is N(y; D, r^2 + V), so plain likelihoods need no overshoot."""
    model = gaussian(std=1.0, mean=0.0, d=1)
    x_t = torch.full((100, 1), 0.3, dtype=torch.float64)
    alpha, sigma = model.schedule.alpha_sigma(T)
    variance = sigma**2 / (alpha**2 + sigma**2)
    plain = model.denoiser(x_t, T, model.encode([None] * 100)).x0
    exact = variance * (SEEN - plain) / (variance + ERROR**2)
    smoothed = shift(fl.energy(measured, draws=400, spread=1), model, x_t, **drawing(100))
    assert float(smoothed.mean()) == pytest.approx(float(exact.mean()), rel=0.02)
    assert float(shift(fl.energy(measured), model, x_t).mean()) > 2 * float(exact.mean())


def test_without_signal_the_network_is_left_alone_and_mpgd_goes_on() -> None:
    model, one = gaussian(SCHEDULES["flow"]), torch.ones((), dtype=torch.float64)
    x_t = noisy(model)
    assert float(shift(fl.energy(measured), model, x_t, one).abs().max()) == 0
    expected = torch.full_like(x_t, (SEEN - MEAN) / ERROR**2)
    close(shift(fl.energy(measured, through=False), model, x_t, one), expected, 1e-6)


def test_brightness_by_hand() -> None:
    """f = - d (mean - b)^2 / 2: every pixel moves by b - mean, all the way to the target at c_t = 1."""
    x_t = images()
    plain = call(steered("none", SPECS), x_t)[0].x0
    alpha, sigma = NETWORK.schedule.alpha_sigma(T)
    c = sigma**2 / (alpha**2 + sigma**2)
    guided = call(steered("energy(brightness(0.8), 2, through=False)", SPECS), x_t)[0].x0
    close(guided - plain, (2 * c * (0.6 - plain.mean((1, 2, 3), keepdim=True))).expand_as(plain))


def rgb(size: int = 4) -> Model:
    """Gaussian pictures [3, size, size] about mid grey."""
    return replace(toy_model(Gaussian(torch.zeros(3, size, size), 0.5), RectifiedFlow()), data_range=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [('color("red")', (1, -1, -1)), ("color(0.5, 1, 0.25)", (0, 1, -0.5)), ('color("#ff8000")', (1, 1 / 255, -1))],
)
def test_color_by_hand(text: str, wanted: tuple[float, ...]) -> None:
    model = rgb()
    x_t, (alpha, sigma) = noisy(model), model.schedule.alpha_sigma(T)
    plain = model.denoiser(x_t, T, model.encode([None] * N)).x0
    c = sigma**2 / (alpha**2 + sigma**2)
    term = to_guidance(f"energy({text}, through=False)").terms[0]
    expected = c * (torch.tensor(wanted, dtype=torch.float64)[:, None, None] - plain.mean((2, 3), keepdim=True))
    close(shift(term, model, x_t), expected.expand_as(x_t))


def test_match_pulls_inside_the_box_only() -> None:
    model = rgb()
    image = torch.rand(3, 4, 4, dtype=torch.float64) * 2 - 1
    x_t, (alpha, sigma) = noisy(model), model.schedule.alpha_sigma(T)
    plain = model.denoiser(x_t, T, model.encode([None] * N)).x0
    inside = torch.zeros(4, 4, dtype=torch.float64)
    inside[1:4, :2] = 1  # left half, lower three quarters
    term = to_guidance('energy(match("picture", [0.25, 0, 1, 0.5]), through=False)').terms[0]
    moved = shift(term, model, x_t, resources={"picture": image})
    close(moved, sigma**2 / (alpha**2 + sigma**2) * (image - plain) * inside)


def test_match_reads_a_file_scales_it_and_makes_it_grey(tmp_path) -> None:
    from PIL import Image

    path = tmp_path / "wide.png"
    picture = Image.new("RGB", (32, 16), (255, 0, 0))
    picture.paste((0, 0, 255), (16, 0, 32, 16))
    picture.save(path)
    guidance = to_guidance(f'energy(match("{path}"))')
    image = load_resources(guidance.resources(), NETWORK)[str(path)]
    assert image.shape == (3, 16, 32)
    grey = fit_image(image, torch.zeros(1, 1, 8, 8))  # half as large, the middle 8 of 16 columns
    assert grey.shape == (1, 8, 8)
    close(grey[0, :, :3], torch.full((8, 3), 2 * 0.299 - 1), 1e-5)
    close(grey[0, :, 5:], torch.full((8, 3), 2 * 0.114 - 1), 1e-5)


def test_label_is_the_classifiers_gradient_at_no_noise() -> None:
    x_t, clf, specs = images(), noisy_classifier(), [2, None, 3, 0, 1]
    plain = call(steered("none", specs), x_t)[0].x0
    alpha, sigma = NETWORK.schedule.alpha_sigma(T)
    leaf = plain.clone().requires_grad_()
    log_p = clf.log_prob(leaf, torch.zeros((), dtype=torch.float64))[torch.arange(N), [2, 0, 3, 0, 1]]
    keep = torch.tensor([1.0, 0, 1, 1, 1], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((log_p * keep).sum(), leaf)
    prediction, cost = call(steered('energy(label("clf"), 5, through=False)', specs), x_t)
    close(prediction.x0, plain + 5 * sigma**2 / (alpha**2 + sigma**2) * gradient)
    assert cost.rows == 2 * N


def test_the_conditional_branch_is_evaluated_once_for_any_number_of_scores() -> None:
    x_t = images()
    text = 'cfg(3) + energy(brightness(0.2)) + energy(label("clf"), 2) + energy(brightness(0.4), through=False)'
    together, cost = call(steered(text, SPECS), x_t)
    assert cost.rows == 3 * N
    plain = call(steered("none", SPECS), x_t)[0].x0
    parts = [call(steered(part, SPECS), x_t)[0].x0 - plain for part in text.split(" + ")]
    close(together.x0, plain + sum(parts))


def test_it_is_off_to_the_bit_and_works_under_no_grad_and_autocast() -> None:
    x_t = images()
    plain, one = call(steered("none", SPECS), x_t)
    for text in ("energy(brightness(0.2), 0)", "energy(brightness(0.2)).during(t=(0, 0.1))"):
        prediction, cost = call(steered(text, SPECS), x_t)
        assert torch.equal(prediction.x0, plain.x0)
        assert torch.equal(prediction.eps, plain.eps)
        assert cost == one
    outside = call(steered("energy(brightness(0.2))", SPECS), x_t)[0].x0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = call(steered("energy(brightness(0.2))", SPECS), x_t)[0].x0
    close(inside, outside, 0)


def test_a_score_that_wants_pixels_sees_what_the_decoder_makes() -> None:
    model = replace(gaussian(SCHEDULES["flow"]), decode=lambda x0: 2 * x0)
    x_t = noisy(model)

    def of_pixels(x0: Tensor, t: Tensor, condition) -> Tensor:
        return x0.sum(1)

    latent = shift(fl.energy(of_pixels, through=False), model, x_t)
    of_pixels.pixels = True  # type: ignore[attr-defined]
    close(shift(fl.energy(of_pixels, through=False), model, x_t), 2 * latent)


@pytest.mark.parametrize("options", ["7", "2.4, through=False"])
def test_sampling_moves_the_brightness_to_the_target(options: str) -> None:
    model = rgb()
    goal = 2 * 0.75 - 1
    run = sample(model, n=64, guidance=f"energy(brightness(0.75), {options})", steps=40)
    plain = sample(model, n=64, steps=40)
    assert abs(float(plain.x0.mean())) < 0.03
    assert float(run.x0.mean()) == pytest.approx(goal, abs=0.03)
    assert float(run.x0.mean((1, 2, 3)).std()) < 0.7 * float(plain.x0.mean((1, 2, 3)).std())
    rest = run.x0 - run.x0.mean((1, 2, 3), keepdim=True)
    before = plain.x0 - plain.x0.mean((1, 2, 3), keepdim=True)
    close(rest, before, 1e-4)  # the score only knows the mean, so nothing else moves


def test_a_function_prints_by_its_name_which_cannot_be_read_back() -> None:
    term = fl.energy(measured, 2, through=False)
    assert str(term) == "energy(<measured>, 2, through=False)"
    assert term == fl.energy(measured, 2, through=False)
    assert hash(term) == hash(fl.energy(measured, 2, through=False))
    with pytest.raises(UsageError, match="holds the Python function <measured>, which no text can give"):
        parse(str(term))
    run = sample(gaussian(), n=2, guidance=fl.energy(measured, [1, 2]), steps=2)
    assert run.provenance(1)["guidance"] == "energy(<measured>, [2])"
    assert run.provenance()["guidance"] == "energy(<measured>, [1, 2])"


@pytest.mark.parametrize(
    "text",
    [
        "energy(brightness(0.8))",
        'energy(color("red"), ramp(0, 4), through=False, clip=2.5)',
        "energy(color(1, 0.5, 0), 2, draws=4, spread=0.5)",
        'energy(match("a.png", [0, 0, 0.5, 1]), [1, 2])',
        'energy(label("runs/clf"), 4).during(sigma=(0.1, 5))',
    ],
)
def test_expressions_print_and_read_back(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("energy(0.8)", "expected a reward such as brightness"),
        ("energy(cfg(3))", "expected a reward such as brightness"),
        ("energy(brightness(1.2))", "expected target to be a number from 0 to 1, got 1.2"),
        ('energy(color("reed"))', "unknown colour 'reed'"),
        ("energy(color(1, 0))", "expected blue to be a number from 0 to 1, got None"),
        ('energy(color("red", 0, 0))', "a name alone or three numbers"),
        ('energy(match("a.png", [0, 0, 1]))', "expected box"),
        ('energy(match("a.png", [0, 0.5, 1, 0.5]))', "not empty"),
        ("energy(brightness(0.5), through=1)", "expected through to be True or False, got 1"),
        ("energy(brightness(0.5), clip=0)", "expected clip to be a positive number"),
        ("energy(brightness(0.5), draws=3)", "3 draws without a spread are all the same"),
        ("energy(brightness(0.5), draws=0, spread=1)", "draws to be an integer from 1 to 400"),
        ("energy(brightness(0.5), spread=-1)", "expected spread to be 0 or a positive number"),
        ("energy(brightness(0.5), True)", "cannot read 'True'"),
        ("energy(brightness(0.5), clip=True)", "cannot read 'True'"),
        ("brightness(0.5)", "not a guidance"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_what_does_not_suit_the_model_is_refused_before_the_first_step() -> None:
    def asked(x: Tensor, time: Tensor, condition) -> Tensor:
        raise AssertionError("no network before the door")

    grey = replace(network_model(), denoiser=NetworkDenoiser(asked, RectifiedFlow(), "v"))
    with pytest.raises(UsageError, match=r"needs RGB images, this model's are \[1, 8, 8\]; try brightness"):
        sample(grey, 1, guidance='energy(color("red"))')
    with pytest.raises(UsageError, match=r"is a reward of images, this model's samples are \[3\]"):
        sample(gaussian(), guidance="energy(brightness(0.5))")
    with pytest.raises(UsageError, match="steers towards the run's condition, but none was given"):
        sample(grey, guidance='energy(label("clf"))', resources={"clf": RESOURCES["clf"]})
    with pytest.raises(UsageError, match="cannot read image"):
        sample(grey, 1, guidance='energy(match("nowhere.png"))')
    with pytest.raises(UsageError, match="expected an image as a tensor"):
        sample(grey, 1, guidance='energy(match("x"))', resources={"x": torch.zeros(2, 2)})


def test_a_function_of_the_wrong_kind_is_told_so() -> None:
    x_t, model = noisy(gaussian()), gaussian()
    for wrong, message in (
        (lambda x0, t, condition: x0.sum(), r"\[5\], differentiable in x0, got \[\]"),
        (lambda x0, t, condition: x0.detach().sum(1), r"got \[5\] without a gradient"),
        (lambda x0, t, condition: 3.0, "got float"),
    ):
        with pytest.raises(UsageError, match=message):
            shift(fl.energy(wrong), model, x_t)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="draws noise, which needs seeds"):
        shift(fl.energy(measured, draws=2, spread=1), model, x_t)


def test_recurrence_in_a_run_costs_its_passes() -> None:
    model = replace(gaussian(), encode=encode_nothing, decode=identity)
    run = sample(model, n=2, guidance=fl.energy(measured, 0.1), sampler="ddim(recur=3)", steps=4)
    assert run.cost.rows == 2 * 4 * 3
    assert math.isfinite(float(run.x0.sum()))
