"""The oracle checked against itself: every closed form against autograd, Bayes, or numerical integration."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.toys import Gaussian, GaussianMixture

LEVELS = [(1.0, 0.05), (0.8, 0.6), (0.3, 2.0), (0.0, 1.0)]


def mixture() -> GaussianMixture:
    """Five components of three classes in three dimensions, nothing equal to anything else."""
    generator = torch.Generator().manual_seed(1)
    return GaussianMixture(
        means=torch.randn(5, 3, generator=generator, dtype=torch.float64),
        stds=torch.tensor([0.3, 0.5, 0.8, 0.4, 1.1]),
        weights=torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5]),
        classes=torch.tensor([0, 1, 1, 2, 0]),
    )


def points(n: int = 6, *shape: int) -> torch.Tensor:
    return torch.randn(n, *(shape or (3,)), dtype=torch.float64)


def gradient(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value.sum(), x)[0]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


LABEL = torch.tensor([0, 1, 2, 0, 1, 2])
KEEP = torch.tensor([True, True, False, False, True, True])


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize(("label", "keep"), [(None, None), (LABEL, None), (LABEL, KEEP)])
def test_mixture_score_is_the_gradient_of_its_log_density(alpha, sigma, label, keep):
    x = points().requires_grad_()
    close(
        mixture().score(x, alpha, sigma, label, keep),
        gradient(mixture().log_density(x, alpha, sigma, label, keep), x),
    )


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS[:3])
@pytest.mark.parametrize("keep", [None, KEEP])
def test_mixture_obeys_tweedie(alpha, sigma, keep):
    x, toy = points(), mixture()
    score = toy.score(x, alpha, sigma, LABEL, keep)
    close(toy.denoise(x, alpha, sigma, LABEL, keep), (x + sigma**2 * score) / alpha)


def test_pure_noise_denoises_to_the_prior_mean():
    toy = mixture()
    share = toy.weights / toy.weights.sum()
    close(toy.denoise(points(), 0.0, 1.0), (share @ toy.means).expand(6, 3))


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_conditional_minus_unconditional_score_is_the_classifier_gradient(alpha, sigma):
    x, toy = points().requires_grad_(), mixture()
    posterior = toy.class_log_posterior(x, alpha, sigma)
    difference = toy.score(x, alpha, sigma, LABEL) - toy.score(x, alpha, sigma)
    close(difference, gradient(posterior.gather(1, LABEL[:, None]), x))


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_class_posterior_is_bayes_rule(alpha, sigma):
    x, toy = points(), mixture()
    posterior = toy.class_log_posterior(x, alpha, sigma)
    prior = torch.tensor([2.5, 2.5, 3.0], dtype=torch.float64) / 8
    for label in range(3):
        likelihood = toy.log_density(x, alpha, sigma, torch.full((6,), label))
        close(posterior[:, label], likelihood + prior[label].log() - toy.log_density(x, alpha, sigma))
    close(posterior.exp().sum(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("label", [None, 0, 1])
def test_density_integrates_to_one_and_its_mean_is_alpha_times_the_data_mean(label):
    toy = GaussianMixture(
        torch.tensor([[-1.0], [0.5], [2.0]]),
        torch.tensor([0.2, 0.5, 0.3]),
        torch.tensor([1.0, 1.0, 2.0]),
        torch.tensor([0, 1, 0]),
    )
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None]
    labels = None if label is None else torch.full((len(x),), label)
    density = toy.log_density(x, 0.7, 0.4, labels).exp()
    mean = {None: (-1 + 0.5 + 4) / 4, 0: (-1 + 4) / 3, 1: 0.5}[label]
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-12)
    assert float(torch.trapezoid(density * x[:, 0], x[:, 0])) == pytest.approx(0.7 * mean, abs=1e-12)


def test_denoise_is_the_integral_over_the_posterior():
    toy = GaussianMixture(
        torch.tensor([[-1.0], [0.5]]), torch.tensor([0.2, 0.5]), torch.tensor([1.0, 3.0]), torch.tensor([0, 1])
    )
    x0 = torch.linspace(-8, 8, 20001, dtype=torch.float64)[:, None]
    x_t = torch.tensor([[0.3]], dtype=torch.float64)
    weight = (toy.log_density(x0, 1.0, 0.0) - 0.5 * ((x_t - 0.7 * x0)[:, 0] / 0.4) ** 2).exp()
    expected = torch.trapezoid(weight * x0[:, 0], x0[:, 0]) / torch.trapezoid(weight, x0[:, 0])
    close(toy.denoise(x_t, 0.7, 0.4)[0, 0], expected)


def test_keep_false_is_the_unconditional_mixture_for_that_sample_only():
    x, toy = points(), mixture()
    mixed = toy.denoise(x, 0.8, 0.6, LABEL, KEEP)
    close(mixed[KEEP], toy.denoise(x, 0.8, 0.6, LABEL)[KEEP])
    close(mixed[~KEEP], toy.denoise(x, 0.8, 0.6)[~KEEP])


def test_levels_and_scales_per_sample_equal_one_call_per_sample():
    x, toy = points(), mixture()
    alpha, sigma = torch.rand(2, 6, 1, dtype=torch.float64)
    scale = torch.linspace(-1, 4, 6, dtype=torch.float64)
    together = toy.guided_denoise(x, alpha, sigma, LABEL, scale)
    for i in range(6):
        one = toy.guided_denoise(x[i : i + 1], alpha[i, 0], sigma[i, 0], LABEL[i : i + 1], float(scale[i]))
        close(together[i : i + 1], one)
    posterior = toy.class_log_posterior(x, alpha, sigma)
    close(posterior[2:3], toy.class_log_posterior(x[2:3], alpha[2, 0], sigma[2, 0]))


def test_guided_denoise_is_unconditional_at_0_conditional_at_1_and_affine_between():
    x, toy = points(), mixture()
    at = {w: toy.guided_denoise(x, 0.8, 0.6, LABEL, w) for w in (0.0, 1.0, 3.0)}
    close(at[0.0], toy.denoise(x, 0.8, 0.6))
    close(at[1.0], toy.denoise(x, 0.8, 0.6, LABEL))
    close(at[3.0], 3 * at[1.0] - 2 * at[0.0])


def test_guided_score_is_the_score_plus_the_scaled_classifier_gradient():
    x, toy, scale = points().requires_grad_(), mixture(), 2.5
    guided = toy.guided_denoise(x, 0.8, 0.6, LABEL, scale)
    classifier = gradient(toy.class_log_posterior(x, 0.8, 0.6).gather(1, LABEL[:, None]), x)
    close((0.8 * guided - x) / 0.36, toy.score(x, 0.8, 0.6) + scale * classifier)


def test_autograd_through_denoise_agrees_with_finite_differences():
    toy = mixture()
    assert torch.autograd.gradcheck(
        lambda x: toy.denoise(x, 0.8, 0.6, LABEL[:2], KEEP[1:3]), (points(2).requires_grad_(),)
    )


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("std", [0.7, torch.tensor([0.2, 0.7, 1.3])])
def test_gaussian_agrees_with_the_gradient_and_with_a_mixture_of_one(alpha, sigma, std):
    mean = torch.tensor([0.5, -1.0, 2.0])
    toy, x = Gaussian(mean, std), points().requires_grad_()
    score = toy.score(x, alpha, sigma)
    close(score, gradient(toy.log_density(x, alpha, sigma), x))
    close(alpha * toy.denoise(x, alpha, sigma), x + sigma**2 * score)
    if isinstance(std, float):
        one = GaussianMixture(
            mean[None], torch.tensor([std], dtype=torch.float64), torch.ones(1), torch.zeros(1).long()
        )
        close(toy.log_density(x, alpha, sigma), one.log_density(x, alpha, sigma))
        close(toy.denoise(x, alpha, sigma), one.denoise(x, alpha, sigma))


def test_gaussian_takes_images():
    mean, std = points(2, 4, 4), points(2, 4, 4).abs() + 0.1
    x = points(3, 2, 4, 4)
    flat = Gaussian(mean.flatten(), std.flatten())
    close(Gaussian(mean, std).log_density(x, 0.8, 0.6), flat.log_density(x.flatten(1), 0.8, 0.6))


def test_flow_solves_the_probability_flow_ode():
    """dx/dt = alpha' x0 + sigma' eps along alpha = 1 - t, sigma = t, by central differences."""
    toy, x, t, h = Gaussian(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.2, 0.7, 1.3])), points(), 0.4, 1e-5
    there, back = (toy.flow(x, (1 - t, t), (1 - s, s)) for s in (t + h, t - h))
    x0 = toy.denoise(x, 1 - t, t)
    eps = (x - (1 - t) * x0) / t
    torch.testing.assert_close((there - back) / (2 * h), eps - x0, rtol=1e-8, atol=1e-8)


def test_flow_there_and_back_is_the_identity_and_noise_flows_to_data():
    toy, x = Gaussian(torch.tensor([0.5, -1.0, 2.0]), 0.3), points()
    close(toy.flow(toy.flow(x, (0.9, 0.2), (0.1, 3.0)), (0.1, 3.0), (0.9, 0.2)), x)
    close(toy.flow(x, (0.0, 1.0), (1.0, 0.0)), toy.mean + 0.3 * x)


def test_samples_have_the_moments_of_their_class():
    toy, n = mixture(), 40_000
    for label in (0, 1, 2):
        x = toy.sample(n, torch.full((n,), label), seed=label)
        share = torch.where(toy.classes == label, toy.weights, 0.0)
        share = share / share.sum()
        mean = share @ toy.means
        second = share @ (toy.stds[:, None] ** 2 + toy.means**2)
        spread = (second - mean**2).sqrt()
        # 5 standard errors; the second moment's is bounded by the fourth moment of the widest component
        assert bool(((x.mean(0) - mean).abs() < 5 * spread / n**0.5).all())
        assert bool(((x**2).mean(0) - second).abs().max() < 5 * (x**2).std(0).max() / n**0.5)


def test_sample_is_repeatable_and_gaussian_samples_are_mean_plus_std_z():
    toy = mixture()
    assert torch.equal(toy.sample(9, seed=3), toy.sample(9, seed=3))
    wide, narrow = Gaussian(torch.ones(3), 2.0).sample(9, seed=4), Gaussian(torch.zeros(3), 1.0).sample(9, seed=4)
    close(wide, 1 + 2 * narrow)


def test_ring_is_evenly_spaced():
    toy = GaussianMixture.ring(classes=4, radius=2.0, std=0.3)
    close(toy.means, torch.tensor([[2.0, 0], [0, 2], [-2, 0], [0, -2]], dtype=torch.float64))
    assert toy.n_classes == 4
    close(toy.class_log_posterior(torch.zeros(1, 2), 0.5, 0.5).exp(), torch.full((1, 4), 0.25, dtype=torch.float64))


def test_wrong_input_is_named():
    toy, x = GaussianMixture.ring(), torch.zeros(2, 2)
    with pytest.raises(UsageError, match="label 4 is not one of 4 classes"):
        toy.denoise(x, 1.0, 1.0, torch.tensor([0, 4]))
    with pytest.raises(UsageError, match="keep mask was given without labels"):
        toy.denoise(x, 1.0, 1.0, keep=torch.tensor([True, False]))
    with pytest.raises(UsageError, match=r"of shape \[2\], got \[3\]"):
        toy.denoise(x, 1.0, 1.0, torch.tensor([0, 1, 2]))
    with pytest.raises(UsageError, match=r"each own a component, got \[0, 2\]"):
        GaussianMixture(torch.zeros(2, 1), torch.ones(2), torch.ones(2), torch.tensor([0, 2]))
    with pytest.raises(UsageError, match="every std > 0"):
        GaussianMixture(torch.zeros(1, 1), torch.zeros(1), torch.ones(1), torch.tensor([0]))
    with pytest.raises(UsageError, match="every std > 0"):
        Gaussian(torch.zeros(1), 0.0)
    with pytest.raises(UsageError, match=r"expected means \[k, d\]"):
        GaussianMixture(torch.zeros(2, 1), torch.ones(3), torch.ones(2), torch.tensor([0, 1]))
