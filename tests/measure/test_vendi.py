"""The Vendi score on sets whose effective number is known."""

import math

import pytest
import torch
from vendi_score import vendi

from fairlead.core.errors import UsageError
from fairlead.measure.sample_metrics import vendi_score

ORDERS = (0, 0.1, 0.5, 1, 1.5, 2, 50, math.inf)


def _primal(x, q):
    """By definition: eigenvalues of the n x n similarities, whatever n and d."""
    x = torch.nn.functional.normalize(x.double())
    p = torch.linalg.eigvalsh(x @ x.T / len(x))
    p = p[p > 1e-12]
    return math.exp(-float((p * p.log()).sum())) if q == 1 else float((p**q).sum() ** (1 / (1 - q)))


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize(("n", "d"), [(6, 6), (6, 9)])
def test_orthogonal_samples_count_one_each(q, n, d):
    rotation = torch.linalg.qr(torch.randn(d, d).double()).Q
    lengths = torch.arange(1, n + 1)[:, None]
    assert vendi_score(lengths * rotation[:n], q) == pytest.approx(n, rel=1e-12)


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize(("n", "d"), [(20, 5), (5, 20)])
def test_copies_count_once(q, n, d):
    assert vendi_score(torch.randn(1, d).expand(n, d), q) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("d", [4, 30])
def test_equal_groups_count_one_each(q, d):
    groups = torch.linalg.qr(torch.randn(d, d).double()).Q[:4]
    assert vendi_score(groups.repeat(5, 1), q) == pytest.approx(4.0, rel=1e-11)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0, 2.0),
        (0.5, (0.75**0.5 + 0.25**0.5) ** 2),
        (1, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        (1 + 1e-9, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        (1 + 1e-7, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        (1.005, (0.75**1.005 + 0.25**1.005) ** (-1 / 0.005)),
        (2, 1 / (0.75**2 + 0.25**2)),
        (math.inf, 1 / 0.75),
    ],
)
def test_two_groups_of_unequal_size(q, expected):
    x = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 2.0]])
    # beside the limit, the error is that of Shannon's value or of rounding / |q - 1|
    tolerance = 1e-6 if 0 < abs(q - 1) < 1e-6 else 1e-11
    assert vendi_score(x, q) == pytest.approx(expected, rel=tolerance)


def test_two_samples_at_an_angle():
    """Eigenvalues (1 +- cos) / 2."""
    cosine = math.cos(0.7)
    p, r = (1 + cosine) / 2, (1 - cosine) / 2
    x = torch.tensor([[1.0, 0.0, 0.0], [math.cos(0.7), math.sin(0.7), 0.0]], dtype=torch.float64)
    assert vendi_score(x) == pytest.approx(math.exp(-p * math.log(p) - r * math.log(r)), rel=1e-12)
    assert vendi_score(x, 2) == pytest.approx(1 / (p * p + r * r), rel=1e-12)


@pytest.mark.parametrize("q", [0.5, 1, 2, 7])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (7, 60), (20, 20)])
def test_both_forms_agree_in_any_order_and_chunk(q, n, d):
    x = torch.randn(n, d) + 0.5
    expected = _primal(x, q)
    assert vendi_score(x, q) == pytest.approx(expected, rel=1e-10)
    assert vendi_score(x[torch.randperm(n)], q, chunk=11) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("q", [0.5, 1, 2, 7, math.inf])
def test_agrees_with_vendi_score(q):
    x = torch.relu(torch.randn(300, 24) + 0.5).double()
    expected = vendi.score_dual(x.numpy(), q="inf" if q == math.inf else q)
    assert vendi_score(x, q) == pytest.approx(float(expected), rel=1e-12)


def test_falls_with_the_order():
    x = torch.randn(50, 8)
    scores = [vendi_score(x, q) for q in ORDERS]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(8.0)  # the rank


@pytest.mark.parametrize(
    ("x", "q", "message"),
    [
        (torch.ones(4, 2), -0.5, "q = -0.5"),
        (torch.ones(4, 2), math.nan, "q = nan"),
        (torch.zeros(4, 2), 1.0, "0 throughout"),
        (torch.ones(4), 1.0, r"shape \[n, d\]"),
        (torch.ones(0, 2), 1.0, "at least 1 sample"),
        (torch.full((4, 2), math.nan), 1.0, "4 of 4 samples have features that are not finite"),
    ],
)
def test_bad_input_is_one_line(x, q, message):
    with pytest.raises(UsageError, match=message):
        vendi_score(x, q)
