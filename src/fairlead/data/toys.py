"""Exact toys: Gaussian data whose noised marginals, scores, posterior means, class posteriors, flow are closed forms.

With x_t = alpha x0 + sigma eps, a component N(m, s^2) becomes N(alpha m, v), v = alpha^2 s^2 + sigma^2. Everything is
float64, differentiable with respect to x_t, and computed on the device of x_t. ``alpha`` and ``sigma`` broadcast
against x_t: shape [] or [n, 1] (for samples of more axes [n, 1, 1, ...]).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.arguments import as_tensor, is_count, plain, shown
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError

Level = Tensor | float


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x0 ~ N(mean, std^2), independent per element.

    Args:
        mean: [d...].
        std: > 0, of shape [] or [d...].
    """

    mean: Tensor
    std: Tensor | float

    __repr__ = brief

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, as_tensor(f"toy: {name}", getattr(self, name), wide=True).double())
        if not bool((self._std > 0).all()):
            raise UsageError("toy: expected every std > 0")

    @property
    def _std(self) -> Tensor:
        return torch.as_tensor(self.std)

    def _centred(self, x_t: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x_t - alpha m [n, d...], v, s^2, m)."""
        mean, variance = self.mean.to(x_t.device), self._std.to(x_t.device) ** 2
        alpha, sigma = _level(alpha, x_t), _level(sigma, x_t)
        return x_t.double() - alpha * mean, alpha**2 * variance + sigma**2, variance, mean

    def log_density(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """log p(x_t), [n]."""
        centred, v, _, _ = self._centred(x_t, alpha, sigma)
        return (-0.5 * (centred**2 / v + (2 * math.pi * v).log())).flatten(1).sum(1)

    def score(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Gradient of log p(x_t), [n, d...]."""
        centred, v, _, _ = self._centred(x_t, alpha, sigma)
        return -centred / v

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """E[x0 | x_t], [n, d...]."""
        centred, v, variance, mean = self._centred(x_t, alpha, sigma)
        return mean + _level(alpha, x_t) * variance / v * centred

    def flow(self, x_t: Tensor, start: tuple[Level, Level], end: tuple[Level, Level]) -> Tensor:
        """Where the probability-flow ODE carries x_t from ``start`` (alpha, sigma) to ``end``, [n, d...].

        The solution is x = alpha m + sqrt(alpha^2 s^2 + sigma^2) z with constant z.
        """
        centred, v, variance, mean = self._centred(x_t, *start)
        alpha, sigma = (_level(value, x_t) for value in end)
        return alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * centred / v.sqrt()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """x0 [n, d...], a pure function of (n, seed)."""
        z = torch.randn(n, *self.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return self.mean + self._std * z


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Isotropic Gaussian components, each belonging to a class; a class may own several.

    ``label`` int64 [n] restricts sample i to the components of that class; None, or ``keep`` (bool [n]) False for
    that sample, means all components: the unconditional mixture.

    Args:
        means: [k, d].
        stds: [k], > 0.
        weights: [k], > 0; used divided by their sum.
        classes: int64 [k], component -> class; every class 0 .. C-1 owns a component.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor
    classes: Tensor

    __repr__ = brief

    def __post_init__(self) -> None:
        for name in ("means", "stds", "weights"):
            object.__setattr__(self, name, as_tensor(f"toy mixture: {name}", getattr(self, name), wide=True).double())
        object.__setattr__(self, "classes", as_tensor("toy mixture: classes", self.classes).long())
        k = self.means.shape[0] if self.means.ndim else 0
        if self.means.ndim != 2 or not self.stds.shape == self.weights.shape == self.classes.shape == (k,):
            raise UsageError(
                "toy mixture: expected means [k, d] and stds, weights, classes [k], got "
                f"{[list(v.shape) for v in (self.means, self.stds, self.weights, self.classes)]}"
            )
        if not bool((self.stds > 0).all() and (self.weights > 0).all()):
            raise UsageError("toy mixture: expected every std > 0 and every weight > 0")
        owned = sorted(set(self.classes.tolist()))
        if owned != list(range(len(owned))):
            raise UsageError(f"toy mixture: expected classes 0 to C-1 that each own a component, got {owned}")

    @classmethod
    def ring(cls, classes: int = 4, radius: float = 2.0, std: float = 0.3) -> GaussianMixture:
        """One component per class, equally weighted and spaced on a circle in two dimensions."""
        classes, radius, std = plain(classes), plain(radius), plain(std)
        numbers = all(isinstance(value, int | float) and abs(value) < 1e300 for value in (radius, std))
        if not is_count(classes) or not numbers:
            raise UsageError(
                "toy mixture: expected a number of classes, a radius and a std > 0, got "
                f"{shown((classes, radius, std))}"
            )
        angle = 2 * math.pi * torch.arange(classes, dtype=torch.float64) / classes
        means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        ones = torch.ones(classes, dtype=torch.float64)
        return cls(means, std * ones, ones, torch.arange(classes))

    @property
    def n_classes(self) -> int:
        return int(self.classes.max()) + 1

    def log_density(
        self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """log p(x_t) or log p(x_t | label) of the noised marginal, [n]."""
        chosen = self._chosen(x_t, label, keep)
        prior = self._log_weights(x_t).where(chosen, -torch.inf).logsumexp(1)
        return self._log_joint(x_t, alpha, sigma).where(chosen, -torch.inf).logsumexp(1) - prior

    def score(
        self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Gradient of :meth:`log_density` with respect to x_t, [n, d]."""
        centred, v = self._centred(x_t, alpha, sigma)
        share = self._responsibility(x_t, alpha, sigma, label, keep)
        return -((share / v)[..., None] * centred).sum(1)

    def denoise(
        self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """The posterior mean E[x0 | x_t] or E[x0 | x_t, label], [n, d]."""
        centred, v = self._centred(x_t, alpha, sigma)
        gain = _level(alpha, x_t) * self.stds.to(x_t.device) ** 2 / v
        each = self.means.to(x_t.device) + gain[..., None] * centred
        return (self._responsibility(x_t, alpha, sigma, label, keep)[..., None] * each).sum(1)

    def guided_denoise(
        self,
        x_t: Tensor,
        alpha: Level,
        sigma: Level,
        label: Tensor,
        scale: Level,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Classifier-free guidance in x0, D_u + scale (D_c - D_u), [n, d] (2207.12598).

        Args:
            scale: of shape [], [n] or [n, 1]; 0 is unconditional, 1 conditional.
        """
        unconditional = self.denoise(x_t, alpha, sigma)
        conditional = self.denoise(x_t, alpha, sigma, label, keep)
        return unconditional + _level(scale, x_t).reshape(-1, 1) * (conditional - unconditional)

    def class_log_posterior(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """log p(class | x_t), [n, C]: the exact noisy classifier."""
        joint = self._log_joint(x_t, alpha, sigma)
        owned = self.classes.to(x_t.device) == torch.arange(self.n_classes, device=x_t.device)[:, None]
        per_class = joint[:, None].where(owned, -torch.inf).logsumexp(2)
        return per_class - joint.logsumexp(1, keepdim=True)

    def sample(self, n: int, label: Tensor | None = None, seed: int = 0) -> Tensor:
        """x0 [n, d], a pure function of (n, label, seed)."""
        generator = torch.Generator().manual_seed(seed)
        chosen = self._chosen(torch.empty(n, 0), label, None)
        odds = self.weights.where(chosen, 0.0).expand(n, -1)
        component = odds.multinomial(1, generator=generator)[:, 0]
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[component] + self.stds[component, None] * z

    def _centred(self, x_t: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """x_t - alpha m, [n, k, d], and v, [n, k] or [k]."""
        alpha, sigma = _level(alpha, x_t), _level(sigma, x_t)
        centred = x_t.double()[:, None] - alpha[..., None] * self.means.to(x_t.device)
        return centred, alpha**2 * self.stds.to(x_t.device) ** 2 + sigma**2

    def _log_weights(self, x_t: Tensor) -> Tensor:
        return (self.weights / self.weights.sum()).log().to(x_t.device)

    def _log_joint(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """log of weight times density of each component, [n, k]."""
        centred, v = self._centred(x_t, alpha, sigma)
        d = self.means.shape[1]
        return self._log_weights(x_t) - 0.5 * ((centred**2).sum(2) / v + d * (2 * math.pi * v).log())

    def _chosen(self, x_t: Tensor, label: Tensor | None, keep: Tensor | None) -> Tensor:
        """Which components each sample may come from, bool [n, k] or [1, k]."""
        if label is None:
            if keep is not None:
                raise UsageError("toy mixture: a keep mask was given without labels; give label, int64 [n]")
            return torch.ones(1, len(self.means), dtype=torch.bool, device=x_t.device)
        if label.shape != (len(x_t),) or (keep is not None and keep.shape != (len(x_t),)):
            raise UsageError(
                f"toy mixture: expected label and keep of shape [{len(x_t)}], got {list(label.shape)} and "
                f"{None if keep is None else list(keep.shape)}"
            )
        label = label.to(x_t.device)
        chosen = label[:, None] == self.classes.to(x_t.device)
        if keep is not None:
            chosen = chosen | ~keep.to(x_t.device)[:, None]
        if not bool(chosen.any(1).all()):
            wrong = int(label[~chosen.any(1)][0])
            raise UsageError(f"toy mixture: label {wrong} is not one of {self.n_classes} classes")
        return chosen

    def _responsibility(
        self, x_t: Tensor, alpha: Level, sigma: Level, label: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        """p(component | x_t, label), [n, k]."""
        joint = self._log_joint(x_t, alpha, sigma)
        return joint.where(self._chosen(x_t, label, keep), -torch.inf).softmax(1)


def _level(value: Level, x_t: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=x_t.device)
