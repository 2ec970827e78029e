"""Precision, recall, density and coverage by hand, against prdc, and on sets made to have known values."""

import math
from dataclasses import astuple

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.two_samples import Neighbours, precision_recall


def _values(found):
    return {name: getattr(found, name).value for name in ("precision", "recall", "density", "coverage")}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_agrees_with_prdc(k, shift):
    import prdc as oracle

    real, fake = torch.randn(157, 8).double(), torch.randn(121, 8).double() * 0.8 + shift
    found = _values(precision_recall(real, fake, k))
    expected = oracle.compute_prdc(real.numpy(), fake.numpy(), k)
    assert found == {name: pytest.approx(float(value), abs=1e-12) for name, value in expected.items()}


@pytest.mark.parametrize("draw", range(5))
def test_agrees_with_prdc_on_float32_features_far_from_zero(draw):
    """prdc widens float32 to float64 for the products, as here; a generator that has seen some of the real samples."""
    import prdc as oracle

    real = torch.relu(torch.randn(300, 6) @ torch.randn(6, 64)) + 5
    fake = torch.cat([torch.relu(torch.randn(150, 6) @ torch.randn(6, 64)) + 5, real[:50] + 0.01 * torch.randn(50, 64)])
    found = _values(precision_recall(real, fake))
    expected = oracle.compute_prdc(real.numpy(), fake.numpy(), 5)
    assert found == {name: pytest.approx(float(value), abs=1e-12) for name, value in expected.items()}


def test_on_a_line_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    fake = torch.tensor([[0.5], [2.0], [5.5]])
    found = Neighbours.of(real, k=1)
    assert found.radii.tolist() == pytest.approx([1.0, 1.0, 2.0, 4.0])
    # balls (-1, 1), (0, 2), (1, 5), (3, 11): 0.5 lies in 2, 2.0 in the third alone (2 is the edge of the second),
    # 5.5 in the last; fake balls (-1, 2), (0.5, 3.5), (2, 9) hold every real sample
    against = found.against(fake)
    assert _values(against) == {"precision": 1.0, "recall": 1.0, "density": pytest.approx(4 / 3), "coverage": 1.0}
    assert (against.precision.n, against.density.n, against.recall.n, against.coverage.n) == (3, 3, 4, 4)
    assert against.density.error == pytest.approx(1 / 3)  # counts 2, 1, 1: sd 1 / sqrt(3) over sqrt(3)
    far = found.against(torch.tensor([[-1.0], [11.0]]))  # at the very edge of a ball is outside
    assert _values(far) == {"precision": 0.0, "recall": 1.0, "density": 0.0, "coverage": 0.0}


def test_errors_are_those_of_shares_and_of_a_mean():
    found = precision_recall(torch.randn(60, 3), torch.randn(40, 3) + 1, k=3)
    for share, n in ((found.precision, 40), (found.recall, 60), (found.coverage, 60)):
        wilson = math.sqrt(share.value * (1 - share.value) / n + 1 / (4 * n * n)) / (1 + 1 / n)
        assert share.n == n
        assert share.error == pytest.approx(wilson, rel=1e-12)


def test_errors_of_precision_and_density_are_their_spread_over_fakes():
    real = Neighbours.of(torch.randn(200, 4), k=3)
    found = [real.against(torch.randn(100, 4) + 0.8) for _ in range(200)]
    for name in ("precision", "density"):
        spread = float(torch.tensor([getattr(e, name).value for e in found]).std())
        error = sum(getattr(e, name).error for e in found) / 200
        assert error == pytest.approx(spread, rel=0.15), name  # sd of 200 draws: 5 %


@pytest.mark.parametrize("k", [1, 5])
def test_a_set_against_itself_is_all_ones(k):
    """Density too: a ball holds its own sample and k - 1 others; the k-th lies on the edge, whatever the rounding."""
    x = torch.randn(200, 16) + 3
    found = Neighbours.of(x, k, chunk=64).against(x[torch.randperm(200)], chunk=23)
    assert _values(found) == {name: pytest.approx(1.0, abs=1e-15) for name in _values(found)}


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
    centres = 10 * torch.eye(10)
    real = centres[torch.arange(500) % 10] + torch.randn(500, 10)
    found = _values(precision_recall(real, centres[3] + 0.1 * torch.randn(500, 10)))
    assert found["precision"] > 0.9
    assert found["recall"] < 0.1
    assert found["coverage"] < 0.11  # one mode of ten


def test_a_generator_of_noise_recalls_and_is_not_precise():
    real, fake = 0.1 * torch.randn(400, 4), 3 * torch.randn(400, 4)
    found = _values(precision_recall(real, fake))
    assert found["precision"] < 0.1
    assert found["recall"] > 0.9


@pytest.mark.parametrize("chunk", [1, 3, 50, 1000])
def test_chunk_and_order_change_nothing(chunk):
    real, fake = torch.randn(67, 5) + 2, torch.randn(45, 5) + 2.5
    fake[:10] = real[:10]  # exact ties
    whole = Neighbours.of(real, k=4).against(fake)
    order = torch.randperm(67)
    parts = Neighbours.of(real[order], k=4, chunk=chunk)
    torch.testing.assert_close(parts.radii, Neighbours.of(real, k=4).radii[order], rtol=1e-12, atol=0)
    again = parts.against(fake[torch.randperm(45)], chunk=chunk)
    assert [e[0] for e in astuple(again)] == [pytest.approx(e[0], abs=1e-14) for e in astuple(whole)]


def test_a_common_shift_or_scale_changes_nothing():
    real, fake = torch.randn(80, 5).double(), torch.randn(80, 5).double() + 0.5
    plain = _values(precision_recall(real, fake))
    assert _values(precision_recall(real + 1e4, fake + 1e4)) == pytest.approx(plain, abs=1e-14)
    assert _values(precision_recall(real * 1e-6, fake * 1e-6)) == pytest.approx(plain, abs=1e-14)


@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        (torch.randn(5, 2), torch.randn(9, 2), 5, "real: expected at least 6 samples, got 5"),
        (torch.randn(9, 2), torch.randn(5, 2), 5, "fakes: expected at least 6 samples, got 5"),
        (torch.randn(9, 2), torch.randn(9, 3), 5, "d = 3 features against d = 2"),
        (torch.full((9, 2), math.inf), torch.randn(9, 2), 5, "9 of 9 samples have features that are not finite"),
        (torch.randn(9, 2), torch.randn(9, 2), 0, "k = 0"),
        (torch.randn(9, 2, 2), torch.randn(9, 2), 5, r"shape \[n, d\]"),
    ],
)
def test_bad_input_is_one_line(real, fake, k, message):
    with pytest.raises(UsageError, match=message):
        precision_recall(real, fake, k)


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(UsageError, match="chunk = 0"):
        Neighbours.of(torch.randn(9, 2), chunk=0)
