"""Where a parabola through noisy losses is lowest, with an interval that knows of common noise and of lack of fit.

Three choices, each measured on an exact mixture (``python -m benchmarks.tune choices``):

* The parabola is laid over the logarithm of a scale: five settings in steps of 10 % put its vertex 0.08 % off the best
  scale there, and 1.8 % off over the scale itself.
* Its coefficients are plain least squares, and only their errors use the covariance of the settings. Generalised least
  squares weighs by the inverse of that covariance, which common seeds make nearly singular: it believes differences
  that have hardly any noise to the last digit, and what is no parabola in them throws the vertex away: 9 % off
  the best scale where plain least squares is 1.4 % off.
* The interval is that of Fieller for the zero of the slope, widened on both sides by what a cubic term would move the
  vertex, as far as this is more than its own noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.measure.metrics import Estimate
from fairlead.tune.measurements import Together


@dataclass(frozen=True)
class Vertex:
    """The lowest point of a parabola through losses.

    Attributes:
        place: of the vertex.
        low, high: its interval, with ``widening``; infinite if the slope may have no zero.
        curvature: of the parabola, with its error.
        widening: by how much a cubic term moves the vertex, beyond its noise.
    """

    place: float
    low: float
    high: float
    curvature: Estimate
    widening: float

    @property
    def flat(self) -> bool:
        """Whether the curvature is statistically indistinguishable from 0."""
        return not math.isfinite(self.low)


def parabola(places: Sequence[float], losses: Together, z: float, widening: float = 0.0) -> Vertex:
    """Fit ``losses`` of k >= 3 different ``places``, with an interval of ``z`` standard errors.

    Least squares over all places, b = A y; covariance A C A^T. The interval holds every v at which the slope
    b_1 + 2 b_2 v is within z of its standard errors from 0 (Fieller 1954); it is not symmetric. With four places or
    more a cubic is fitted too: its slope at the vertex over its curvature is how far the cubic term moves the vertex.
    Three places cannot tell; their interval takes the ``widening`` that is given, that of a wider window.
    """
    x = torch.tensor(places, dtype=torch.float64)
    middle, unit = float(x.max() + x.min()) / 2, float(x.max() - x.min()) / 2
    u = (x - middle) / unit
    take = _least_squares(u, 2)
    b, c = take @ losses.values, take @ losses.covariance @ take.T
    curvature = Estimate(2 * float(b[2]) / unit**2, 2 * math.sqrt(max(0.0, float(c[2, 2]))) / unit**2, losses.n)
    low, high = _fieller(b, c, z)
    rounding = 1e-12 * float(losses.values.abs().max())
    if not math.isfinite(low) or float(b[2]) <= rounding:
        return Vertex(middle + unit * float(u[losses.values.argmin()]), -math.inf, math.inf, curvature, 0.0)
    vertex = -float(b[1] / (2 * b[2]))
    widening /= unit
    if len(places) > 3:
        cubic = _least_squares(u, 3)
        slope = torch.tensor([1.0, 2 * vertex, 3 * vertex**2], dtype=torch.float64) @ cubic[1:]
        slope_of_parabola = torch.tensor([1.0, 2 * vertex], dtype=torch.float64) @ take[1:]
        noise = slope - slope_of_parabola
        # the curvature of the parabola serves where that of the cubic is less: a step across its inflection is no step
        bend = max(float((2 * cubic[2] + 6 * vertex * cubic[3]) @ losses.values), float(b[2]))
        excess = float(slope @ losses.values) ** 2 - float(noise @ losses.covariance @ noise)
        widening = math.sqrt(max(0.0, excess)) / bend
    return Vertex(
        middle + unit * vertex,
        middle + unit * (low - widening),
        middle + unit * (high + widening),
        curvature,
        unit * widening,
    )


def _least_squares(u: Tensor, degree: int) -> Tensor:
    """The matrix that takes losses at ``u`` [k] to the coefficients [degree + 1, k]."""
    inverse: Tensor = torch.linalg.pinv(torch.stack([u**power for power in range(degree + 1)], dim=1))
    return inverse


def _fieller(b: Tensor, c: Tensor, z: float) -> tuple[float, float]:
    """{v: (b_1 + 2 b_2 v)^2 <= z^2 (C_11 + 4 v C_12 + 4 v^2 C_22)}; everything unless b_2 > z errors."""
    slope, bend = float(b[1]), 2 * float(b[2])
    p = bend**2 - z * z * 4 * float(c[2, 2])
    if bend <= 0 or p <= 0:
        return -math.inf, math.inf
    q = slope * bend - z * z * 2 * float(c[1, 2])
    r = slope**2 - z * z * float(c[1, 1])
    half = math.sqrt(max(0.0, q * q - p * r))
    return (-q - half) / p, (-q + half) / p
