"""The Fréchet distance against closed forms, torchmetrics and its own sampling distribution."""

import math

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.measure import frechet
from fairlead.measure.frechet import (
    Moments,
    frechet_distance,
    frechet_jackknife,
    paired_difference,
    paired_jackknife,
    pseudovalues,
)


def _gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    """Moments whose unbiased covariance is exactly ``covariance``."""
    return Moments(1001, mean.double(), covariance.double() * 1000)


def _covariance(d: int) -> torch.Tensor:
    a = torch.randn(d, d, dtype=torch.float64)
    return a @ a.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def test_commuting_covariances_have_the_closed_form():
    mean_r, mean_g = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 1.0, 0.0])
    var_r, var_g = torch.tensor([1.0, 4.0, 0.25]), torch.tensor([9.0, 1.0, 0.25])
    real, fake = _gaussian(mean_r, var_r.diag()), _gaussian(mean_g, var_g.diag())
    # |(1, 0, 2)|^2 + (3 - 1)^2 + (1 - 2)^2 + 0
    assert frechet_distance(real=real, fake=fake) == pytest.approx(10.0, abs=1e-12)


def test_general_covariances_agree_with_the_square_root_of_the_product():
    import scipy.linalg

    s_r, s_g = _covariance(6), _covariance(6)
    shift = torch.randn(6, dtype=torch.float64)
    root = torch.from_numpy(scipy.linalg.sqrtm((s_r @ s_g).numpy()).real)
    expected = float(shift @ shift + (s_r + s_g - 2 * root).trace())
    found = frechet_distance(real=_gaussian(torch.zeros(6), s_r), fake=_gaussian(shift, s_g))
    assert found == pytest.approx(expected, abs=1e-10)


def test_is_symmetric_and_zero_to_itself():
    a, b = _gaussian(torch.zeros(5), _covariance(5)), _gaussian(torch.ones(5), _covariance(5))
    assert frechet_distance(real=a, fake=b) == pytest.approx(frechet_distance(real=b, fake=a), abs=1e-11)
    assert frechet_distance(real=a, fake=a) == pytest.approx(0.0, abs=1e-11)


def test_agrees_with_torchmetrics():
    from torchmetrics.image import fid

    class Identity(torch.nn.Module):
        num_features = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    # torchmetrics answers in the dtype of the features
    real, fake = torch.randn(200, 8).double(), torch.randn(150, 8).double() @ _covariance(8) + 0.3
    oracle = fid.FrechetInceptionDistance(feature=Identity())
    oracle.update(real, real=True)
    oracle.update(fake, real=False)
    found = frechet_distance(real=Moments.of(real), fake=Moments.of(fake))
    assert found == pytest.approx(float(oracle.compute()), rel=1e-8)


def test_moments_of_parts_join_to_the_moments_of_the_whole_and_come_apart_again():
    x = torch.randn(300, 7, dtype=torch.float64) * 3 + 100
    whole, parts = Moments.of(x), [Moments.of(part) for part in x.split([1, 120, 179])]
    joined = parts[0] + parts[1] + parts[2]
    rest = whole - parts[1]
    expected = Moments.of(torch.cat([x[:1], x[121:]]))
    for found, want in ((joined, whole), (rest, expected)):
        assert found.n == want.n
        torch.testing.assert_close(found.mean, want.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.scatter, want.scatter, rtol=1e-12, atol=1e-12 * float(want.scatter.max()))


def test_order_of_samples_does_not_matter():
    real, fake = Moments.of(torch.randn(100, 6)), torch.randn(80, 6) + 1
    shuffled = fake[torch.randperm(80)]
    a, b = (frechet_distance(real=real, fake=Moments.of(x)) for x in (fake, shuffled))
    assert a == pytest.approx(b, rel=1e-12)


def test_jackknife_removes_the_bias_of_a_finite_sample():
    d, n, draws = 8, 200, 40
    real = _gaussian(torch.zeros(d), torch.eye(d))  # the truth: both are this Gaussian, distance 0
    fakes = [torch.randn(n, d) for _ in range(draws)]
    raw = torch.tensor([frechet_distance(real=real, fake=Moments.of(x)) for x in fakes])
    estimates = [frechet_jackknife(real=real, fake_features=x) for x in fakes]
    debiased = torch.tensor([e.value for e in estimates])
    spread = float(raw.std()) / math.sqrt(draws)
    assert float(raw.mean()) > 20 * spread  # the bias is there
    assert abs(float(debiased.mean())) < 3 * float(debiased.std()) / math.sqrt(draws)
    assert abs(float(debiased.mean())) < 0.05 * float(raw.mean())


@pytest.mark.parametrize("n", [300, 307])
def test_jackknife_error_is_the_spread_over_draws(n):
    d, draws = 5, 60
    real = _gaussian(torch.zeros(d), torch.eye(d))
    estimates = [frechet_jackknife(real=real, fake_features=torch.randn(n, d) * 1.5 + 0.5) for _ in range(draws)]
    spread = float(torch.tensor([e.value for e in estimates]).std())
    error = sum(e.error for e in estimates) / draws
    assert error == pytest.approx(spread, rel=0.3)  # sd of 60 draws: 9 %


def test_jackknife_by_hand():
    """To a point at 0 the distance is |mean|^2 + Tr S_g."""
    x = torch.tensor([[1.0], [2.0], [4.0], [7.0]], dtype=torch.float64)
    real = Moments(10, torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    found = frechet_jackknife(real=real, fake_features=x, blocks=2)
    assert found.n == 4
    halves = torch.randperm(4, generator=torch.Generator().manual_seed(0)).chunk(2)
    means = [float(x[h].mean()) for h in halves]
    variances = [float(x[h].var()) for h in halves]
    by_hand = 2 * (3.5**2 + float(x.var())) - (means[0] ** 2 + means[1] ** 2) / 2 - sum(variances) / 2
    assert found.value == pytest.approx(by_hand, rel=1e-12)


def test_paired_error_is_the_spread_of_the_difference_over_draws():
    d, n, draws = 6, 400, 80
    real = _gaussian(torch.zeros(d), _covariance(d))
    twist = torch.randn(d, d) * 0.1
    found, unpaired = [], []
    for _ in range(draws):
        z = torch.randn(n, d)
        a, b = 1.3 * z + 0.6, 1.2 * z @ (torch.eye(d) + twist) + 0.5
        found.append(paired_difference(real=real, a=a, b=b))
        errors = [frechet_jackknife(real=real, fake_features=x).error for x in (a, b)]
        unpaired.append(math.hypot(*errors))
    spread = float(torch.tensor([e.value for e in found]).std())
    error = sum(e.error for e in found) / draws
    assert error == pytest.approx(spread, rel=0.25)  # sd of 80 draws: 8 %
    assert sum(unpaired) / draws > 2 * error  # what pairing buys here


def _classes(d: int, k: int, n: int) -> tuple[Moments, torch.Tensor, torch.Tensor]:
    """k far classes of unit variance: exact moments of the mixture, the class means, n balanced labels."""
    means = 3 * torch.randn(k, d, dtype=torch.float64)
    centred = means - means.mean(dim=0)
    return _gaussian(means.mean(dim=0), torch.eye(d) + centred.T @ centred / k), means, torch.arange(n) % k


@pytest.mark.parametrize("n", [200, 250, 206])
def test_with_as_many_samples_of_every_label_the_jackknife_needs_the_labels(n):
    d, k, draws = 8, 10, 40
    real, means, labels = _classes(d, k, n)
    truth = 0.0
    if n % k:  # the shares of the labels asked for are then not those of the reference
        shares = torch.bincount(labels).double() / n
        centre = shares @ means
        spread = torch.eye(d) + (means - centre).T @ (shares[:, None] * (means - centre))
        truth = frechet_distance(real=real, fake=_gaussian(centre, spread))
    fakes = [means[labels] + torch.randn(n, d) for _ in range(draws)]
    knowing = [frechet_jackknife(real=real, fake_features=x, labels=labels) for x in fakes]
    blind = [frechet_jackknife(real=real, fake_features=x) for x in fakes]
    raw = sum(frechet_distance(real=real, fake=Moments.of(x)) for x in fakes) / draws
    values = torch.tensor([e.value for e in knowing])
    assert abs(float(values.mean()) - truth) < 0.1 * (raw - truth)
    assert sum(e.value for e in blind) / draws - truth < -(raw - truth)  # overcorrects by more than the bias
    assert sum(e.error for e in blind) > 2 * sum(e.error for e in knowing)


def test_paired_error_with_labels_is_the_spread_at_fixed_labels():
    d, n, draws = 6, 300, 80
    real, means, labels = _classes(d, 5, n)
    found, blind = [], []
    for _ in range(draws):
        z = torch.randn(n, d, dtype=torch.float64)
        a, b = 1.5 * means[labels] + z + 1, 1.3 * means[labels] + 0.9 * z + 1
        found.append(paired_difference(real=real, a=a, b=b, labels=labels))
        blind.append(paired_difference(real=real, a=a, b=b).error)
    spread = float(torch.tensor([e.value for e in found]).std())
    assert sum(e.error for e in found) / draws == pytest.approx(spread, rel=0.25)
    assert sum(blind) / draws > 1.5 * spread


def test_paired_difference_ignores_features_that_never_vary():
    real, a, b = torch.randn(500, 4), torch.randn(300, 4) + 1, torch.randn(300, 4) * 1.5
    dead = [torch.cat([x, torch.full((len(x), 1), 2.0)], dim=1) for x in (real, a, b)]
    plain = paired_difference(real=Moments.of(real), a=a, b=b)
    padded = paired_difference(real=Moments.of(dead[0]), a=dead[1], b=dead[2])
    assert padded.value == pytest.approx(plain.value, rel=1e-6)
    assert padded.error == pytest.approx(plain.error, rel=1e-6)


def test_paired_difference_refuses_what_it_cannot_answer():
    real = Moments.of(torch.randn(1000, 8))
    with pytest.raises(UsageError, match=r"n = 8 samples for d = 8.*n > d"):
        paired_difference(real=real, a=torch.randn(8, 8), b=torch.randn(8, 8))
    with pytest.raises(UsageError, match="too near 0"):
        paired_difference(real=real, a=torch.randn(50, 8), b=torch.randn(50, 8) + 2)
    with pytest.raises(UsageError, match=r"\[20, 8\] and \[21, 8\]"):
        paired_difference(real=real, a=torch.randn(20, 8), b=torch.randn(21, 8))


def test_one_sample_has_no_covariance_and_nan_features_are_named():
    with pytest.raises(UsageError, match="at least 2 samples, got n = 1"):
        frechet_distance(real=Moments.of(torch.randn(5, 3)), fake=Moments.of(torch.randn(1, 3)))
    with pytest.raises(UsageError, match="d = 3 and d = 4"):
        frechet_distance(real=Moments.of(torch.randn(5, 3)), fake=Moments.of(torch.randn(5, 4)))
    with pytest.raises(UsageError, match="1 of 2 samples"):
        Moments.of(torch.tensor([[1.0], [math.nan]]))


def test_linear_algebra_gives_the_thread_setting_back():
    before = torch.get_num_threads()
    frechet_distance(real=Moments.of(torch.randn(5, 3)), fake=Moments.of(torch.randn(5, 3)))
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_near_0_the_paired_jackknife_gives_the_spread_of_the_difference_over_draws():
    """Two settings at the truth but for a little noise of their own: influence values vanish there to first order."""
    generator = torch.Generator().manual_seed(5)
    real = Moments.of(torch.randn(20_000, 3, generator=generator, dtype=torch.float64))
    errors, found = [], []
    for _ in range(150):
        a = torch.randn(240, 3, generator=generator, dtype=torch.float64)
        b = a + 0.3 * torch.randn(240, 3, generator=generator, dtype=torch.float64)
        estimate = paired_jackknife(real=real, a=a, b=b)
        errors.append(estimate.error**2)
        found.append(estimate.value)
    spread = torch.tensor(found).std()
    assert math.sqrt(sum(errors) / len(errors)) == pytest.approx(float(spread), rel=0.25)


@pytest.mark.parametrize("reference", [200, 25])
def test_fewer_samples_than_features_give_the_same_distances_from_a_smaller_matrix(reference):
    """The eigenvalues of F^T x^T x F that are not 0 are those of x F F^T x^T, also where F is of a singular matrix."""
    real, x = Moments.of(torch.randn(reference, 40)), 1.3 * torch.randn(24, 40) + 0.2
    shares, values = pseudovalues(real=real, fake_features=x, blocks=6)
    whole = frechet_distance(real=real, fake=Moments.of(x))
    for index, share, value in zip(frechet._blocks(24, None, 6), shares, values, strict=True):
        rest = torch.ones(24, dtype=torch.bool)
        rest[index] = False
        without = frechet_distance(real=real, fake=Moments.of(x[rest]))
        # the larger matrix has zeros whose roots are rounding, about sqrt(1e-16) each
        assert float(value) == pytest.approx((whole - (1 - float(share)) * without) / float(share), rel=1e-5)
    with pytest.raises(UsageError, match="use one extractor"):
        pseudovalues(real=real, fake_features=torch.randn(24, 41), blocks=6)
