"""What a student is taught, against closed forms of the mixture and against the teacher's own steps."""

import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import Gaussian
from fairlead.guide.engine import GuidedDenoiser
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.dpmpp_3m import DPMpp3M
from fairlead.sample.grids import make_grid
from fairlead.sample.sampler import Sampler
from fairlead.sample.teacher import Teacher
from tests.guide.toy import LABELS, MIXTURE, MODEL, NETWORK, SPECS, N, close, images
from tests.sample.gaussian import no_noise

SCALED = Condition.of(label=LABELS, scale=torch.tensor([1.0, 2.0, 2.0, 3.5, 3.5]))
X = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def levels(t: Tensor, schedule: NoiseSchedule = MODEL.schedule) -> tuple[Tensor, Tensor]:
    """alpha and sigma, [n, 1]."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[:, None], sigma[:, None]


def test_each_sample_is_answered_at_its_own_time_and_scale() -> None:
    t = torch.tensor([0.2, 0.9, 0.2, 0.6, 0.2], dtype=torch.float64)
    found = Teacher.of(MODEL, "cfg({scale})", (1, 4)).answer(X, t, SCALED)
    close(found, MIXTURE.guided_denoise(X, *levels(t), LABELS, SCALED.values["scale"].double()), 1e-12)


def test_a_scale_that_is_not_kept_is_no_guidance_at_all() -> None:
    t = torch.full((N,), 0.5, dtype=torch.float64)
    mask = torch.tensor([True, False, True, False, True])
    found = Teacher.of(MODEL, "cfg({scale}) | rescale(0.7)", (1, 4))
    answer = found.answer(X, t, SCALED.drop(mask, ["scale"]))
    close(answer[mask], MIXTURE.denoise(X, *levels(t), LABELS)[mask], 1e-12)
    guided = [GuidedDenoiser.of(MODEL, f"cfg({w}) | rescale(0.7)", MODEL.encode(SPECS)) for w in (2, 3.5)]
    for i, denoiser in zip((1, 3), guided, strict=True):
        close(answer[i], denoiser(X, t[0], denoiser.condition).x0[i], 1e-12)


@pytest.mark.parametrize(
    "guidance",
    [
        "cfg(3)",
        "cfg(3) + pag(2) | rescale(0.7)",
        "cfg(ramp(1, 7)).during(t=(0.3, 0.8))",
        'cfg(2, negative="one") | threshold(0.9)',
        "cfg(levels({14: 1, 2: 3, 0.5: 5}))",
        "internal(2) + icg(1)",
    ],
)
def test_what_is_taught_is_the_guided_prediction_to_the_bit(guidance: str) -> None:
    x_t = images()
    t = torch.tensor([0.45, 0.1, 0.45, 0.9, 0.1], dtype=torch.float64)
    condition = NETWORK.encode([2, 0, None, 2, 1])
    found = Teacher.of(NETWORK, guidance).answer(x_t, t, condition)
    for time in t.unique():
        denoiser = GuidedDenoiser.of(NETWORK, guidance, condition)
        close(found[t == time], denoiser(x_t, time, condition).x0[t == time], 1e-12)


# --- fewer steps ----------------------------------------------------------------------------------------------------


def arrived(
    denoiser, x: Tensor, sampler: Sampler, times: Tensor, condition: Condition, schedule: NoiseSchedule
) -> Tensor:
    """Where a sampler ends."""
    for frame in sampler.frames(denoiser, x, times, schedule, condition, no_noise):
        x = frame.x_t
    return x


def in_parts(denoiser, x: Tensor, times: Tensor, each: int, condition: Condition, schedule: NoiseSchedule) -> Tensor:
    """Where the teacher ends, who begins anew in each of the student's steps."""
    for first in range(0, len(times) - 1, each):
        x = arrived(denoiser, x, DPMpp3M(), times[first : first + each + 1], condition, schedule)
    return x


@pytest.mark.parametrize("schedule", [vp_linear(), VPCosine(), RectifiedFlow()], ids=["table", "cosine", "flow"])
@pytest.mark.parametrize(("steps", "each"), [(4, 2), (1, 2), (2, 8), (5, 3)])
def test_the_students_steps_arrive_where_the_teachers_do(schedule: NoiseSchedule, steps: int, each: int) -> None:
    """A student that has learnt its lesson, in 1 / ``each`` of the steps (2202.00512, algorithm 2)."""
    model, (_, sigma) = toy_model(MIXTURE, schedule), schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
    teacher = Teacher.of(model, "cfg(2)", None, steps, each)
    assert torch.equal(teacher.times(make_grid("trailing", schedule, steps)[:-1]), teacher._times[:-1:each])

    def student(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = teacher.answer(x_t, t.expand(len(x_t)), condition)
        return Prediction.from_x0(x0, x_t, *schedule.alpha_sigma(t))

    condition = model.encode(SPECS)
    guided = GuidedDenoiser.of(model, "cfg(2)", condition)
    start, fine = X * sigma, make_grid("trailing", schedule, steps * each)
    taught = in_parts(guided, start, fine, each, condition, schedule)
    close(arrived(student, start, DDIM(), fine[::each], condition, schedule), taught, 1e-10)


def gaussian() -> Model:
    return toy_model(Gaussian(torch.tensor([0.7, -0.2]), torch.tensor([0.5, 0.1])), "vp_cosine")


def test_on_a_gaussian_what_a_student_of_one_step_is_taught_converges_to_the_end_of_the_path() -> None:
    """What is so many standard deviations off the mean at t = 1 is so at the end of the probability-flow ODE. The
    teacher's steps are off by less than twice as many of DDIM, and twice as many by less than half of that."""
    model = gaussian()
    schedule, condition, t = model.schedule, model.encode([None] * N), torch.ones(N, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t[0])
    mean, std = torch.tensor([0.7, -0.2]).double(), torch.tensor([0.5, 0.1]).double()
    end = mean + std * (X - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()

    def error(found: Tensor) -> float:
        return float((found - end).square().mean().sqrt())

    def ddim(steps: int) -> Tensor:
        return arrived(model.denoiser, X, DDIM(), make_grid("trailing", schedule, steps), condition, schedule)

    counts = (8, 16, 32, 64)
    errors = [error(Teacher.of(model, "none", None, 1, each).answer(X, t, condition)) for each in counts]
    assert all(2 * finer < coarser for coarser, finer in pairwise(errors)), errors
    assert all(found < error(ddim(2 * each)) for found, each in zip(errors, counts, strict=True))


def test_on_a_gaussian_a_linear_student_is_exact() -> None:
    """Fitted by least squares to its lessons, one affine map a time, it takes the teacher's path on other noise."""
    model, other = gaussian(), torch.randn(N, 2, dtype=torch.float64)
    condition, schedule = model.encode([None] * N), model.schedule
    for steps in (4, 1):
        teacher = Teacher.of(model, "none", None, steps, 8 // steps)
        maps: dict[float, tuple[Tensor, Tensor]] = {}
        for t in make_grid("trailing", schedule, steps)[:-1]:
            taught = teacher.answer(X, t.expand(N), condition)
            for_each = [
                torch.linalg.lstsq(torch.stack([X[:, k], torch.ones(N).double()], 1), taught[:, k]) for k in (0, 1)
            ]
            fitted = torch.stack([fit.solution for fit in for_each], 1)
            maps[float(t)] = fitted[0], fitted[1]

        def student(x_t: Tensor, t: Tensor, condition: Condition, maps=maps) -> Prediction:
            slope, offset = maps[float(t)]
            return Prediction.from_x0(slope * x_t + offset, x_t, *schedule.alpha_sigma(t))

        fine = make_grid("trailing", schedule, 8)
        close(
            arrived(student, other, DDIM(), fine[:: 8 // steps], condition, schedule),
            in_parts(model.denoiser, other, fine, 8 // steps, condition, schedule),
            1e-9,
        )


# --- what cannot be taught ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ("cfg(3) | history(0.5)", "cfg(3) | history(0.5) remembers earlier steps, which a student cannot"),
        ("apg(cfg(6), momentum=-0.5)", "remembers earlier steps"),
        ("cached(cfg(3))", "cached(cfg(3)) cannot be taught: cached(cfg(3)) counts the sampler's steps"),
        ("adaptive(cfg(3))", "remembers earlier steps"),
        ("cfgpp(0.6)", "cfgpp(0.6) re-noises with another prediction"),
        ("cads(0.3) + cfg(2)", "draws noise, which needs seeds"),
        ('cfg(ramp(1, 3, by="progress"))', "needs the sampler's grid"),
        ('compose({"two": 4, "one": -2})', "replaces the condition"),
        ("none", "nothing to teach"),
        ("distilled(9)", "the student learned scales from -1 to 8, got 9"),
    ],
)
def test_a_guidance_that_cannot_be_taught_is_refused_in_one_line(guidance: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        Teacher.of(NETWORK, guidance)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Teacher.of(MODEL, "cfg({scale})"), "a guidance with {scale} and a range go together"),
        (lambda: Teacher.of(MODEL, "cfg(3)", (1, 8)), "a guidance with {scale} and a range go together"),
        (lambda: Teacher.of(MODEL, "cfg({scale})", (8, 1)), "low end below its high end"),
        (lambda: Teacher.of(MODEL, "cfg(3)", None, 7, 150), "expected an integer from 1 to 1000"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make()
