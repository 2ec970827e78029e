"""Step by step the same numbers as diffusers' schedulers, on the same grid, network and noise.

Each scheduler drives its own trajectory; ours is compared frame by frame. diffusers keeps its tables in float32, so
with its own table the bound is some 10 float32 roundings; with our float64 table put into the scheduler (DDIM, DDPM)
it is that of float64. DPMSolverMultistepScheduler casts the sample to float32 in every step.
"""

import diffusers
import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.schedule import TableSchedule, vp_linear
from fairlead.sample.ddim import DDIM
from fairlead.sample.ddpm import DDPM
from fairlead.sample.dpmpp import DPMpp2M, DPMpp2MSDE
from fairlead.sample.grids import make_grid
from fairlead.sample.sampler import Sampler
from tests.sample.gaussian import run

SHAPE = (3, 2, 4, 4)


def network(x: Tensor, k: Tensor, condition: Condition) -> Tensor:
    """Some smooth nonlinear eps of (x, k), bounded so that x0 stays of the order of x at every level."""
    mixed = x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, -2)
    return 0.9 * torch.tanh(mixed) + 0.1 * torch.sin(3 * mixed + k.to(x).reshape(-1, 1, 1, 1) / 200)


def seeded(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + step)


def noise(step: int) -> Tensor:
    """What a scheduler given ``seeded(step)`` draws."""
    return torch.randn(SHAPE, generator=seeded(step), dtype=torch.float64)


def our_states(sampler: Sampler, schedule: TableSchedule, times: Tensor, x: Tensor) -> list[Tensor]:
    denoiser = NetworkDenoiser(network, schedule, "eps")
    return [frame.x_t for frame in run(sampler, denoiser, x, times, schedule, noise)]


def their_states(scheduler, x: Tensor, **step_arguments) -> list[Tensor]:
    states = []
    for i, k in enumerate(scheduler.timesteps):
        extra = {name: make(i) for name, make in step_arguments.items()}
        output = network(x, k.expand(len(x)), Condition(len(x)))
        x = scheduler.step(output, k, x, **extra).prev_sample
        states.append(x)
    return states


def betas(schedule: TableSchedule) -> list[float]:
    abar = torch.tensor([1.0, *schedule.alphas_cumprod], dtype=torch.float64)
    return (1 - abar[1:] / abar[:-1]).tolist()


def build(scheduler_type, schedule: TableSchedule, times: Tensor, exact_table: bool = False, **config):
    """The scheduler with our betas on our grid."""
    size = schedule.table_size
    scheduler = scheduler_type(num_train_timesteps=size, trained_betas=betas(schedule), **config)
    if exact_table:
        scheduler.alphas_cumprod = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    indices = (times[:-1] * size - 1).round().long().tolist()
    if scheduler_type is diffusers.DDIMScheduler:
        scheduler.set_timesteps(len(indices))
        assert scheduler.timesteps.tolist() == indices
    else:
        scheduler.set_timesteps(timesteps=indices)
    return scheduler


def assert_same_trajectory(ours: list[Tensor], theirs: list[Tensor], relative: float) -> None:
    """Every frame within ``relative`` of its largest element."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.double(), rtol=0, atol=relative * float(a.abs().max()))


TABLES = pytest.mark.parametrize(("exact_table", "relative"), [(True, 1e-11), (False, 1e-6)])


@TABLES
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("grid", "size", "steps"),
    [
        ("leading", 1000, 20),
        ("leading", 1000, 7),
        ("trailing", 1000, 20),
        ("trailing", 1000, 1),
        ("linspace", 40, 40),
    ],
)
def test_ddim(grid: str, size: int, steps: int, eta: float, exact_table: bool, relative: float) -> None:
    """diffusers steps to k - T // N instead of the next k of its list. The two coincide under leading, under trailing
    where N divides T, and under linspace for N = T only: those are the cases here."""
    schedule, x = vp_linear(size), noise(-1)
    times = make_grid(grid, schedule, steps)
    scheduler = build(diffusers.DDIMScheduler, schedule, times, exact_table, timestep_spacing=grid, clip_sample=False)
    theirs = their_states(scheduler, x, eta=lambda i: eta, variance_noise=lambda i: noise(i) if eta else None)
    assert_same_trajectory(our_states(DDIM(eta), schedule, times, x), theirs, relative)


@pytest.mark.parametrize(("grid", "steps"), [("linspace", 20), ("trailing", 7)])
def test_ddim_reads_the_previous_time_where_diffusers_guesses_it(grid: str, steps: int) -> None:
    """Off those cases diffusers' x is at the level of k - T // N while the next evaluation is at another k. A step of
    ours to the time it guesses is its step; a step to the grid's time is not."""
    schedule, x = vp_linear(), noise(-1)
    times = make_grid(grid, schedule, steps)
    scheduler = build(diffusers.DDIMScheduler, schedule, times, True, timestep_spacing=grid, clip_sample=False)
    theirs = their_states(scheduler, x)[0]
    guessed = torch.stack([times[0], times[0] - (1000 // steps) / 1000])
    assert_same_trajectory(our_states(DDIM(), schedule, guessed, x), [theirs], 1e-12)
    assert float((our_states(DDIM(), schedule, times, x)[0] - theirs).abs().max()) > 1e-4


@TABLES
@pytest.mark.parametrize(("grid", "steps"), [("trailing", 1000), ("trailing", 30), ("leading", 20), ("linspace", 17)])
def test_ddpm(grid: str, steps: int, exact_table: bool, relative: float) -> None:
    """diffusers' DDPM reads the previous time from its list, so every grid compares. Its variance is clamped to 1e-20:
    a last step from k > 0 carries noise of 1e-10 that ours does not. Its float32 1 - a / a' cancels to three digits
    where all 1000 steps are taken, hence the wider bound there."""
    relative = 1e-4 if steps == 1000 and not exact_table else relative
    schedule, x = vp_linear(), noise(-1)
    times = make_grid(grid, schedule, steps)
    scheduler = build(
        diffusers.DDPMScheduler, schedule, times, exact_table, clip_sample=False, variance_type="fixed_small"
    )
    ours = our_states(DDPM(), schedule, times, x)
    assert_same_trajectory(ours, their_states(scheduler, x, generator=seeded), relative)


@pytest.mark.parametrize(("sampler", "algorithm"), [(DPMpp2M(), "dpmsolver++"), (DPMpp2MSDE(), "sde-dpmsolver++")])
@pytest.mark.parametrize(("grid", "steps"), [("trailing", 20), ("trailing", 7), ("leading", 12), ("linspace", 30)])
def test_dpm_solver(sampler: Sampler, algorithm: str, grid: str, steps: int) -> None:
    """Last step first order, because final_sigmas_type is zero, at any number of steps. The grid is handed over: its
    own leading and linspace spacings are those of N + 1 points without the last."""
    schedule, x = vp_linear(), noise(-1)
    times = make_grid(grid, schedule, steps)
    scheduler = build(
        diffusers.DPMSolverMultistepScheduler,
        schedule,
        times,
        algorithm_type=algorithm,
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    theirs = their_states(scheduler, x, variance_noise=noise)
    assert_same_trajectory(our_states(sampler, schedule, times, x), theirs, 2e-6)
