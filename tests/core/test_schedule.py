"""Schedules: exact ends, one monotone log-SNR with an inverse, the tables and formulas of their papers."""

import json
import math

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.core.schedule import (
    VE,
    NoiseSchedule,
    RectifiedFlow,
    TableSchedule,
    VPCosine,
    schedule_from_config,
    vp_linear,
    vp_scaled_linear,
)
from tests.sample.gaussian import zero_terminal_table

EXAMPLES: dict[str, list[NoiseSchedule]] = {
    "vp_linear": [vp_linear(), vp_linear(50)],
    "vp_scaled_linear": [vp_scaled_linear(), vp_scaled_linear(30)],
    "vp_cosine": [VPCosine(), VPCosine(s=0.02, log_snr_min=-9), VPCosine(log_snr_min=-math.inf)],
    "flow": [RectifiedFlow(), RectifiedFlow(shift=3.0), RectifiedFlow(shift=0.5)],
    "ve": [VE(), VE(sigma_max=20, rho=3)],
    "table": [TableSchedule((0.9, 0.5, 0.1)), zero_terminal_table(), TableSchedule((0.5, 0.0))],
}
EVERY = [pytest.param(s, id=f"{name}{i}") for name, group in EXAMPLES.items() for i, s in enumerate(group)]
VARIANCE_PRESERVING = ("vp_linear", "vp_scaled_linear", "vp_cosine", "table")
TIMES = torch.linspace(0, 1, 4001, dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_every_registered_schedule_has_an_example_here() -> None:
    assert list(EXAMPLES) == names("schedule"), "add an example of the new schedule to EXAMPLES"


@pytest.mark.parametrize("schedule", EVERY)
def test_ends(schedule: NoiseSchedule) -> None:
    alpha, sigma = schedule.alpha_sigma(TIMES)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert float(alpha[0]) == 1.0
    assert float(sigma[0]) == 0.0
    assert schedule.zero_terminal_snr == (float(alpha[-1]) == 0.0)
    assert float(schedule.log_snr(TIMES)[0]) == math.inf
    if schedule.zero_terminal_snr:
        assert float(sigma[-1]) == 1.0
        assert float(schedule.log_snr(TIMES)[-1]) == -math.inf
        assert float(schedule.ratio(TIMES)[-1]) == math.inf


@pytest.mark.parametrize("schedule", EVERY)
def test_log_snr_falls_strictly_and_has_an_inverse(schedule: NoiseSchedule) -> None:
    level = schedule.log_snr(TIMES)
    assert bool((level.diff() < 0).all())
    close(schedule.t_of_log_snr(level), TIMES, 1e-9)
    close(schedule.t_of_ratio(schedule.ratio(TIMES)), TIMES, 1e-9)
    close(schedule.ratio(TIMES[1:-1]), (-level[1:-1] / 2).exp())
    beyond = schedule.t_of_log_snr(torch.tensor([torch.inf, 2000.0, -2000.0, -torch.inf]))
    assert bool((beyond >= 0).all() and (beyond <= 1).all())
    assert float(beyond[0]) == 0.0
    assert float(beyond[-1]) == pytest.approx(1, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_min=True), st.sampled_from([s for group in EXAMPLES.values() for s in group]))
def test_inverse_at_any_time(t: float, schedule: NoiseSchedule) -> None:
    level = schedule.log_snr(torch.tensor(t, dtype=torch.float64))
    assert float(schedule.t_of_log_snr(level)) == pytest.approx(t, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    for schedule in EXAMPLES[name]:
        alpha, sigma = schedule.alpha_sigma(TIMES)
        close(alpha**2 + sigma**2, torch.ones_like(TIMES), 1e-14)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (vp_linear(), {"beta_schedule": "linear"}),
        (vp_scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ],
)
def test_tables_are_those_of_diffusers(schedule: TableSchedule, theirs) -> None:
    """Their product runs in float32: a thousand roundings of 6e-8 in numbers below 1, hence 1e-6."""
    oracle = diffusers.DDPMScheduler(num_train_timesteps=1000, **theirs).alphas_cumprod
    close(torch.tensor(schedule.alphas_cumprod, dtype=torch.float64), oracle.double(), 1e-6)


def test_linear_betas_are_those_of_the_paper() -> None:
    abar = torch.tensor(vp_linear().alphas_cumprod, dtype=torch.float64)
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@pytest.mark.parametrize("steps", [50, 100, 250])
def test_a_shorter_linear_table_ends_at_the_same_noise_level(steps: int) -> None:
    """Betas times 1000 / steps keep sum log(1 - beta) to first order; the lessons' table ends at log-SNR +0.4."""
    whole, short = (float(vp_linear(n).log_snr(torch.ones(()))) for n in (1000, steps))
    assert abs(short - whole) < 3.5
    assert short < whole


def test_cosine_is_equation_17_and_the_table_of_diffusers_before_its_clip() -> None:
    """2102.09672: abar(t) = cos^2((t + s) / (1 + s) pi / 2) / cos^2(s / (1 + s) pi / 2). Float32 of theirs: 1e-6."""
    schedule = VPCosine(log_snr_min=-math.inf)
    angle = (TIMES + 0.008) / 1.008 * math.pi / 2
    abar = angle.cos() ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    close(schedule.alpha_sigma(TIMES)[0] ** 2, abar, 1e-14)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    unclipped = int((theirs.betas < 0.998).nonzero().max()) + 1
    assert unclipped > 990
    t = torch.arange(1, unclipped + 1, dtype=torch.float64) / 1000
    close(schedule.alpha_sigma(t)[0] ** 2, theirs.alphas_cumprod[:unclipped].double(), 1e-6)


@pytest.mark.parametrize("lowest", [-50.0, -14.0, -5.0])
def test_cosine_ends_at_its_lowest_log_snr(lowest: float) -> None:
    end = float(VPCosine(log_snr_min=lowest).log_snr(torch.ones(())))
    assert end == pytest.approx(lowest, rel=1e-6)


@pytest.mark.parametrize("schedule", [vp_linear(), vp_scaled_linear(), vp_linear(50), zero_terminal_table()])
def test_entry_k_sits_at_k_plus_1_over_the_size(schedule: TableSchedule) -> None:
    k = torch.arange(schedule.table_size, dtype=torch.float64)
    t = (k + 1) / schedule.table_size
    close(schedule.network_time(t), k, 1e-9)
    abar = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    close(alpha**2, abar, 1e-10)
    close(sigma**2, 1 - abar, 1e-10)


def test_between_entries_log_snr_is_linear_and_below_the_first_sigma_is() -> None:
    schedule = TableSchedule((0.9, 0.5, 0.1))
    at = schedule.log_snr(torch.tensor([1, 2, 3], dtype=torch.float64) / 3)
    middle = schedule.log_snr(torch.tensor([1.5, 2.25], dtype=torch.float64) / 3)
    close(middle, torch.stack([(at[0] + at[1]) / 2, 0.75 * at[1] + 0.25 * at[2]]))
    low = torch.tensor([0.0, 0.25, 0.5, 0.999], dtype=torch.float64)
    close(schedule.alpha_sigma(low / 3)[1], low * math.sqrt(0.1))


def test_a_table_ending_in_pure_noise_fades_linearly_in_alpha() -> None:
    schedule = TableSchedule((0.81, 0.25, 0.0))
    t = torch.tensor([2, 2.5, 2.9, 3], dtype=torch.float64) / 3
    close(schedule.alpha_sigma(t)[0], torch.tensor([0.5, 0.25, 0.05, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.25])
def test_flow(shift: float) -> None:
    """2403.03206, eq. 23: sigma = shift t / (1 + (shift - 1) t), and alpha + sigma = 1."""
    alpha, sigma = RectifiedFlow(shift).alpha_sigma(TIMES)
    close(sigma, shift * TIMES / (1 + (shift - 1) * TIMES), 1e-15)
    close(alpha + sigma, torch.ones_like(TIMES), 1e-15)
    close(RectifiedFlow(shift).network_time(TIMES), 1000 * TIMES)


def test_variance_exploding() -> None:
    """alpha = 1, sigma = 80 t^7: uniform times are EDM's grid with sigma_min 0; the input has unit variance."""
    schedule = VE()
    alpha, sigma = schedule.alpha_sigma(TIMES)
    assert torch.equal(alpha, torch.ones_like(TIMES))
    close(sigma, (TIMES * 80 ** (1 / 7)) ** 7, 1e-11)
    close(schedule.input_scale(TIMES), 1 / (1 + sigma**2).sqrt())
    t = TIMES[2000:]
    close(schedule.network_time(t), 1000 * schedule.ratio(t).log() / 4)


@pytest.mark.parametrize("schedule", EVERY)
def test_config_survives_strict_json(schedule: NoiseSchedule) -> None:
    config = schedule.config()
    again = schedule_from_config(json.loads(json.dumps(config, allow_nan=False)))
    assert again == schedule
    assert again.config() == config
    for ours, theirs in zip(schedule.alpha_sigma(TIMES), again.alpha_sigma(TIMES), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), "at least 2 cumulative alphas, got shape \\[0\\]"),
        ((0.5,), "at least 2 cumulative alphas, got shape \\[1\\]"),
        (((0.5, 0.4), (0.3, 0.2)), "got shape \\[2, 2\\]"),
        ((0.5, 0.5), "strictly decreasing"),
        ((0.5, 0.6), "strictly decreasing"),
        ((1.0, 0.5), "in \\[0, 1\\)"),
        ((0.5, -0.1), "in \\[0, 1\\)"),
        ((0.5, 0.0, 0.0), "only the last 0"),
        ((0.5, math.nan), "got 2 values"),
    ],
)
def test_bad_tables_are_refused(table, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TableSchedule(table)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TableSchedule((0.5, 0.4), "vp_linea"), "did you mean 'vp_linear'"),
        (lambda: vp_linear(0), "expected at least 2 steps, got 0"),
        (lambda: vp_scaled_linear(1), "expected at least 2 steps, got 1"),
        (lambda: VPCosine(s=0), "expected s in \\(0, 1\\)"),
        (lambda: VPCosine(log_snr_min=math.nan), "log_snr_min < 0"),
        (lambda: RectifiedFlow(shift=0), "shift > 0, got 0"),
        (lambda: RectifiedFlow(shift=math.inf), "shift > 0, got inf"),
        (lambda: VE(sigma_max=-1), "sigma_max > 0"),
        (lambda: VE(rho=math.nan), "rho > 0"),
        (lambda: schedule_from_config({"name": "flwo"}), "did you mean 'flow'"),
        (lambda: schedule_from_config({}), "unknown schedule 'None'"),
        (lambda: schedule_from_config({"name": "flow", "shfit": 3}), "schedule 'flow': .*'shfit'"),
    ],
)
def test_bad_settings_are_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
