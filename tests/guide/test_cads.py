"""Annealing of the condition by hand: its schedule, its noise, its rescaling, and what it leaves alone."""

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost, counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.cads import CADS
from fairlead.guide.step import Step
from fairlead.nets.packed_text import pack
from fairlead.sample.grids import trailing
from fairlead.sample.noise import NoiseStream
from tests.guide.toy import ONLY_LABELS as NETWORK
from tests.guide.toy import N, T, call, close, guided, images, moment, steered

_DRAW = 620

SPECS = [2, 0, 3, 2, 1]
GRID = trailing(NETWORK.schedule, 20)  # flow: t = 1, 0.95, ...
X_T = images()


def noise(index: int, shape: tuple[int, ...], seeds: tuple[int, ...] = tuple(range(N))) -> Tensor:
    """The draw of step ``index``, float64."""
    return NoiseStream(seeds, shape).extra(index * 1000 + _DRAW).double()


def embedding(specs: list = SPECS) -> Tensor:
    assert NETWORK.embed is not None
    return NETWORK.embed(NETWORK.encode(specs)).values["label"]


def by_hand(y: Tensor, n: Tensor, gamma: float, s: float, mix: float) -> Tensor:
    """2310.17347, section 3, one sample after the other."""
    rows = []
    for row, draw in zip(y, n, strict=True):
        noised = math.sqrt(gamma) * row + s * math.sqrt(1 - gamma) * draw
        rescaled = (noised - noised.mean()) / noised.std() * row.std() + row.mean()
        rows.append(mix * rescaled + (1 - mix) * noised)
    return torch.stack(rows)


def at_step_11(text: str, specs: list, **options) -> tuple[Prediction, Cost]:
    """At t = 0.45."""
    denoiser = steered(text, specs, model=NETWORK, times=GRID, **options)
    with counting() as cost:
        return denoiser.at(11)(X_T, T, denoiser.condition), cost


def x0(condition: Condition) -> Tensor:
    return NETWORK.denoiser(X_T, T, condition).x0


def with_label(value: Tensor) -> Condition:
    return Condition.of(label=value)


@pytest.mark.parametrize(
    ("t", "gamma"), [(1.0, 0.0), (0.9, 0.0), (0.825, 0.25), (0.75, 0.5), (0.675, 0.75), (0.6, 1.0), (0.1, 1.0)]
)
def test_gamma_falls_linearly_from_low_to_high(t: float, gamma: float) -> None:
    assert CADS(0.25).gamma(t) == pytest.approx(gamma, abs=1e-12)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.7), (0.4, 0.9), (0.1, 0.3)])
def test_the_network_sees_the_embedding_of_the_formula(mix: float, low: float, high: float) -> None:
    """At step 11 of 20, t = 0.45: gamma is 1/2, 9/10 and 0."""
    text = f"cads(0.25, low={low}, high={high}, mix={mix})"
    prediction, cost = at_step_11(text, SPECS)
    gamma = min(1.0, max(0.0, (high - 0.45) / (high - low)))
    expected = by_hand(embedding(), noise(11, (16,)), gamma, 0.25, mix)
    close(prediction.x0, x0(with_label(expected)), 1e-9)
    assert (cost.rows, cost.calls) == (N, 1)


def test_where_gamma_is_1_no_bit_changes() -> None:
    for text in ("cads(0.25)", "cads(5, low=0.46, high=0.5, mix=0)", "cads(0)"):
        prediction, _ = at_step_11(text, SPECS)
        assert torch.equal(prediction.x0, x0(NETWORK.encode(SPECS)))


def test_rescaling_keeps_mean_and_deviation_of_each_sample_at_mix_1() -> None:
    y, n = torch.randn(6, 4, 9, dtype=torch.float64) * 3 + 1, torch.randn(6, 4, 9, dtype=torch.float64)
    result = CADS(2.0).noised(y, n, 0.3)
    for axis_mean in (lambda v: v.mean((1, 2)), lambda v: v.std((1, 2))):
        close(axis_mean(result), axis_mean(y), 1e-12)
    alone = torch.cat([CADS(2.0).noised(y[i : i + 1], n[i : i + 1], 0.3) for i in range(6)])
    close(result, alone, 1e-12)


def test_an_embedding_of_one_value_stays_finite() -> None:
    ones = torch.ones(2, 5, dtype=torch.float64)
    close(CADS(1.0).noised(ones, torch.zeros_like(ones), 0.0), ones, 1e-12)
    close(CADS(1.0).noised(ones, torch.randn(2, 5, dtype=torch.float64), 0.5), ones, 1e-12)


def test_beside_cfg_only_the_conditional_branch_is_noised() -> None:
    """D_u + 3 (D_noised - D_u) with the null branch of the plain network."""
    prediction, cost = at_step_11("cfg(3) + cads(0.25, low=0.2, high=0.7)", SPECS, batching="fused")
    own = x0(with_label(by_hand(embedding(), noise(11, (16,)), 0.5, 0.25, 1.0)))
    null = x0(NETWORK.encode([None] * N))
    close(prediction.x0, null + 3 * (own - null), 1e-9)
    assert (cost.rows, cost.calls) == (2 * N, 1)


def test_a_negative_equal_to_the_condition_is_not_noised_with_it() -> None:
    text = "cfg(3, negative=2) + cads(0.25, low=0.2, high=0.7)"
    prediction, cost = at_step_11(text, [2] * N)
    own = x0(with_label(by_hand(embedding([2] * N), noise(11, (16,)), 0.5, 0.25, 1.0)))
    negative = x0(NETWORK.encode([2] * N))
    close(prediction.x0, negative + 3 * (own - negative), 1e-9)
    assert cost.rows == 2 * N


def test_a_batch_without_conditions_has_nothing_to_noise_and_merges_with_null() -> None:
    """Among others of a longer run; a whole run of them is refused."""
    prediction, cost = at_step_11("cfg(3) + cads(0.25, low=0.2, high=0.7)", [None] * N)
    close(prediction.x0, x0(NETWORK.encode([None] * N)), 1e-12)
    assert cost.rows == N


def test_a_perturbed_branch_sees_the_noised_condition() -> None:
    """pag compares the network with itself under the same condition."""
    prediction, _ = at_step_11("pag(2) + cads(0.25, low=0.2, high=0.7)", SPECS)
    own = with_label(by_hand(embedding(), noise(11, (16,)), 0.5, 0.25, 1.0))
    perturbation = parse("pag(2, layers=['middle.0', 'middle.1'])").pair(None)[1].perturb  # type: ignore
    assert perturbation is not None
    close(prediction.x0, x0(own) + 2 * (x0(own) - x0(own.perturbed(perturbation))), 1e-9)


def test_two_evaluations_of_one_step_see_the_same_noise_and_a_later_step_another() -> None:
    denoiser = steered("cads(0.25, low=0.1, high=0.99)", SPECS, model=NETWORK, times=GRID)
    first, again, later = (denoiser.at(i)(X_T, T, denoiser.condition).x0 for i in (4, 4, 5))
    assert torch.equal(first, again)
    assert float((first - later).abs().max()) > 1e-6


def test_floating_values_of_any_name_are_noised_each_with_its_own_draw() -> None:
    term = CADS(0.5, low=0.1, high=0.9, mix=0.0)
    condition = Condition.of(pose=torch.zeros(2, 3, 4), label=torch.zeros(2, 5))

    def draw(number: int, shape: tuple[int, ...]) -> Tensor:
        return NoiseStream((7, 8), shape).extra(number)

    altered = term.annealed(condition, moment(Step(0.5, 1.0, 0.0, 2), condition, draws=draw))
    for number, name in enumerate(("label", "pose")):
        value = condition.values[name]
        draws = NoiseStream((7, 8), tuple(value.shape[1:])).extra(2000 + _DRAW + number)
        close(altered.values[name], 0.5 * math.sqrt(0.5) * draws, 1e-6)
    assert altered.keep == condition.keep


def test_of_a_text_only_real_tokens_are_noised_and_counted() -> None:
    """A text with padding is noised as the same text without it; mask and padding stay."""
    states, pooled = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    real = torch.tensor([[True, True, False], [True, True, False]])
    term, draws = CADS(0.5, low=0.1, high=0.9), torch.randn(2, 4, 5, dtype=torch.float64)
    value = pack(states, real, pooled)
    at = moment(Step(0.5, 1.0, 0.0, 2), draws=lambda number, shape: draws[:, : shape[0]])
    long = term.annealed(Condition.of(text=value), at).values["text"]
    short = term.annealed(Condition.of(text=value[:, :3]), at).values["text"]
    assert torch.equal(long[..., -1], value[..., -1])
    assert not bool(long[:, 3].any())
    close(long[:, :3], short, 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: guided("cads(0.25)"),
            r"cads\(0.25\): adds noise to embeddings, and this model does not embed its conditions",
        ),
        (
            lambda: GuidedDenoiser.of(NETWORK, CADS(1), NETWORK.encode([None])),
            "steers towards the run's condition, but none was given",
        ),
        (lambda: parse("cads(-0.1)"), "cads: expected noise to be 0 or more, got -0.1"),
        (lambda: parse("cads(0.1, low=0.9, high=0.6)"), "expected times 0 <= low < high <= 1, got low 0.9, high 0.6"),
        (lambda: parse("cads(0.1, high=2)"), "expected times 0 <= low < high <= 1"),
        (lambda: parse("cads(0.1, mix=1.5)"), "cads: expected mix from 0 to 1, got 1.5"),
        (lambda: parse("cads(ramp(0, 1))"), "cads: expected noise to be a number"),
        (lambda: parse("cads(inf)"), "cads: expected noise to be a number, got inf"),
        (
            lambda: call(GuidedDenoiser.of(NETWORK, CADS(1, low=0, high=0.1), NETWORK.encode(SPECS)), X_T),
            "draws noise, which needs seeds and the sampler's grid",
        ),
        (
            lambda: CADS(1).annealed(Condition.of(tokens=torch.tensor([1])), moment(Step(0.8, 1.0, 0.0))),
            "the condition 'tokens' is not an embedding",
        ),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
