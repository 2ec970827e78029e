"""Runs that begin at images: what is kept, what is made anew, what it costs, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import Gaussian, GaussianMixture
from fairlead.models.toy import toy_model
from fairlead.sample.ddim import DDIM
from fairlead.sample.edit.repaint import Replacing
from fairlead.sample.edit.start import times_from
from fairlead.sample.grids import make_grid
from fairlead.sample.noise import NoiseStream
from fairlead.sample.run import Plan, sample
from fairlead.sample.sampler import Sampler, parse_sampler
from fairlead.sample.sampling import Sampling
from tests.sample.test_run import MODEL

TOY = toy_model(GaussianMixture.ring(), RectifiedFlow())
IMAGES = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
HALF = torch.zeros(8, 8, dtype=torch.bool)
HALF[:, 4:] = True
SEEDS = (5, 9, 2)


@pytest.mark.parametrize("schedule", [VPCosine(), RectifiedFlow(), VE(), vp_linear()], ids=lambda s: s.config()["name"])
@pytest.mark.parametrize("expression", ["ddim", "dpmpp_2m", "heun"])
def test_noised_data_are_sampled_back_to_data(schedule: NoiseSchedule, expression: str) -> None:
    """x0 ~ p0 noised to any time is of the marginal there, from which exact sampling gives p0 again: mean and standard
    deviation of 2,000 within 4 standard errors and the bias of 60 steps."""
    toy = Gaussian(torch.tensor([0.5, -1.0]), 0.6)
    x0 = toy.sample(2000, seed=3)
    run = sample(
        toy_model(toy, schedule), start=x0, strength=0.7, sampler=expression, steps=60, seeds=10, batch_size=2000
    )
    error = 0.6 / 2000**0.5
    assert float((run.x0.mean(0) - toy.mean).abs().max()) < 4 * error + 0.01
    assert float((run.x0.std(0) - 0.6).abs().max()) < 4 * error + 0.02
    assert float((run.x0 - x0).abs().max()) > 0.1  # and they are others


def test_it_begins_at_the_image_with_the_noise_of_the_seed() -> None:
    plan = Plan.of(MODEL, "two", sampling=Sampling(steps=4), seeds=SEEDS, start=_start(IMAGES, 0.5))
    alpha, sigma = MODEL.schedule.alpha_sigma(torch.tensor(0.5, dtype=torch.float64))
    noise = NoiseStream(SEEDS, MODEL.shape)
    assert plan.start is not None
    found = plan.start.x_t(slice(0, 3), noise, float(alpha), float(sigma))
    expected = float(alpha) * (IMAGES.float() / 127.5 - 1) + float(sigma) * noise.start()
    assert torch.equal(found, expected)
    assert plan.times.tolist() == [0.5, 0.25, 0.0]


def _start(images: Tensor, strength: float, **more: Any) -> Any:
    from fairlead.sample.edit.start import image_start

    return image_start(MODEL, images, strength, **more)


def test_strength_one_without_signal_is_sampling() -> None:
    """The model's schedule ends in pure noise, so the image does not enter."""
    plain = sample(MODEL, "two", seeds=SEEDS, steps=3)
    assert torch.equal(sample(MODEL, "two", seeds=SEEDS, steps=3, start=IMAGES, strength=1).x0, plain.x0)


@pytest.mark.parametrize(
    ("schedule", "grid", "strength", "expected"),
    [
        (RectifiedFlow(), "trailing", 0.6, [0.6, 0.4, 0.2, 0.0]),
        (RectifiedFlow(), "trailing", 0.5, [0.5, 0.4, 0.2, 0.0]),
        (RectifiedFlow(), "trailing", 1.0, [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]),
        (RectifiedFlow(), "trailing", 1e-6, [1e-6, 0.0]),
        (vp_linear(), "trailing", 0.6004, [0.6, 0.4, 0.2, 0.0]),
        (vp_linear(), "trailing", 1e-6, [0.001, 0.0]),
        (vp_linear(), "leading", 1.0, [0.801, 0.601, 0.401, 0.201, 0.001, 0.0]),
    ],
)
def test_the_grid_below_a_strength(schedule: NoiseSchedule, grid: str, strength: float, expected: list[float]) -> None:
    times = times_from(make_grid(grid, schedule, 5), strength, schedule)
    assert times.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m_sde", "dpmpp_3m", "heun"])
@pytest.mark.parametrize("mask", [None, HALF])
def test_an_image_depends_on_its_own_seed_and_start_only(sampler: str, mask: Tensor | None) -> None:
    options: dict[str, Any] = {"steps": 4, "sampler": sampler, "guidance": "cfg(2)", "mask": mask}
    options["strength"] = 0.7
    together = sample(MODEL, ["two", "zero", "one"], seeds=SEEDS, start=IMAGES, **options).x0
    alone = sample(MODEL, "zero", seeds=9, start=IMAGES[1:2], **options).x0
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)
    order = [2, 0, 1]
    conds, seeds = ["one", "two", "zero"], [SEEDS[i] for i in order]
    torch.testing.assert_close(sample(MODEL, conds, seeds=seeds, start=IMAGES[order], **options).x0, together[order])
    parts = sample(MODEL, ["two", "zero", "one"], seeds=SEEDS, start=IMAGES, batch_size=2, **options).x0
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)


def test_one_image_starts_all_samples() -> None:
    run = sample(MODEL, "two", n=3, start=IMAGES[:1], steps=2)
    each = sample(MODEL, "two", n=3, start=IMAGES[:1].expand(3, -1, -1, -1), steps=2)
    assert torch.equal(run.x0, each.x0)
    assert run.x0[0].ne(run.x0[1]).any()


def test_what_is_not_marked_stays_to_the_bit() -> None:
    run = sample(MODEL, "two", seeds=SEEDS, start=IMAGES, mask=HALF, steps=3, resample=2)
    assert run.images is not None
    assert torch.equal(run.images[..., :4], IMAGES[..., :4])
    assert run.images[..., 4:].ne(IMAGES[..., 4:]).any()
    assert run.settings["start"]["resample"] == 2


def test_files_and_a_folder_are_read_as_images(tmp_path: Path) -> None:
    for i, image in enumerate(IMAGES):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i}.png")
    expected = sample(MODEL, "two", n=3, start=IMAGES, mask=HALF, steps=2).x0
    white = tmp_path / "masks" / "white.png"
    clear = tmp_path / "masks" / "clear.png"
    white.parent.mkdir()
    Image.fromarray((HALF * 255).to(torch.uint8).numpy()).save(white)
    alpha = torch.where(HALF, 0, 255).to(torch.uint8)
    Image.fromarray(torch.stack([alpha * 0 + 40] * 3 + [alpha], -1).numpy()).save(clear)
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    for start, mask in ((tmp_path, white), (files, clear)):
        assert torch.equal(sample(MODEL, "two", n=3, start=start, mask=mask, steps=2).x0, expected)


def test_rows_are_counted() -> None:
    """Steps below the strength, times how often each is taken, times rows per step."""
    with counting() as cost:
        run = sample(MODEL, "two", seeds=SEEDS, start=IMAGES, mask=HALF, steps=5, strength=0.6, resample=3,
                     guidance="cfg(2)")  # fmt: skip
    assert cost.rows == run.cost.rows == 3 * 3 * 3 * 2


class Correlated:
    """N(0, [[1, r], [r, 1]]) in two dimensions, exactly."""

    def __init__(self, schedule: NoiseSchedule, r: float) -> None:
        self.schedule, self.covariance = schedule, torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = self.schedule.alpha_sigma(t)
        gain = (
            alpha
            * self.covariance
            @ torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
        )
        return Prediction.from_x0(x_t @ gain.T, x_t, alpha, sigma)


def filled(resample: int, known: float, r: float) -> tuple[float, float]:
    """Mean and variance of the second coordinate given the first, no Monte Carlo: everything is affine in the draws.

    Row 0 has no noise, and row 1 + k the k-th draw's impulse in its coordinate."""
    schedule, times = VPCosine(), make_grid("log_snr", VPCosine(), 40)
    asked: list[int] = []

    def drawn(number: int) -> Tensor:
        asked.append(number)
        return torch.zeros(rows, 2, dtype=torch.float64)

    def impulse(number: int) -> Tensor:
        draw = torch.zeros(rows, 2, dtype=torch.float64)
        for coordinate in range(2):
            draw[1 + 2 * order[number] + coordinate, coordinate] = 1
        return draw

    inner: Sampler = DDIM(eta=1.0)
    rows, order = 1, {}
    for noise in (drawn, impulse):
        start = torch.zeros(rows, 2, dtype=torch.float64)
        if noise is impulse:
            start[-2, 0] = start[-1, 1] = 1
        x0 = torch.zeros(rows, 2, dtype=torch.float64)
        x0[:, 0] = known
        sampler = Replacing(inner, x0, torch.tensor([[False, True]]), resample)
        frames = sampler.frames(Correlated(schedule, r), start, times, schedule, Condition(rows), noise)
        *_, last = frames
        order = {number: k for k, number in enumerate(dict.fromkeys(asked))}
        rows = 1 + 2 * len(order) + 2
    out = last.x_t[:, 1]
    return float(out[0]), float((out[1:] - out[0]).square().sum())


def test_resampling_brings_both_parts_to_agree() -> None:
    """The second coordinate given the first is N(r x, 1 - r^2). One pass misses it, and resampling closes in."""
    known, r = 1.5, 0.9
    errors = []
    for resample in (1, 4, 16):
        mean, variance = filled(resample, known, r)
        errors.append((abs(mean - r * known), abs(variance - (1 - r**2))))
    means, variances = zip(*errors, strict=True)
    assert means[0] > 0.1
    assert means[0] > 2 * means[1] > 4 * means[2]
    assert means[2] < 0.05
    assert variances[2] < 0.05


@pytest.mark.parametrize("expression", ["ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "heun", "euler"])
def test_a_part_that_is_independent_is_sampled_as_without_a_mask(expression: str) -> None:
    """Of a Gaussian whose coordinates are independent, the marked one is what the sampler alone gives it: replacing the
    other changes nothing, at one pass to the bit of rounding."""
    toy = toy_model(Gaussian(torch.zeros(2), 0.7), RectifiedFlow())
    x0 = torch.tensor([[0.3, 0.1], [-0.4, 0.2]])
    options: dict[str, Any] = {"sampler": expression, "steps": 6, "seeds": 4}
    masked = sample(toy, start=x0, strength=1, mask=torch.tensor([False, True]), resample=1, **options)
    plain = sample(toy, n=2, **options)
    assert torch.equal(masked.x0[:, 0], x0[:, 0])
    torch.testing.assert_close(masked.x0[:, 1], plain.x0[:, 1])


def test_a_multistep_sampler_resamples_from_the_memory_before_the_step() -> None:
    """With a mask that marks all (given past the check), resampling a step twice is taking it, noising back and taking
    it again with the history it had at first; its last step is then that of a run that has the noised state."""
    schedule, times = VPCosine(), make_grid("trailing", VPCosine(), 4)
    sampler = Replacing(parse_sampler("dpmpp_2m"), torch.zeros(1, 2), torch.tensor([[True, True]]), 2)
    asked: list[tuple[float, float]] = []

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        asked.append((float(t), float(x_t[0, 0])))
        alpha, sigma = schedule.alpha_sigma(t)
        return Prediction.from_x0(torch.tanh(x_t), x_t, alpha, sigma)

    noise = NoiseStream((1,), (2,))
    frames = list(sampler.frames(denoise, noise.start(), times, schedule, Condition(1), noise))
    plain = parse_sampler("dpmpp_2m")
    states = [x for _, x in asked]
    assert [t for t, _ in asked] == [t for t in times[:-1].tolist() for _ in range(2)]
    # the second time that step 2 is taken, its history is the last prediction of step 1
    from fairlead.sample.sampler import GridLevels

    memory = plain.begin(GridLevels.of(schedule, times, noise.start()))
    memory.x0_old = torch.full((1, 2), states[3]).tanh()
    expected, _ = plain.step(
        2, torch.full((1, 2), states[5]), lambda x, i: denoise(x, times[i], Condition(1)), noise, memory
    )
    assert float(frames[2].x_t[0, 0]) == pytest.approx(float(expected[0, 0]), abs=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 0.5}, "strength: it is of images"),
        ({"mask": HALF}, "mask: it is of images"),
        ({"start": IMAGES, "resample": 2}, "resample=2: .* pass mask="),
        ({"start": IMAGES, "mask": HALF, "resample": 0}, "resample: expected"),
        ({"start": IMAGES, "strength": 0}, "strength: expected a number above 0"),
        ({"start": IMAGES, "strength": 1.01}, "strength: expected"),
        ({"start": IMAGES, "strength": True}, "strength: expected"),
        ({"start": IMAGES, "strength": float("nan")}, "strength: expected"),
        ({"start": IMAGES[..., :7]}, r"start: expected images \[n, 1, 8, 8\] .*got \[3, 1, 8, 7\]"),
        ({"start": IMAGES.expand(-1, 3, -1, -1)}, "start: expected images"),
        ({"start": IMAGES[:0]}, "start: expected images"),
        ({"start": "photo.png"}, "start: no file or folder 'photo.png'"),
        ({"start": ["a.png", "b.png"]}, "start: no file 'a.png'"),
        ({"start": IMAGES, "mask": "mask.png"}, "mask mask.png: cannot be read"),
        ({"start": IMAGES.float()}, r"floating images in \[-1, 1\]"),
        ({"start": IMAGES.long()}, "uint8, or finite floating"),
        ({"start": IMAGES.float() * torch.nan}, "not finite"),
        ({"start": IMAGES, "mask": HALF[:7]}, "mask: expected 8x8"),
        ({"start": IMAGES, "mask": HALF.expand(2, 1, 8, 8)}, "for each of 3, got"),
        ({"start": IMAGES, "mask": HALF.float() * 0.5}, "mask: expected true or 1"),
        ({"start": IMAGES, "mask": torch.ones(8, 8)}, "the whole image"),
        ({"start": IMAGES, "mask": torch.zeros(8, 8)}, "nothing is to be made anew"),
        ({"start": IMAGES, "n": 2}, "disagree: n gives 2, start gives 3"),
        ({"start": IMAGES, "cond": ["two", "one"]}, "cond gives 2, start gives 3"),
    ],
)
def test_what_cannot_be_started_is_one_line_before_any_work(given: dict[str, Any], message: str) -> None:
    def never(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        raise AssertionError("the network was called")

    with pytest.raises(UsageError, match=message):
        sample(replace(MODEL, denoiser=never), **given)
