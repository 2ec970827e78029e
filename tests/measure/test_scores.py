"""Adherence, diversity and saturation against numbers computed by hand."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate, mean_estimate, proportion_estimate
from fairlead.measure.sample_metrics import accuracy, confidence, paired_diversity, pairwise_diversity, shares_at_limits


def test_mean_and_its_standard_error():
    found = mean_estimate(torch.tensor([1, 2, 3, 6]))
    assert (found.value, found.n) == (3.0, 4)
    assert found.error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert math.isnan(mean_estimate(torch.tensor([1.0])).error)


@pytest.mark.parametrize(("ones", "n"), [(0, 9), (9, 9), (1, 4), (498, 500), (1, 1)])
def test_the_error_of_a_share_is_half_the_wilson_interval_and_never_zero(ones, n):
    # the interval is the set of p with |p - share| <= sqrt(p (1 - p) / n): the roots of a quadratic in p
    share = ones / n
    a, b, c = 1 + 1 / n, -(2 * share + 1 / n), share**2
    half = math.sqrt(b**2 - 4 * a * c) / (2 * a)
    found = proportion_estimate(torch.tensor([1.0] * ones + [0.0] * (n - ones)))
    assert (found.value, found.n) == (share, n)
    assert found.error == pytest.approx(half, rel=1e-9)
    assert found.error > 0


def test_all_of_n_have_an_error_of_about_half_an_image():
    logits, labels = torch.eye(3)[torch.arange(30) % 3], torch.arange(30) % 3
    found = accuracy(logits, labels)
    assert found.value == 1.0
    assert found.error == pytest.approx(1 / 62)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.98721, 0.00364, 10), "0.9872 ± 0.0036"),
        (Estimate(12.3456, 0.71, 10), "12.35 ± 0.71"),
        (Estimate(1234.5, 25.0, 10), "1234 ± 25"),
        (Estimate(1.0, 0.0, 10), "1"),
    ],
)
def test_an_estimate_prints_two_digits_of_its_error(estimate, text):
    assert str(estimate) == text


def test_accuracy_and_confidence_by_hand():
    logits = torch.tensor([[2.0, 2.0 + math.log(3), -math.inf], [0.0, 0.0, math.log(2)]])
    labels = torch.tensor([1, 0])
    assert accuracy(logits, labels).value == 0.5
    assert confidence(logits, labels).value == pytest.approx((3 / 4 + 1 / 4) / 2, abs=1e-7)


def test_confidence_survives_huge_logits():
    assert confidence(torch.tensor([[1e4, 0.0]]), torch.tensor([0])).value == 1.0
    assert confidence(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).value == 0.0


def test_diversity_by_hand_weighs_conditions_equally():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    labels = torch.tensor([5, 5, 5, 2, 2, 2, 2])
    first, second = 10 / 3, (1 + 2 + 4 + 1 + 3 + 2) / 6
    assert pairwise_diversity(points, labels).value == pytest.approx((first + second) / 2, abs=1e-12)


def test_diversity_agrees_with_pdist_in_any_chunking_and_order():
    x, labels = torch.randn(90, 3, 2, 2), torch.arange(90) % 3
    expected = torch.stack([torch.pdist(x[labels == k].flatten(1).double()).mean() for k in range(3)]).mean()
    order = torch.randperm(90)
    assert pairwise_diversity(x, labels).value == pytest.approx(float(expected), abs=1e-12)
    assert pairwise_diversity(x[order], labels[order], chunk=7).value == pytest.approx(float(expected), abs=1e-12)


def test_diversity_error_is_the_jackknife_and_the_spread_over_draws():
    x, labels = torch.randn(12, 4).double(), torch.zeros(12, dtype=torch.int64)
    without = torch.stack([torch.pdist(torch.cat([x[:i], x[i + 1 :]])).mean() for i in range(12)])
    by_hand = float((without - without.mean()).square().sum() * 11 / 12) ** 0.5
    assert pairwise_diversity(x, labels).error == pytest.approx(by_hand, rel=1e-10)
    found = [pairwise_diversity(torch.randn(60, 4), torch.arange(60) % 2) for _ in range(100)]
    spread = float(torch.tensor([e.value for e in found]).std())
    assert sum(e.error for e in found) / 100 == pytest.approx(spread, rel=0.25)


def test_saturation_counts_values_at_and_beyond_the_range():
    x0 = torch.tensor([[-1.0, -1.2, 0.0, 0.99], [1.0, 0.5, 0.0, -0.5]]).reshape(2, 1, 2, 2)
    assert shares_at_limits(x0).tolist() == [0.5, 0.25]


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match="label 1 has 2 samples, expected at least 3"):
        pairwise_diversity(torch.randn(5, 2), torch.tensor([0, 0, 0, 1, 1]))
    with pytest.raises(UsageError, match=r"all of them in 0\.\.2"):
        accuracy(torch.randn(2, 3), torch.tensor([0, 3]))
    with pytest.raises(UsageError, match=r"got \[2, 3\] and \[3\]"):
        confidence(torch.randn(2, 3), torch.tensor([0, 1, 2]))
    with pytest.raises(UsageError, match="1 values are not finite"):
        shares_at_limits(torch.tensor([[0.0, math.nan]]))


def test_the_paired_error_of_diversity_is_the_spread_of_the_difference_over_draws():
    labels = torch.arange(90) % 3
    found = []
    for _ in range(150):
        x = torch.randn(90, 4, dtype=torch.float64)
        found.append(paired_diversity(1.1 * x, x + 0.1 * torch.randn_like(x), labels))
    spread = float(torch.tensor([e.value for e in found]).std())
    assert sum(e.error for e in found) / len(found) == pytest.approx(spread, rel=0.2)
    x = torch.randn(90, 4)
    alone = pairwise_diversity(1.1 * x, labels).value - pairwise_diversity(x, labels).value
    assert paired_diversity(1.1 * x, x, labels).value == pytest.approx(alone, abs=1e-12)
    assert paired_diversity(1.1 * x, x, labels).error < pairwise_diversity(x, labels).error / 5
