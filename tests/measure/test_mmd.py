"""The squared MMD by hand, against closed forms and torchmetrics, and its errors against its spread over draws."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure.metrics import Estimate
from fairlead.measure.two_samples import (
    CMMD,
    KID,
    FittedGaussian,
    KernelReference,
    Polynomial,
    cmmd,
    kid,
    mmd_influence,
)


def _cubic(x, y):
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def _unit_gaussian(x, y):
    x, y = ([a / math.hypot(*row) for a in row] for row in (x, y))
    return 1000 * math.exp(-(math.dist(x, y) ** 2) / 200)


def _by_hand(kernel, real, fake):
    """The value and the influences, over Python lists."""
    pairs = [kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j]
    within = [sum(kernel(a, b) for j, b in enumerate(fake) if j != i) / (len(fake) - 1) for i, a in enumerate(fake)]
    across = [sum(kernel(a, b) for b in real) / len(real) for a in fake]
    value = sum(pairs) / len(pairs) + (sum(within) - 2 * sum(across)) / len(fake)
    h = [2 * (w - c) for w, c in zip(within, across, strict=True)]
    return value, [x - sum(h) / len(h) for x in h]


REAL = [[1.0, 2.0], [0.5, -1.0]]
FAKE = [[2.0, 0.0], [1.0, 1.0], [-1.0, 3.0]]


@pytest.mark.parametrize(("measure", "kernel"), [(kid, _cubic), (cmmd, _unit_gaussian)])
def test_value_and_error_by_hand(measure, kernel):
    found = measure(torch.tensor(REAL), torch.tensor(FAKE))
    value, h = _by_hand(kernel, REAL, FAKE)
    assert found.n == 3
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.error == pytest.approx(math.sqrt(sum(x * x for x in h) / 2 / 3), rel=1e-9)


def test_two_numbers_each_side():
    # k(0, 2) = 1, k(1, 1) = 2^3, k across: 1, 3^3 for either fake
    found = kid(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]]))
    assert found.value == pytest.approx(1 + 8 - 2 * (1 + 27) / 2, abs=1e-12)
    assert found.error == 0.0


@pytest.mark.parametrize("kernel", [KID, CMMD])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_influences_do_not_depend_on_chunk_and_follow_the_order(kernel, chunk):
    real, fake, order = torch.randn(15, 5), torch.randn(11, 5) + 0.5, torch.randperm(11)
    value, h = mmd_influence(KernelReference.of(real, kernel), fake)
    again, shuffled = mmd_influence(
        KernelReference.of(real[torch.randperm(15)], kernel, chunk), fake[order], chunk=chunk
    )
    assert again == pytest.approx(value, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(shuffled, h[order], rtol=1e-9, atol=1e-10)
    assert float(h.sum()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_features_are_widened_before_anything_else(dtype):
    real, fake = torch.randn(20, 4).to(dtype), torch.randn(20, 4).to(dtype)
    for measure in (kid, cmmd):
        assert measure(real, fake).value == pytest.approx(measure(real.double(), fake.double()).value, rel=1e-12)


@pytest.mark.parametrize("measure", [kid, cmmd])
def test_expectation_is_zero_for_equal_distributions(measure):
    values = torch.tensor([measure(torch.randn(30, 3), torch.randn(30, 3)).value for _ in range(200)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(200)


def test_polynomial_kernel_between_gaussians_is_given_by_their_moments():
    def moments(mean, sd):
        return (1, mean, mean**2 + sd**2, mean**3 + 3 * mean * sd**2)

    def expected(p, q):  # (x y + 1)^3 = 1 + 3 x y + 3 (x y)^2 + (x y)^3
        return sum(c * a * b for c, a, b in zip((1, 3, 3, 1), p, q, strict=True))

    p, q = moments(0.2, 1.0), moments(0.5, 0.7)
    truth = expected(p, p) + expected(q, q) - 2 * expected(p, q)
    values = torch.tensor(
        [kid(0.2 + torch.randn(60, 1), 0.5 + 0.7 * torch.randn(60, 1)).value for _ in range(200)], dtype=torch.float64
    )
    assert float(values.mean()) == pytest.approx(truth, abs=3 * float(values.std()) / math.sqrt(200))


def _gaussian_mean(sigma, mean, variance):
    """E exp(-|u|^2 / (2 sigma^2)) for u ~ N(mean, variance I), mean [..., d]."""
    total, d = sigma**2 + variance, mean.shape[-1]
    return (sigma**2 / total) ** (d / 2) * torch.exp(-mean.square().sum(dim=-1) / (2 * total))


def test_gaussian_kernel_between_gaussians_has_the_closed_form():
    sigma, mean = 1.5, torch.tensor([0.4, -0.3, 0.0])
    zero = torch.zeros(3)
    truth = float(
        _gaussian_mean(sigma, zero, 2 * 1.0)
        + _gaussian_mean(sigma, zero, 2 * 0.8**2)
        - 2 * _gaussian_mean(sigma, mean, 1.0 + 0.8**2)
    )
    reference = KernelReference.of(torch.randn(6000, 3), FittedGaussian(sigma))
    found = reference.against(mean + 0.8 * torch.randn(6000, 3))
    assert found.value == pytest.approx(truth, abs=4 * math.sqrt(2) * found.error)  # the real side varies as much
    assert found.error < 0.06 * truth


def test_interval_of_a_paired_difference_covers_the_truth():
    """The truth for fixed real samples x_r is exact: E k(x_r, y) and E k(y, y') are known for Gaussian y."""
    sigma, n, draws = 1.5, 100, 200
    reference = KernelReference.of(torch.randn(150, 3), FittedGaussian(sigma))
    mean_a, mean_b, a, b = torch.full((3,), 0.5), torch.full((3,), 0.35), 1.2, 1.1

    def truth(mean, scale):
        own = _gaussian_mean(sigma, torch.zeros(3), 2 * scale**2)
        return float(own - 2 * _gaussian_mean(sigma, reference.features - mean, scale**2).mean())

    expected = truth(mean_a, a) - truth(mean_b, b)
    found = []
    for _ in range(draws):
        z = torch.randn(n, 3)
        (of_a, h_a), (of_b, h_b) = (mmd_influence(reference, m + s * z) for m, s in ((mean_a, a), (mean_b, b)))
        found.append(Estimate(of_a - of_b, float((h_a - h_b).std()) / math.sqrt(n), n))
    covered = sum(abs(e.value - expected) < 1.96 * e.error for e in found) / draws
    assert 0.9 <= covered <= 0.99
    alone = reference.against(mean_a + a * torch.randn(n, 3)).error
    assert sum(e.error for e in found) / draws < 0.6 * alone  # what the common seeds are for


def test_error_is_the_spread_over_fakes():
    reference = KernelReference.of(torch.randn(300, 4), KID)
    found = [reference.against(torch.randn(150, 4) * 1.1 + 0.4) for _ in range(200)]
    spread = float(torch.tensor([e.value for e in found]).std())
    assert sum(e.error for e in found) / 200 == pytest.approx(spread, rel=0.15)  # sd of 200 draws: 5 %


def test_so_many_of_each_label_are_no_distance():
    """Ten far classes, thirty of each: truth 0; pairs of one class are too few by 1 / n unless the labels are known."""
    centres, labels = 4 * torch.randn(10, 8, dtype=torch.float64), torch.arange(300) % 10
    reference = KernelReference.of(centres[torch.arange(3000) % 10] + torch.randn(3000, 8), FittedGaussian(3.0))
    found: dict[str, list[Estimate]] = {"with labels": [], "without labels": []}
    for _ in range(30):
        fake = centres[labels] + torch.randn(300, 8)
        found["with labels"].append(reference.against(fake, labels))
        found["without labels"].append(reference.against(fake))
    means = {key: sum(e.value for e in estimates) / 30 for key, estimates in found.items()}
    spread = float(torch.tensor([e.value for e in found["with labels"]]).std())
    # the reference is itself 300 of each, of which its pairs lack a tenth of what the fakes' lack
    assert abs(means["with labels"]) < 1.5 * spread
    assert means["without labels"] < -4 * spread


def test_labels_by_hand():
    """Two labels of unequal counts: within-label means and between-label means, weighted by the shares."""
    real, fake, labels = torch.randn(6, 2), torch.randn(5, 2).double(), torch.tensor([7, 3, 7, 3, 7])
    gram = KID.gram(fake, fake)
    of_7, of_3 = torch.tensor([0, 2, 4]), torch.tensor([1, 3])
    own_7 = (gram[of_7][:, of_7].sum() - gram[of_7, of_7].sum()) / 6
    own_3 = gram[1, 3]
    mixed = gram[of_7][:, of_3].mean()
    within = 0.36 * own_7 + 0.16 * own_3 + 2 * 0.24 * mixed
    reference = KernelReference.of(real, KID)
    expected = reference.pairs + float(within) - 2 * float(KID.gram(real.double(), fake).mean())
    value, h = mmd_influence(reference, fake, labels)
    assert value == pytest.approx(expected, rel=1e-12)
    assert kid(real, fake, labels).error == pytest.approx(math.sqrt(3 * h[of_7].var() + 2 * h[of_3].var()) / 5)


def test_a_single_label_is_no_label():
    real, fake = torch.randn(20, 3), torch.randn(15, 3)
    assert kid(real, fake, torch.full((15,), 4)) == kid(real, fake)


def test_agrees_with_torchmetrics_on_one_subset_of_everything():
    import torchmetrics.image.kid as oracle

    real, fake = torch.randn(80, 6).double(), torch.randn(80, 6).double() * 1.2 + 0.3
    assert kid(real, fake).value == pytest.approx(float(oracle.poly_mmd(real, fake)), rel=1e-10)


def test_a_longer_embedding_has_the_same_direction():
    real, fake = torch.randn(20, 6).double(), torch.randn(20, 6).double()
    assert cmmd(3 * real, fake / 7).value == pytest.approx(cmmd(real, fake).value, rel=1e-9)


def test_the_v_statistic_of_the_ports_is_larger_by_what_the_docstring_says():
    x, y = (torch.nn.functional.normalize(torch.randn(30, 6).double()) for _ in range(2))
    k = [CMMD.gram(a, b) for a, b in ((x, x), (y, y), (x, y))]
    biased = float(k[0].mean() + k[1].mean() - 2 * k[2].mean())
    off = [float((g.sum() - g.trace()) / (30 * 29)) for g in k[:2]]
    expected = cmmd(x, y).value + sum(1000 - mean for mean in off) / 30
    assert biased == pytest.approx(expected, rel=1e-9)


def test_powers_of_the_polynomial():
    a, b = torch.randn(3, 2).double(), torch.randn(4, 2).double()
    for degree in (1, 2, 3):
        torch.testing.assert_close(Polynomial(degree).gram(a, b), (a @ b.T / 2 + 1) ** degree)


@pytest.mark.parametrize(
    ("real", "fake", "labels", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), None, "mmd, real: expected at least 2 samples, got 1"),
        (torch.ones(4, 3), torch.ones(1, 3), None, "mmd, fakes: expected at least 2 samples, got 1"),
        (torch.ones(4, 3), torch.ones(4, 2), None, "d = 2 features against d = 3"),
        (torch.ones(4, 3), torch.ones(4), None, r"shape \[n, d\], got \[4\]"),
        (torch.ones(4, 3), torch.full((4, 3), math.nan), None, "4 of 4 samples have features that are not finite"),
        (torch.ones(4, 3), torch.ones(4, 3), torch.tensor([0, 0, 0, 1]), "a label has only 1 sample"),
        (torch.ones(4, 3), torch.ones(4, 3), torch.tensor([0, 0]), "expected one label each"),
    ],
)
def test_bad_input_is_one_line(real, fake, labels, message):
    with pytest.raises(UsageError, match=message):
        kid(real, fake, labels)


def test_an_embedding_without_direction_is_refused():
    with pytest.raises(UsageError, match="0 throughout"):
        cmmd(torch.ones(4, 3), torch.zeros(4, 3))
