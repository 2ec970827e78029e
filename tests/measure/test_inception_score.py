"""The Inception-style score on logits whose score is known, against torchmetrics, and its error."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.sample_metrics import inception_score


def test_a_classifier_that_knows_nothing_scores_one():
    found = inception_score(torch.full((50, 10), 3.0))
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("size", [1e3, 1e4])
def test_certain_and_equally_often_scores_the_number_of_classes(k, size):
    """Logits of +-1e4 underflow any softmax: 0 times the logarithm of 0 must not become nan."""
    logits = size * (2 * torch.eye(k)[torch.arange(5 * k) % k] - 1)
    found = inception_score(logits)
    assert found.value == pytest.approx(k, rel=1e-12)
    assert found.error == pytest.approx(0.0, abs=1e-9)


def test_a_class_that_nothing_belongs_to_is_no_nan():
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4], [1e4, 1e4, -1e4]])
    # p = (1, 0), (0, 1), (1/2, 1/2): log 2, log 2 and 0
    assert inception_score(logits).value == pytest.approx(math.exp(2 * math.log(2) / 3), rel=1e-12)


def test_two_samples_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    marginal = (0.55, 0.45)
    kl = [sum(a * math.log(a / m) for a, m in zip(row, marginal, strict=True)) for row in p.tolist()]
    score = math.exp((kl[0] + kl[1]) / 2)
    found = inception_score(p.log() + torch.tensor([[5.0], [-7.0]]))
    assert found.n == 2
    assert found.value == pytest.approx(score, rel=1e-12)
    assert found.error == pytest.approx(score * abs(kl[0] - kl[1]) / 2, rel=1e-9)


def test_agrees_with_torchmetrics_on_ordinary_logits():
    import torchmetrics.image.inception as inception

    class Identity(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    logits = 2 * torch.randn(200, 10).double()
    oracle = inception.InceptionScore(feature=Identity(), splits=1)
    oracle.update(logits)
    assert inception_score(logits).value == pytest.approx(float(oracle.compute()[0]), rel=1e-6)


def test_influence_is_the_change_when_a_sample_is_left_out():
    """phi_i = score (KL_i - mean KL) is (n - 1) (whole - without i) up to the order 1 / n."""
    logits = 2 * torch.randn(2000, 5).double()
    whole = inception_score(logits)
    log_p = logits.log_softmax(dim=1)
    kl = (log_p.exp() * (log_p - log_p.exp().mean(dim=0).log())).sum(dim=1)
    phi = whole.value * (kl - kl.mean())
    for i in range(5):
        without = inception_score(torch.cat([logits[:i], logits[i + 1 :]])).value
        assert 1999 * (whole.value - without) == pytest.approx(float(phi[i]), abs=0.005)
    assert whole.error == pytest.approx(float(phi.std()) / math.sqrt(2000), rel=1e-9)


def test_error_is_the_spread_over_draws():
    """Samples of random classes, so that the marginal moves too."""
    found = []
    for _ in range(200):
        labels = torch.randint(0, 6, (300,))
        found.append(inception_score(3 * torch.eye(6)[labels] + 1.5 * torch.randn(300, 6)))
    spread = float(torch.tensor([e.value for e in found]).std())
    assert sum(e.error for e in found) / 200 == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_chunk_and_order_change_nothing(chunk):
    logits = 3 * torch.randn(101, 10)
    found = inception_score(logits[torch.randperm(101)], chunk=chunk)
    assert found.value == pytest.approx(inception_score(logits).value, rel=1e-12)
    assert found.error == pytest.approx(inception_score(logits).error, rel=1e-10)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(1, 10), "at least 2 samples, got 1"),
        (torch.zeros(10), r"shape \[n, d\], got \[10\]"),
        (torch.full((3, 4), -math.inf), "3 of 3 samples have features that are not finite"),
    ],
)
def test_bad_input_is_one_line(logits, message):
    with pytest.raises(UsageError, match=message):
        inception_score(logits)
