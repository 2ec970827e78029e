"""CFG++: guided denoising, unguided re-noising."""

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.denoiser import at_step
from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, RectifiedFlow, VPCosine, vp_linear
from fairlead.guide.expression import parse
from fairlead.guide.methods.cfg import CFG
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.dpmpp import DPMpp2M
from fairlead.sample.euler import Euler
from fairlead.sample.grids import trailing
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Sampling
from tests.guide.toy import LABELS, MIXTURE, MODEL, SCHEDULE, SPECS, N, T, call, close, exact, guided, null, points

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}
SCALES = [0.0, 0.3, 0.8, 1.0]


def eps_of(x0: Tensor, x_t: Tensor, t: Tensor, schedule=SCHEDULE) -> Tensor:
    alpha, sigma = schedule.alpha_sigma(t)
    eps: Tensor = (x_t - alpha * x0) / sigma
    return eps


def step(sampler: Sampler, denoiser, x_t: Tensor, times: Tensor, i: int, schedule=SCHEDULE) -> Tensor:
    """The i-th step of a grid alone."""

    def pinned(x, t, condition):
        return at_step(denoiser, i)(x, t, condition)

    (frame,) = sampler.frames(pinned, x_t, times[i : i + 2], schedule, denoiser.condition, None)  # type: ignore[arg-type]
    return frame.x_t


@pytest.mark.parametrize("scale", SCALES)
def test_a_prediction(scale: float) -> None:
    """x0 is guided, eps is that of the unconditional prediction."""
    x_t = points()
    prediction, cost = call(guided(f"cfgpp({scale})"), x_t)
    unconditional = exact(x_t, None)
    close(prediction.x0, unconditional + scale * (exact(x_t, LABELS) - unconditional))
    close(prediction.eps, eps_of(unconditional, x_t, T))
    assert cost.rows == (N if scale == 0 else 2 * N)


def test_scale_0_is_the_unconditional_model_and_scale_1_is_not_off() -> None:
    x_t = points()
    plain = MODEL.denoiser(x_t, T, null())
    prediction, _ = call(guided("cfgpp(0)"), x_t)
    assert torch.equal(prediction.x0, plain.x0)
    assert torch.equal(prediction.eps, plain.eps)
    one, _ = call(guided("cfgpp(1)"), x_t)
    assert torch.equal(one.x0, MODEL.denoiser(x_t, T, MODEL.encode(SPECS)).x0)
    close(one.eps, plain.eps, 1e-12)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("scale", SCALES)
def test_ddim_by_hand(label: str, scale: float) -> None:
    """x' = alpha' (D_u + lambda Delta) + sigma' eps_u at every step of a run."""
    schedule = SCHEDULES[label]
    times = trailing(schedule, 5)
    denoiser = guided(f"cfgpp({scale})", model=toy_model(MIXTURE, schedule), times=times)
    start = points(schedule, times[0])
    x_t = start
    for i, frame in enumerate(DDIM().frames(denoiser, start, times, schedule, denoiser.condition, None)):  # type: ignore[arg-type]
        alpha, sigma = schedule.alpha_sigma(times[i + 1])
        unconditional = exact(x_t, None, times[i], schedule)
        conditional = exact(x_t, LABELS, times[i], schedule)
        eps = eps_of(unconditional, x_t, times[i], schedule)
        x_t = alpha * (unconditional + scale * (conditional - unconditional)) + sigma * eps
        close(frame.x_t, x_t)


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("scale", SCALES)
def test_a_ddim_step_is_a_step_of_cfg_whose_scale_knows_the_next_point(label: str, scale: float) -> None:
    """w = lambda / (1 - rho), rho = (sigma' / alpha') / (sigma / alpha); CFG's step by DDIM and by Euler."""
    schedule = SCHEDULES[label]
    model, times = toy_model(MIXTURE, schedule), trailing(schedule, 6)
    ratio = schedule.ratio(times)
    plus = guided(f"cfgpp({scale})", model=model, times=times)
    for i in range(6):
        x_t = points(schedule, times[i])
        weight = scale / (1 - float(ratio[i + 1] / ratio[i]))
        expected = step(DDIM(), plus, x_t, times, i, schedule)
        for sampler in (DDIM(), Euler()):
            cfg = guided(CFG(weight), model=model, times=times)
            close(step(sampler, cfg, x_t, times, i, schedule), expected)


def test_in_eulers_field_it_would_be_cfg_of_a_scale_below_1() -> None:
    """Why ``fl.sample`` refuses euler and heun: z' = z + (tau' - tau)(eps_u - D) is CFG of scale lambda tau."""
    times = trailing(SCHEDULE, 6)
    plus = guided("cfgpp(0.8)", times=times)
    for i in range(6):
        x_t = points(SCHEDULE, times[i])
        alpha, sigma = SCHEDULE.alpha_sigma(times[i])
        cfg = guided(CFG(0.8 * float(sigma / (alpha + sigma))), times=times)
        close(step(Euler(), plus, x_t, times, i), step(DDIM(), cfg, x_t, times, i))


def test_dpmpp_2m_by_hand() -> None:
    """Two steps: x1 = alpha1 D(x) + sigma1 eps_u(x), x2 = alpha2 (D(x1) + (1 - e^-h) M) + sigma2 eps_u(x1) with
    M = (D(x1) - D(x)) h / (2 h_old)."""
    times = torch.tensor([0.9, 0.6, 0.35], dtype=torch.float64)
    denoiser, start = guided("cfgpp(0.6)", times=times), points(SCHEDULE, times[0])
    frames = list(DPMpp2M().frames(denoiser, start, times, SCHEDULE, denoiser.condition, None))  # type: ignore[arg-type]
    alpha, sigma = SCHEDULE.alpha_sigma(times)
    h_old, h = (SCHEDULE.log_snr(times).diff() / 2).unbind()

    def guess(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        unconditional = exact(x_t, None, t)
        return unconditional + 0.6 * (exact(x_t, LABELS, t) - unconditional), eps_of(unconditional, x_t, t)

    first, eps = guess(start, times[0])
    x_1 = alpha[1] * first + sigma[1] * eps
    close(frames[0].x_t, x_1)
    second, eps = guess(x_1, times[1])
    correction = (1 - torch.exp(-h)) * (second - first) * h / (2 * h_old)
    close(frames[1].x_t, alpha[2] * (second + correction) + sigma[2] * eps)


def test_a_finisher_changes_x0_and_not_what_renoises() -> None:
    x_t = points()
    prediction, _ = call(guided("cfgpp(0.6) | clip()", data_range=(-0.5, 0.5)), x_t)
    unconditional = exact(x_t, None)
    close(prediction.x0, (unconditional + 0.6 * (exact(x_t, LABELS) - unconditional)).clamp(-0.5, 0.5))
    close(prediction.eps, eps_of(unconditional, x_t, T))


def test_in_an_interval() -> None:
    x_t = points()
    plain = MODEL.denoiser(x_t, T, MODEL.encode(SPECS))
    outside, cost = call(guided("cfgpp(0.6).during(t=(0.5, 1))"), x_t)
    assert torch.equal(outside.eps, plain.eps)
    assert cost.rows == N
    inside, _ = call(guided("cfgpp(0.6).during(t=(0, 0.5))"), x_t)
    close(inside.eps, eps_of(exact(x_t, None), x_t, T))


def test_two_of_them_only_in_separate_intervals() -> None:
    times = trailing(SCHEDULE, 6)
    with pytest.raises(UsageError, match="two methods re-noise in the same step"):
        guided("cfgpp(0.6) + cfgpp(0.3).during(t=(0, 0.4))", times=times)
    x_t = points()
    two = guided("cfgpp(0.6).during(t=(0.4, 1)) + cfgpp(0.3).during(t=(0, 0.4))", times=times)
    at_04 = two.at(int((times > 0.45).sum()) - 1)(x_t, T, two.condition)
    close(at_04.x0, call(guided("cfgpp(0.6)"), x_t)[0].x0)


@pytest.mark.parametrize("sampler", ["ddpm", "euler", "heun"])
@pytest.mark.parametrize("guidance", ["cfgpp(0.6)", "cfg(2) + cfgpp(0.6).during(t=(0, 0.5))"])
def test_samplers_that_do_not_renoise_with_eps_are_refused(sampler: str, guidance: str) -> None:
    with pytest.raises(UsageError, match=rf"^cfgpp\(0.6\).* which sampler '{sampler}' cannot do: take ddim"):
        Plan.of(MODEL, "1", guidance, Sampling(sampler))
    Plan.of(MODEL, "1", "cfg(2)", Sampling(sampler))


@pytest.mark.parametrize("sampler", ["ddim", "ddim(eta=1)", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m"])
def test_a_run_of_scale_0_is_the_unconditional_run(sampler: str) -> None:
    run = fl.sample(MODEL, "1", guidance="cfgpp(0)", n=3, sampler=sampler, steps=4)
    assert torch.equal(run.x0, fl.sample(MODEL, guidance="none", n=3, sampler=sampler, steps=4).x0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfgpp(4)", "from 0 to 1, such as 0.6, got 4; scales above 1 are for cfg"),
        ("cfgpp([0.5, -0.1])", "got -0.1"),
        ("apg(cfgpp(0.6))", "wraps one method of two branches"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_a_schedule_that_leaves_the_range_is_refused_where_it_does() -> None:
    x_t = points()
    with pytest.raises(UsageError, match=r"got 2\.2;"):
        call(guided("cfgpp(ramp(0, 4))"), x_t)
    close(call(guided("cfgpp(ramp(0, 1))"), x_t)[0].x0, call(guided("cfgpp(0.55)"), x_t)[0].x0)
