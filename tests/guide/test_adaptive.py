"""Adaptive guidance: who is still guided, when that is decided, and what it saves (2312.12487)."""

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import vp_linear
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.observation import Observation
from fairlead.sample.grids import trailing
from fairlead.sample.sampler import parse_sampler
from tests.guide.toy import MODEL, NETWORK, ONLY_LABELS, SCHEDULE, N, T, close, images, steered

SPECS = [2, 0, 3, 2, 1]
GRID = trailing(NETWORK.schedule, 10)
START = images(t=torch.ones((), dtype=torch.float64))


def run(text: str, sampler: str = "ddim", order: list[int] | None = None, **options) -> tuple[Tensor, list[int]]:
    """The final x and the rows of every evaluation."""
    rows: list[int] = []

    def observe(seen: Observation) -> None:
        rows.append(sum(N if mask is None else int(mask.sum()) for mask in denoiser.needed(seen.seen.step).values()))

    denoiser = steered(text, SPECS, order, times=GRID, observe=observe, **options)
    with counting() as cost:
        frames = parse_sampler(sampler).frames(
            denoiser, START if order is None else START[order], GRID, NETWORK.schedule, denoiser.condition, _no_noise
        )
        *_, last = frames
    assert cost.rows == sum(rows)
    return last.x_t, rows


def _no_noise(step: int) -> Tensor:
    raise AssertionError("deterministic")


@pytest.mark.parametrize("inside", ["cfg(4)", "cfg([3, 1, 2, 0, -1])", "pag(2)", 'auto(3, weak="weak")', "apg(cfg(4))"])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_threshold_out_of_reach_is_the_method_itself_on_a_whole_run(inside: str, sampler: str) -> None:
    plain, before = run(inside, sampler)
    adaptive, rows = run(f"adaptive({inside}, 1)", sampler)
    close(adaptive, plain, 1e-12)
    assert sum(rows) >= sum(before)  # equal but for scale 0 among others, whose cosine is looked at


@pytest.mark.parametrize("inside", ["cfg(4)", "pag(2)", 'auto(3, weak="weak")', "apg(cfg(4), momentum=-0.5)", "icg(3)"])
def test_threshold_minus_1_is_one_guided_step_and_then_the_conditional_model(inside: str) -> None:
    adaptive, rows = run(f"adaptive({inside}, -1)")
    first, _ = run(f"({inside}).during(t=(0.95, 1))")
    close(adaptive, first, 1e-12)
    assert rows == [2 * N] + [N] * 9


def test_heun_decides_at_its_first_evaluation_and_for_the_next_step() -> None:
    _, rows = run("adaptive(cfg(4), -1)", "heun")
    assert rows == [2 * N, 2 * N] + [N] * 17


# --- by hand: x0 predictions of two pixels whose cosine is prescribed ------------------------------------------------

COSINES = [[0.5, 0.999, 0.5], [0.995, 0.1, 0.9], [0.1, 0.1, 0.992], [0.2, 0.3, 0.4]]
"""Step -> the cosine of each of three samples; the threshold is 0.991."""


class Prescribed:
    """x_t holds the cosine of each sample: the conditional x0 is (1, 0), the null one (cos, sin)."""

    def __init__(self) -> None:
        self.condition = MODEL.encode([1, 1, 1])
        self.asked: list[list[bool]] = []
        guidance, times = parse('adaptive(cfg(3), space="x0")'), trailing(SCHEDULE, 4)
        self.guided = GuidedDenoiser(self.denoise, guidance, SCHEDULE, self.condition, times=times, batching="fused")

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        keep, (cosine, number) = condition.keep["label"], x_t.unbind(1)
        self.asked.append([i in number[~keep].tolist() for i in range(3)])
        null = torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)
        x0 = torch.where(keep[:, None], torch.tensor([1.0, 0.0], dtype=torch.float64), null)
        return Prediction(x0, x0)

    def __call__(self, step: int, cosines: list[float]) -> Tensor:
        x_t = torch.tensor([cosines, [0, 1, 2]], dtype=torch.float64).T
        return self.guided.at(step)(x_t, T, self.condition).x0


@pytest.mark.parametrize("again", [False, True])
def test_flags_by_hand_are_sticky_and_per_sample(again: bool) -> None:
    """Sample 1 passes in step 0, sample 0 in step 1, sample 2 in step 2; later cosines do not bring them back, and a
    second evaluation of a step (``again``), whose cosine is 1 for all, neither changes the step nor the flags."""
    at = Prescribed()
    for step, row in enumerate(COSINES):
        first = at(step, row)
        if again:
            at(step, [1.0, 1.0, 1.0])
            assert at.asked.pop() == at.asked[-1]
        omega = torch.tensor([2.0 if on else 0.0 for on in at.asked[-1]], dtype=torch.float64)
        close(first[:, 0], 1 + omega * (1 - torch.tensor(row, dtype=torch.float64)), 1e-14)
    assert at.asked == [[True, True, True], [True, False, True], [False, False, True], [False, False, False]]


def test_a_new_run_begins_with_everyone_guided() -> None:
    at = Prescribed()
    for step in (0, 1, 0):
        at(step, [1.0, 0.0, 1.0])
    assert at.asked == [[True] * 3, [False, True, False], [True] * 3]


# --- on a network -----------------------------------------------------------------------------------------------------


def decided(text: str) -> list[int]:
    return run(text)[1]


def test_rows_leave_the_batch_one_sample_at_a_time() -> None:
    """The rows of a step are N plus the samples whose cosine has not passed in any step before it: from the cosines
    that a run of the same guidance, observed, has."""
    threshold, still, expected = 0.55, torch.ones(N, dtype=torch.bool), []

    def observe(seen: Observation) -> None:
        nonlocal still
        expected.append(N + int(still.sum()))
        masks = seen.rows
        x0 = [seen.seen.to(value, "v") for value in seen.seen.predictions.values()]
        if len(x0) == 2:
            cosine = torch.cosine_similarity(x0[0].flatten(1), x0[1].flatten(1))
            asked = next((mask for mask in masks.values() if mask is not None), torch.ones(N, dtype=torch.bool))
            still = still & ~((cosine > threshold) & asked)

    denoiser = steered(f"adaptive(cfg(2), {threshold})", SPECS, model=ONLY_LABELS, times=GRID, observe=observe)
    with counting() as cost:
        list(parse_sampler("ddim").frames(denoiser, START, GRID, NETWORK.schedule, denoiser.condition, _no_noise))
    assert cost.rows == sum(expected)
    assert N * 10 < cost.rows < 2 * N * 10
    assert len(set(expected)) > 2


def test_permuting_the_batch_permutes_a_whole_run() -> None:
    order = [3, 0, 4, 1, 2]
    straight, rows = run("adaptive(cfg(2), 0.45)")
    permuted, again = run("adaptive(cfg(2), 0.45)", order=order)
    close(permuted, straight[order], 1e-8)
    assert rows == again


def test_scales_per_sample_that_are_off_ask_for_nothing() -> None:
    x, rows = run("adaptive(cfg([3, 1, 1, 3, 1]), -1)")
    assert rows == [N + 2] + [N] * 9
    plain, _ = run("none")
    close(x[[1, 2, 4]], plain[[1, 2, 4]], 1e-12)


def test_noise_predictions_agree_at_pure_noise_whatever_the_condition() -> None:
    """A flow starts at alpha = 0: the cosine of the noise is 1 there, that of the output is not."""
    assert decided('adaptive(cfg(4), 0.9999, space="eps")') == [2 * N] + [N] * 9
    assert decided("adaptive(cfg(4), 0.9999)")[1] > N


def test_output_is_what_the_network_returns() -> None:
    assert decided("adaptive(cfg(2), 0.45)") == decided('adaptive(cfg(2), 0.45, space="v")')


def test_an_interval_may_be_inside_or_outside() -> None:
    inside, rows = run("adaptive(cfg(4).during(t=(0.25, 0.65)), -1)")
    outside, again = run("adaptive(cfg(4), -1).during(t=(0.25, 0.65))")
    close(inside, outside, 1e-12)
    assert rows == again == [N] * 4 + [2 * N] + [N] * 5


def test_it_is_exact_in_single_precision_too() -> None:
    """Per-sample weights are float64 until they meet x0, so a dropped row changes nothing for the others."""
    schedule = vp_linear()
    x_t = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    condition = MODEL.encode(SPECS)
    plain, adaptive = (
        GuidedDenoiser(MODEL.denoiser, parse(text), schedule, condition, times=trailing(schedule, 4))
        for text in ("cfg(1.3)", "adaptive(cfg(1.3), 1)")
    )
    assert torch.equal(plain(x_t, T, condition).x0, adaptive(x_t, T, condition).x0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptive(cfg(4), 99)", r"expected threshold to be a cosine in \[-1, 1\], got 99"),
        ('adaptive(cfg(4), space="noise")', "unknown adaptive space 'noise'"),
        ("adaptive(compose({1: 2}))", "wraps one method of two branches"),
        ("adaptive(cached(cfg(4)))", r"cannot wrap cached\(...\), which evaluates its two branches in some steps"),
        ("adaptive(adaptive(cfg(4)))", "needs the two predictions inside it at every step; keep one"),
        ("apg(adaptive(cfg(4)))", r"write adaptive\(apg\(...\)\)"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
