"""Toys whose best scale is known: a model that is wrong on purpose, and features whose moments are exact.

Data is a ring of four Gaussian classes (radius 2, std 0.5). The model believes in a ring that is too small and too wide
(radius 1.5, std 0.7) and turned by ``turn``: guidance mends the first two, at the price of too narrow classes, and
cannot mend the third. Its distance to the data is therefore lowest at a scale above 1 and is not 0 there; ``turn`` sets
how much of the distance, and of its noise, is common to all scales.

A feature is the sample turned back by the angle of its class, so that all classes have one distribution, and the
reference is N((2, 0), 0.5^2 I) exactly. Samples come from 8 steps of DDIM in float64.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairlead.data.toys import GaussianMixture
from fairlead.measure.frechet import Moments, frechet_distance
from fairlead.tune.measurements import Batch, Values

RADIUS, STD, SMALL, WIDE, CLASSES, STEPS = 2.0, 0.5, 1.5, 0.7, 4, 8
BEST = {0.0: 1.6761636, 0.3: 1.5343240, 0.5: 1.3232330}
"""turn -> the scale of lowest distance of the mixture; printed by ``python -m benchmarks.tune truth``."""


def moments(mean: Tensor, covariance: Tensor) -> Moments:
    """Moments whose unbiased covariance is exactly ``covariance``."""
    return Moments(1001, mean, covariance * 1000)


REFERENCE = moments(torch.tensor([RADIUS, 0.0], dtype=torch.float64), STD**2 * torch.eye(2, dtype=torch.float64))


def ring(turn: float) -> GaussianMixture:
    """What the model believes."""
    plain = GaussianMixture.ring(CLASSES, SMALL, WIDE)
    return GaussianMixture(turned(plain.means, torch.tensor(turn)), plain.stds, plain.weights, plain.classes)


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """x [n, 2], anticlockwise."""
    c, s = angle.double().cos(), angle.double().sin()
    return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], dim=1)


def levels() -> tuple[Tensor, Tensor]:
    angle = torch.linspace(math.pi / 2, 0, STEPS + 1, dtype=torch.float64)
    return angle.cos(), angle.sin()


def ddim(denoise, z: Tensor) -> Tensor:
    """From noise z to x0; ``denoise(x_t, alpha, sigma)``."""
    alpha, sigma = levels()
    for i in range(STEPS):
        x0 = denoise(z, alpha[i], sigma[i])
        z = alpha[i + 1] * x0 + sigma[i + 1] * (z - alpha[i] * x0) / sigma[i]
    return z


@dataclass
class Toy:
    """A ``Measure`` of draw ``replicate``; sample i has the noise of seed i and label i mod 4."""

    turn: float
    replicate: int = 0
    images: int = 0
    model: GaussianMixture = field(init=False)

    def __post_init__(self) -> None:
        self.model = ring(self.turn)
        generator = torch.Generator().manual_seed(self.replicate)
        self.pool = torch.randn(1 << 14, 2, dtype=torch.float64, generator=generator)

    def __call__(self, setting: Values, seeds: range) -> Batch:
        labels = torch.arange(seeds.start, seeds.stop) % CLASSES
        self.images += len(seeds)
        x0 = self.sample(setting[0], self.pool[seeds.start : seeds.stop], labels)
        angle = 2 * math.pi * labels.double() / CLASSES
        features = turned(x0, -angle)
        hits = (features[:, 0] > features[:, 1].abs()).double()  # nearest of the four class means
        return Batch(features, {"accuracy": hits}, 2.0 * STEPS * len(seeds), labels)

    def sample(self, scale: float, z: Tensor, labels: Tensor) -> Tensor:
        return ddim(lambda x, alpha, sigma: self.model.guided_denoise(x, alpha, sigma, labels, scale), z)

    def exact(self, scale: float, nodes: int = 90, reach: float = 6.5) -> Moments:
        """Moments of the features: the trapezoid rule over z, to 10 digits, for class 0, whose frame is that of x0."""
        line = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
        weight = (-0.5 * line**2).exp()
        weight = torch.outer(weight, weight).flatten() / weight.sum() ** 2
        x0 = self.sample(scale, torch.cartesian_prod(line, line), torch.zeros(nodes**2, dtype=torch.long))
        mean = weight @ x0
        return moments(mean, (x0 - mean).T @ (weight[:, None] * (x0 - mean)))

    def distance(self, scale: float) -> float:
        return frechet_distance(real=REFERENCE, fake=self.exact(scale))

    def best(self, low: float = 1.0, high: float = 4.0) -> float:
        """Where the exact distance is lowest: the zero of its central difference over log(scale), by bisection."""
        a, b = math.log(low), math.log(high)
        while b - a > 1e-9:
            middle, step = (a + b) / 2, 1e-3
            rising = self.distance(math.exp(middle + step)) > self.distance(math.exp(middle - step))
            a, b = (a, middle) if rising else (middle, b)
        return math.exp((a + b) / 2)


class Linear(Toy):
    """One Gaussian a class and one Gaussian for all of them: every step is linear, and so are the samples in z."""

    def line(self, scale: float) -> tuple[float, Tensor]:
        """(gain, offset) of x0 = gain z + offset for class 0."""
        centre = SMALL * turned(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor(self.turn))
        spread = WIDE**2 + SMALL**2 / 2  # the covariance of all classes together is this times I

        def denoise(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            null = alpha * spread / (alpha**2 * spread + sigma**2) * x
            cond = centre + alpha * WIDE**2 / (alpha**2 * WIDE**2 + sigma**2) * (x - alpha * centre)
            return null + scale * (cond - null)

        offset = ddim(denoise, torch.zeros(1, 2, dtype=torch.float64))
        gain = ddim(denoise, torch.ones(1, 2, dtype=torch.float64)) - offset
        return float(gain[0, 0]), offset[0]

    def sample(self, scale: float, z: Tensor, labels: Tensor) -> Tensor:
        gain, offset = self.line(scale)
        return gain * z + turned(offset.expand(len(z), 2), 2 * math.pi * labels.double() / CLASSES)

    def exact(self, scale: float, nodes: int = 0, reach: float = 0) -> Moments:
        gain, offset = self.line(scale)
        return moments(offset, gain**2 * torch.eye(2, dtype=torch.float64))
