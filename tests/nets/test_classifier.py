"""The anchored classifier: where it is exact, what is left of it where noise hides everything, what it used to be."""

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear
from fairlead.data.toys import GaussianMixture
from fairlead.guide.methods.classifier import gradient_of
from fairlead.models.noisy_classifier_model import NoisyClassifierModel
from fairlead.nets.noisy_classifier import ClassMoments, NoisyClassifier
from tests.nets.tiny import shaken

SCHEDULES = {"vp": vp_linear(), "cosine": VPCosine(), "flow": RectifiedFlow(), "ve": VE()}
CLASSES, SIZE, RANK = 4, 8, 3
VALUES = SIZE**2


def moments(isotropic: bool = True) -> ClassMoments:
    torch.manual_seed(0)
    share = torch.tensor([0.1, 0.2, 0.3, 0.4])
    axes = torch.linalg.qr(torch.randn(CLASSES, VALUES, RANK, dtype=torch.float64)).Q.mT
    rest = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    variance = rest[:, None].expand(-1, RANK) if isotropic else torch.rand(CLASSES, RANK, dtype=torch.float64) + 0.5
    return ClassMoments(share, torch.randn(CLASSES, VALUES, dtype=torch.float64), axes, variance, rest)


def anchored(given: ClassMoments, fresh: bool = True) -> NoisyClassifier:
    torch.manual_seed(1)
    network = NoisyClassifier(1, SIZE, CLASSES, channels=8, embed=16, anchor=RANK)
    network = network.double().eval() if fresh else shaken(network)
    assert network.gaussians is not None
    network.gaussians.set_moments(given)
    return network


def classifier(network: NoisyClassifier, schedule: NoiseSchedule) -> NoisyClassifierModel:
    return NoisyClassifierModel(network.requires_grad_(False), schedule, (1, SIZE, SIZE), tuple("abcd"))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("time", [0.02, 0.4, 0.97])
def test_a_fresh_one_is_exact_for_classes_that_are_gaussians(name: str, time: float) -> None:
    schedule, given, t = SCHEDULES[name], moments(), torch.tensor(time, dtype=torch.float64)
    exact = GaussianMixture(given.mean, given.rest.sqrt(), given.share, torch.arange(CLASSES))
    alpha, sigma = schedule.alpha_sigma(t)
    x0 = exact.sample(16, seed=2)
    x_t = alpha * x0 + sigma * torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = classifier(anchored(given), schedule).log_prob(x_t.reshape(16, 1, SIZE, SIZE), t)
    torch.testing.assert_close(found, exact.class_log_posterior(x_t, alpha, sigma), rtol=1e-6, atol=1e-7)


def test_directions_of_their_own_variance_are_those_of_a_full_covariance() -> None:
    given, alpha, sigma = moments(isotropic=False), 0.6, 0.8
    x = torch.randn(5, VALUES, dtype=torch.float64)
    level = torch.tensor([[alpha, sigma]], dtype=torch.float64).expand(5, 2)
    gaussians = anchored(given).gaussians
    assert gaussians is not None
    found = gaussians(x, level)
    for label in range(CLASSES):
        axes, variance, rest = given.axes[label], given.variance[label], given.rest[label]
        covariance = rest * torch.eye(VALUES) + axes.T @ torch.diag(variance - rest) @ axes
        normal = torch.distributions.MultivariateNormal(
            alpha * given.mean[label], alpha**2 * covariance + sigma**2 * torch.eye(VALUES, dtype=torch.float64)
        )
        expected = given.share[label].log() + normal.log_prob(x) + VALUES / 2 * math.log(2 * math.pi)
        torch.testing.assert_close(found[:, label], expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_where_alpha_vanishes_the_answer_is_the_share_of_each_class(name: str) -> None:
    """Whatever the network has become."""
    t, x = torch.ones((), dtype=torch.float64), torch.randn(6, 1, SIZE, SIZE, dtype=torch.float64)
    given = moments(isotropic=False)
    found = classifier(anchored(given, fresh=False), SCHEDULES[name]).log_prob(x, t)
    alpha = float(SCHEDULES[name].alpha_sigma(t)[0])
    assert float((found - given.share.log()).abs().max()) <= 100 * alpha + 1e-7


def test_what_is_learned_is_multiplied_by_alpha_sigma_squared_in_the_guided_x0() -> None:
    given, schedule = moments(), VPCosine()
    fresh, learned = anchored(given), anchored(given, fresh=False)
    x = torch.randn(6, 1, SIZE, SIZE, dtype=torch.float64)

    def shift(network: NoisyClassifier, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t)
        model = classifier(network, schedule)
        return sigma**2 / alpha * gradient_of(lambda leaf: model.log_prob(leaf, t)[:, 0], x)

    ratios = []
    for time in (0.5, 0.8, 0.95, 0.99, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = schedule.alpha_sigma(t)
        apart = (shift(learned, t) - shift(fresh, t)).flatten(1).norm(dim=1).max()
        ratios.append(float(apart / (alpha * sigma**2)))
    assert max(ratios) < 10 * min(ratios)  # alpha itself falls by a factor of 775


def test_without_an_anchor_it_is_the_network_of_before() -> None:
    torch.manual_seed(0)
    network = NoisyClassifier(1, SIZE, CLASSES, channels=8, embed=16)
    assert "gaussians.mean" not in network.state_dict()
    assert network.head.weight.shape == (CLASSES, 16)
    x, time = torch.randn(3, 1, SIZE, SIZE), torch.tensor([1.0, 500.0, 900.0])
    level = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.1, 1.0]])
    assert torch.equal(network(x, time), network(x, time, level))


def test_an_anchor_below_0_is_refused() -> None:
    with pytest.raises(UsageError, match="expected anchor >= 0, got -1"):
        NoisyClassifier(1, SIZE, CLASSES, anchor=-1)
