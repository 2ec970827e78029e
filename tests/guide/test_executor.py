"""What guidance costs: only the branches needed, merged where equal, in as few calls as fit, for the same result."""

import pytest
import torch

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import RectifiedFlow
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.apg import APG
from fairlead.guide.methods.cfg import CFG
from fairlead.guide.moment import Seen
from fairlead.guide.step import Step
from fairlead.guide.terms import total_weights
from fairlead.models.toy import toy_model
from fairlead.sample.grids import trailing
from fairlead.sample.sampler import parse_sampler
from tests.guide.toy import LABELS, MIXTURE, MODEL, SCHEDULE, SPECS, N, T, call, close, exact, guided, points

HERE = Step(float(T), 1.0, 0.0, samples=tuple(range(N)))
EXPRESSIONS = [
    ("cfg(4)", SPECS),
    ("cfg(4, negative=1) + cfg(2)", SPECS),
    ("cfg([0, 1, 3, -1, 0.5])", SPECS),
    ("cfg([0, 1, 3, -1, 0.5], negative=1) + cfg(2)", SPECS),
    ('compose({"2": 3, "0": [1, 0, 2, -1, 1]})', [None] * N),
]


@pytest.mark.parametrize(
    ("text", "specs", "rows"),
    [
        ("cfg(3) + cfg(2)", [2] * N, 2 * N),
        ("cfg(3) + cfg(-1)", [2] * N, N),  # 2 - 2 = 0: off
        ("cfg(3, negative=2)", [2] * N, N),  # away from what it goes towards
        ('cfg(3, negative="2") + cfg(4, negative=2)', [1] * N, 2 * N),
        ("cfg(3, negative=2)", [2, 2, 1, 2, 2], 2 * N),
        ('compose({"2": 3, 2: -1})', [None] * N, 2 * N),
        ('compose({"2": 3, 2: -2})', [None] * N, N),
        ("compose({1: 2}) + compose({2: 3})", [None] * N, 3 * N),
        ("cfg(3) + cfg(3, negative=0)", SPECS, 3 * N),
    ],
)
def test_equal_branches_are_evaluated_once(text: str, specs: list, rows: int) -> None:
    x_t = points()
    denoiser = guided(text, specs)
    prediction, cost = call(denoiser, x_t)
    assert cost.rows == rows
    unmerged = total_weights([term.ask(denoiser.moment(HERE)) for term in denoiser.guidance.terms])
    each = {branch: MODEL.denoiser(x_t, T, denoiser.conditions.fixed(branch)).x0 for branch in unmerged}
    by_hand = torch.stack([weight * each[branch] for branch, weight in unmerged.items()]).sum(0)
    close(prediction.x0, by_hand, 1e-12)


@pytest.mark.parametrize(("text", "specs"), EXPRESSIONS)
def test_fused_and_sequential_are_the_same_numbers(text: str, specs: list) -> None:
    x_t = points()
    fused, together = call(guided(text, specs, batching="fused"), x_t)
    sequential, apart = call(guided(text, specs, batching="sequential"), x_t)
    close(fused.x0, sequential.x0, 1e-12)
    close(fused.eps, sequential.eps, 1e-12)
    assert together.rows == apart.rows
    assert together.calls == 1
    branches = len(guided(text, specs).coefficients(HERE))
    assert apart.calls == branches > 1


def test_scales_per_sample_are_separate_runs_and_cost_the_rows_they_need() -> None:
    x_t, scales = points()[:3], [0.0, 1.0, 3.0]
    together, cost = call(guided("cfg([0, 1, 3])", SPECS[:3]), x_t)
    assert (cost.rows, cost.calls) == (1 + 1 + 2, 1)
    for i, scale in enumerate(scales):
        alone, _ = call(guided(CFG(scale), SPECS[i : i + 1]), x_t[i : i + 1])
        close(together.x0[i : i + 1], alone.x0, 1e-12)
        close(together.eps[i : i + 1], alone.eps, 1e-12)


def test_a_batch_of_a_longer_run_takes_its_own_scales() -> None:
    x_t = points()
    whole, _ = call(guided("cfg([0, 1, 3, -1, 0.5])"), x_t)
    part, _ = call(guided("cfg([0, 1, 3, -1, 0.5])", SPECS[2:4], samples=range(2, 4)), x_t[2:4])
    close(part.x0, whole.x0[2:4], 1e-12)


@pytest.mark.parametrize(("text", "specs"), EXPRESSIONS)
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_out_of_memory_splits_the_call_and_changes_nothing(text: str, specs: list, most: int) -> None:
    noisy, sizes = points(), []

    def small(x_t, t, condition: Condition) -> Prediction:
        if len(x_t) > most:
            raise torch.OutOfMemoryError("no room")
        assert condition.n == len(x_t)
        sizes.append(len(x_t))
        return MODEL.denoiser(x_t, t, condition)

    reference = guided(text, specs)
    expected, cost = call(reference, noisy)
    parts = [GuidedDenoiser(small, parse(text), SCHEDULE, reference.condition, encode=MODEL.encode) for _ in range(2)]
    for denoiser in parts:
        with counting() as split:
            close(denoiser(noisy, T, reference.condition).x0, expected.x0, 1e-12)
        assert split.rows == cost.rows
    sizes.clear()
    parts[0](noisy, T, reference.condition)
    assert sum(sizes) == cost.rows
    assert len(sizes) <= 2 * -(-cost.rows // most)  # it remembers what fits: no failed calls, at least half full
    for batching in ("fused", "sequential"):
        denoiser = GuidedDenoiser(
            small, parse(text), SCHEDULE, reference.condition, encode=MODEL.encode, batching=batching
        )
        if most == 1 or (batching == "fused" and most < cost.rows):
            with pytest.raises(torch.OutOfMemoryError):
                denoiser(noisy, T, reference.condition)


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def never(x, t, condition):
        raise torch.OutOfMemoryError("no room")

    condition = MODEL.encode(SPECS)
    with pytest.raises(torch.OutOfMemoryError):
        GuidedDenoiser(never, CFG(3), SCHEDULE, condition)(points(), T, condition)


def test_a_time_per_sample_is_the_one_time_of_the_batch() -> None:
    x_t = points()
    denoiser = guided("cfg(3)")
    once = denoiser(x_t, T, denoiser.condition)
    each = denoiser(x_t, T.expand(N), denoiser.condition)
    assert torch.equal(once.x0, each.x0)
    with pytest.raises(UsageError, match="one time for the whole batch"):
        denoiser(x_t, torch.linspace(0.1, 0.5, N, dtype=torch.float64), denoiser.condition)


# --- intervals on a grid -------------------------------------------------------------------------------------------

FLOW = toy_model(MIXTURE, RectifiedFlow())
GRID = trailing(FLOW.schedule, 8)  # t = 1, 7/8, ..., 1/8, all exact in float


def rows_per_step(text: str, steps: int = 8) -> list[int]:
    denoiser = guided(text, model=FLOW, times=trailing(FLOW.schedule, steps))
    x_t, counted = points(FLOW.schedule), []
    for step in range(steps):
        with counting() as cost:
            denoiser.at(step)(x_t, GRID[step], denoiser.condition)
        counted.append(cost.rows // N)
    return counted


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("t=(0.25, 0.75)", [1, 1, 2, 2, 2, 2, 1, 1]),  # low < t <= high: 6/8 in, 2/8 out
        ("t=(0.26, 0.74)", [1, 1, 1, 2, 2, 2, 1, 1]),
        ("t=(0, 1)", [2] * 8),
        ("t=(0, 0.1)", [1] * 8),
        ("sigma=(1, 3)", [1, 1, 2, 2, 1, 1, 1, 1]),  # sigma / alpha of 6/8 is 3, of 4/8 is 1
        ("sigma=(0, 1)", [1, 1, 1, 1, 2, 2, 2, 2]),
        ("sigma=(3, inf)", [2, 2, 1, 1, 1, 1, 1, 1]),
        ("log_snr=(0, 5)", [1, 1, 1, 1, 2, 2, 2, 2]),  # log-SNR of 4/8 is 0: its noisy end is in
        ("log_snr=(-inf, 0)", [2, 2, 2, 2, 1, 1, 1, 1]),  # pure noise is in, t = 1/2 is out
    ],
)
def test_interval(interval: str, expected: list[int]) -> None:
    assert rows_per_step(f"cfg(3).during({interval})") == expected


@pytest.mark.parametrize(("low", "high"), [(0.125, 0.5), (0.25, 1.0), (0.5, 0.75)])
def test_units_agree_when_converted_boundaries_included(low: float, high: float) -> None:
    ends = torch.tensor([low, high], dtype=torch.float64)
    sigma, log_snr = FLOW.schedule.ratio(ends).tolist(), FLOW.schedule.log_snr(ends).tolist()
    by_t = rows_per_step(f"cfg(3).during(t=({low}, {high}))")
    assert by_t == rows_per_step(f"cfg(3).during(sigma=({sigma[0]}, {sigma[1]}))")
    assert by_t == rows_per_step(f"cfg(3).during(log_snr=({log_snr[1]}, {log_snr[0]}))")


def test_an_interval_belongs_to_one_term() -> None:
    assert rows_per_step("cfg(3).during(t=(0.5, 1)) + cfg(2, negative=1)") == [3] * 4 + [2] * 4
    assert rows_per_step("(cfg(3) + cfg(2, negative=1)).during(t=(0.5, 1))") == [3] * 4 + [1] * 4
    assert rows_per_step("cfg(3).during(t=(0.25, 1)).during(t=(0, 0.5))") == [1, 1, 1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize(("sampler", "inside", "evaluations"), [("ddim", 4, 8), ("heun", 8, 15)])
def test_a_heun_corrector_inherits_the_step(sampler: str, inside: int, evaluations: int) -> None:
    """On for steps from t = 1, 7/8, 6/8, 5/8; the corrector of the last sits at t = 1/2, outside, and is guided."""
    denoiser = guided("cfg(3).during(t=(0.5, 1))", model=FLOW, times=GRID)
    x_t = torch.randn(N, 2, dtype=torch.float64)
    with counting() as cost:
        list(parse_sampler(sampler).frames(denoiser, x_t, GRID, FLOW.schedule, denoiser.condition, lambda i: x_t))
    assert cost.rows == N * (evaluations + inside)


def test_without_at_the_grid_names_the_step_and_without_a_grid_the_time_does() -> None:
    x_t = points(FLOW.schedule)
    on = exact(x_t, None, T, FLOW.schedule) * -2 + 3 * exact(x_t, LABELS, T, FLOW.schedule)
    off = exact(x_t, LABELS, T, FLOW.schedule)
    for times, interval, expected in (
        (GRID, "(0.46, 0.5)", on),  # the step that passes t = 0.45 begins at 0.5
        (GRID, "(0.4, 0.46)", off),
        (None, "(0.4, 0.46)", on),
        (None, "(0.46, 0.5)", off),
    ):
        denoiser = guided(f"cfg(3).during(t={interval})", model=FLOW, times=times)
        close(call(denoiser, x_t)[0].x0, expected)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guided("cfg(3)", [None] * N), r"cfg\(3\) steers towards the run's condition, but none was given"),
        (lambda: guided("compose({1: 2})"), r"compose\(\{1: 2\}\) replaces the run's condition"),
        (lambda: guided("cfg(3, negative=9)"), "class index 9 is out of range"),
        (lambda: guided("cfg(3, negative=1)", encode=None), "names the condition 1, but no encode function"),
        (lambda: guided("cfg([1, 2])"), r"cfg\(\[1, 2\]\) has scales for 2 samples, the run has 5"),
        (lambda: guided("compose({1: [1, 2]})", [None] * N), "has scales for 2 samples, the run has 5"),
        (lambda: guided("cfg(3)", samples=range(2)), "expected the indices of 5 samples, got 2"),
        (lambda: guided("cfg(3) | clip()"), r"clip\(\): this model's data has no fixed range"),
        (lambda: guided("cfg(3)", batching="fusd"), "unknown batching 'fusd'; did you mean 'fused'"),
        (lambda: guided("cfg(3)")(points(), T, MODEL.encode(SPECS)), "call it with the condition it was made with"),
        (lambda: call(guided('cfg(ramp(1, 3, by="progress"))'), points()), "needs the sampler's grid"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("n", [1, 64])
def test_both_branches_ride_in_one_call_whatever_the_batch(n: int) -> None:
    condition = MODEL.encode([2] * n)
    denoiser = GuidedDenoiser(MODEL.denoiser, CFG(3), SCHEDULE, condition)
    with counting() as cost:
        denoiser(torch.zeros(n, 2, dtype=torch.float64), T, condition)
    assert (cost.rows, cost.calls) == (2 * n, 1)


class Halved(CFG):
    """cfg with a direction of its own: half the difference."""

    def unit(self, seen: Seen) -> torch.Tensor:
        return super().unit(seen) / 2


def test_a_pair_with_a_direction_of_its_own_has_it_alone_wrapped_and_in_rows() -> None:
    """Half the direction at scale 5 is all of it at scale 3; a scale of 1 still costs no second row."""
    x_t = points()
    want, _ = call(guided(CFG(3)), x_t)
    for term in (Halved(5), APG(Halved(5), eta=1)):
        got, cost = call(guided(term), x_t)
        close(got.x0, want.x0)
        assert cost.rows == 2 * N
    _, cost = call(guided(Halved([5, 1, 1, 1, 2])), x_t)
    assert cost.rows == N + 2
    _, cost = call(guided(Halved(1)), x_t)
    assert cost.rows == N
