"""Perp-Neg: what the negative shares with the condition is left alone, per sample."""

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse
from fairlead.guide.per_sample import dot
from tests.guide.stored import random, stored
from tests.guide.toy import MODEL, SPECS, N, T, call, close, exact, guided, null, points

X_T, NULL, P, Q = (random(N, 3, 4, seed=seed) for seed in range(4))


def across(q: Tensor, p: Tensor) -> Tensor:
    return q - dot(q, p) / dot(p, p) * p


def test_an_orthogonal_negative_is_composition() -> None:
    """D_u + w p - w w_n q, for <q, p> = 0 (2206.01714)."""
    cond, negative = NULL + P, NULL + across(Q, P)
    prediction, cost = call(stored('perp_neg(4, "negative", 0.5)', cond, NULL, negative), X_T)
    composed, _ = call(stored('compose({"cond": 4, "negative": -2})', cond, NULL, negative, conditioned=False), X_T)
    close(prediction.x0, composed.x0)
    close(prediction.x0, NULL + 4 * P - 2 * across(Q, P))
    assert cost.rows == 3 * N


@pytest.mark.parametrize("factor", [-2.0, 0.5, 1.0])
def test_of_a_parallel_negative_nothing_is_subtracted(factor: float) -> None:
    prediction, _ = call(stored('perp_neg(4, "negative")', NULL + P, NULL, NULL + factor * P), X_T)
    close(prediction.x0, NULL + 4 * P)


def test_by_hand() -> None:
    """p = (2, 0), q = (1, 3): the perpendicular part is (0, 3)."""
    cond, negative, zero = (torch.tensor([value]).double() for value in ([2.0, 0.0], [1.0, 3.0], [0.0, 0.0]))
    prediction, _ = call(stored('perp_neg(3, "negative", 0.5)', cond, zero, negative, n=1), torch.ones(1, 2).double())
    close(prediction.x0, torch.tensor([[6.0, -4.5]]).double())


@pytest.mark.parametrize(("scale", "weight"), [(4.0, 1.0), (1.0, 0.7), (-2.0, 3.0)])
def test_on_the_exact_mixture(scale: float, weight: float) -> None:
    x_t = points()
    prediction, _ = call(guided(f'perp_neg({scale}, "1", {weight})', [2] * N), x_t)
    unconditional = exact(x_t, None)
    p, q = exact(x_t, 2) - unconditional, exact(x_t, 1) - unconditional
    close(prediction.x0, unconditional + scale * (p - weight * across(q, p)))


def summing(p: Tensor, q: Tensor) -> Tensor:
    """The perpendicular part as the public code takes it, with one inner product of the whole batch."""
    return q - (q * p).sum() / (p * p).sum() * p


def test_samples_do_not_touch_each_other_unlike_in_codes_that_sum_over_the_batch() -> None:
    """Sample 0: p = (2, 0), q = (1, 3), perpendicular (0, 3). Beside a sample with p = q = (0, 4) the sums are 18 and
    20, and that code would subtract (1 - 0.9 * 2, 3) of sample 0. For a batch of one it is the same as ours."""
    p, q = torch.tensor([[2.0, 0.0], [0.0, 4.0]]).double(), torch.tensor([[1.0, 3.0], [0.0, 4.0]]).double()
    ours, _ = call(stored('perp_neg(1, "negative")', p, 0 * p, q, n=2), torch.ones(2, 2).double())
    close(ours.x0, torch.tensor([[2.0, -3.0], [0.0, 4.0]]).double())
    close((p - summing(p, q))[0], torch.tensor([2.8, -3.0], dtype=torch.float64))
    close((p - summing(p[:1], q[:1]))[0], ours.x0[0])


def test_without_a_condition_all_of_the_negative_is_subtracted() -> None:
    """p = 0: also for a sample of several, whose p is only rounding in a batched network."""
    rounding = NULL + 1e-16 * P
    whole, _ = call(stored('perp_neg(3, "negative", 0.5)', NULL, NULL, NULL + Q), X_T)
    close(whole.x0, NULL - 1.5 * Q)
    keep = [True, False, True, True, False]
    some, _ = call(stored('perp_neg(3, "negative")', NULL + P, rounding, NULL + Q, conditioned=keep), X_T)
    expected = torch.where(torch.tensor(keep)[:, None, None], NULL + 3 * (P - across(Q, P)), NULL - 3 * Q)
    close(some.x0, expected)


def test_when_it_is_off() -> None:
    """Weight 0 never looks at the negative; scale 1 alone is not off; scale 0 is the unconditional model."""
    x_t = points()
    prediction, cost = call(guided('perp_neg(3, "1", 0)'), x_t)
    assert torch.equal(prediction.x0, call(guided("cfg(3)"), x_t)[0].x0)
    assert cost.rows == 2 * N
    prediction, cost = call(guided('perp_neg(0, "1")'), x_t)
    assert torch.equal(prediction.x0, MODEL.denoiser(x_t, T, null()).x0)
    assert cost.rows == N
    prediction, cost = call(guided('perp_neg(1, "1", 0)'), x_t)
    assert torch.equal(prediction.x0, MODEL.denoiser(x_t, T, MODEL.encode(SPECS)).x0)
    assert cost.rows == N
    assert call(stored('perp_neg(1, "negative")', NULL + P, NULL, NULL + Q), X_T)[1].rows == 3 * N
    close(call(stored('perp_neg(1, "negative")', NULL + P, NULL, NULL + Q), X_T)[0].x0, NULL + P - across(Q, P))


def test_weights_a_sample() -> None:
    """Samples of weight 0 are not evaluated under the negative; those of scale 0 only without condition."""
    text = 'perp_neg([3, 0, 1, 2, 2], "negative", [1, 1, 0, 0.5, 0])'
    prediction, cost = call(stored(text, NULL + P, NULL, NULL + Q), X_T)
    for i, (scale, weight) in enumerate(zip([3, 0, 1, 2, 2], [1, 1, 0, 0.5, 0], strict=True)):
        close(prediction.x0[i], (NULL + scale * (P - weight * across(Q, P)))[i])
    assert cost.rows == 3 + 1 + 1 + 3 + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('perp_neg([1, 2], "1", [1, 2, 3])', r"one per sample, got \[2, 3\]"),
        ("perp_neg(3, none)", "negative"),
        ('apg(perp_neg(3, "1"))', "wraps one method of two branches"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
