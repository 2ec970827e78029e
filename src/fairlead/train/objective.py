"""The training loss and the draws it needs: each a pure function of (seed, step), so a run resumes to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.prediction import Objective, target
from fairlead.core.schedule import NoiseSchedule
from fairlead.train.config import Reconstruction, Weighting


def level_of(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Alpha and sigma of a network's input, x_t times the schedule's input scale: float64 [..., 2] for times [...]."""
    return torch.stack(schedule.alpha_sigma(t), dim=-1) * schedule.input_scale(t)[..., None]


@dataclass(frozen=True, eq=False)
class Draw:
    """The random part of one global batch: times [n] float64, noise [n, ...], and who loses the condition [n].

    ``level`` is one more number in [0, 1) for each different time, float64 [n]; None where samples share no times.
    """

    t: Tensor
    eps: Tensor
    dropped: dict[str, Tensor]
    level: Tensor | None = None

    @classmethod
    def of(
        cls,
        n: int,
        shape: tuple[int, ...],
        drops: Mapping[str, float],
        seed: int,
        step: int,
        drop_all: float = 0.0,
        levels: int = 0,
    ) -> Draw:
        """Times are stratified, one in each of n equal parts of (0, 1], which lowers the variance of the loss.

        Args:
            drops: name of a condition -> probability of losing it.
            drop_all: probability of losing all of them.
            levels: at most so many different times, one in each of as many equal parts; 0: n of them.
        """
        generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % 2**63)
        parts = min(levels, n) or n
        offset = torch.rand(parts, generator=generator, dtype=torch.float64)
        place = torch.arange(n) * parts // n
        order = torch.randperm(n, generator=generator)
        t = (1 - (place + offset[place]) / parts)[order]
        eps = torch.randn((n, *shape), generator=generator)
        dropped = {name: torch.rand(n, generator=generator) < drop for name, drop in drops.items()}
        if drop_all:
            everything = torch.rand(n, generator=generator) < drop_all
            dropped = {name: mask | everything for name, mask in dropped.items()}
        level = torch.rand(parts, generator=generator, dtype=torch.float64)[place][order] if levels else None
        return cls(t, eps, dropped, level)

    def part(self, rank: int, world: int) -> Draw:
        """The contiguous share of one process."""
        each = len(self.t) // world
        mine = slice(rank * each, (rank + 1) * each)
        dropped = {name: mask[mine] for name, mask in self.dropped.items()}
        return Draw(self.t[mine], self.eps[mine], dropped, None if self.level is None else self.level[mine])


def drop_condition(condition: Condition, dropped: dict[str, Tensor]) -> Condition:
    """Condition dropout (2207.12598, algorithm 1): null per sample and per name."""
    for name, mask in dropped.items():
        condition = condition.drop(mask, [name])
    return condition


def loss_weight(weighting: Weighting, objective: Objective, log_snr: Tensor) -> Tensor:
    """Weight [n] of the mean squared error of ``objective``'s output at these noise levels.

    "min_snr" is min(SNR, 5) on x0's error (Hang 2023, 2303.09556), "capped_v" min(1 + SNR, 5): with the objective x0 a
    network need not carry the noise to its output, which a narrow one cannot, and is still asked for small errors at
    low noise. Both are translated to the objective: an error in eps is SNR, and one in v (1 + SNR), times that in x0.
    Both are finite at zero terminal SNR for v, x0 and flow.
    """
    if weighting == "uniform":
        return torch.ones_like(log_snr)
    snr = log_snr.exp().clamp(max=1e12)
    capped = (snr + 1 if weighting == "capped_v" else snr).clamp(max=5.0)
    if objective == "eps":
        return capped / snr.clamp(min=1e-12)
    if objective == "v":
        return capped / (1 + snr)
    if objective == "flow":  # eps - x0 = -(alpha + sigma) / sigma times the error of x0, and SNR = (alpha / sigma)^2
        return capped / (1 + snr.sqrt()) ** 2
    return capped


def squared_errors(output: Tensor, x0: Tensor, draw: Draw, schedule: NoiseSchedule, objective: Objective) -> Tensor:
    """Mean squared error of the network's ``output`` [n, ...] against its target, of each sample: float32 [n]."""
    alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(draw.t))
    error = (output.float() - target(x0, draw.eps.to(x0.device), objective, alpha, sigma)).square()
    return error.flatten(1).mean(1)


def diffusion_loss(
    output: Tensor,
    x0: Tensor,
    draw: Draw,
    schedule: NoiseSchedule,
    objective: Objective,
    weighting: Weighting,
) -> Tensor:
    """Weighted mean squared error of the network's ``output`` [n, ...] against its target; scalar float32."""
    weight = loss_weight(weighting, objective, schedule.log_snr(draw.t))
    weight = weight.to(x0.device, torch.float32, non_blocking=x0.is_cuda)
    return (squared_errors(output, x0, draw, schedule, objective) * weight).mean()


def reconstruction_loss(output: tuple[Tensor, Tensor], x: Tensor, error: Reconstruction, kl: float) -> Tensor:
    """Loss of an autoencoder a value of its images, scalar float32: the absolute ("l1") or squared ("l2") error of the
    reconstruction and ``kl`` times the divergence (2112.10752, equation 25, without its perceptual and adversarial
    terms), each summed over an image.

    Args:
        output: reconstruction [n, ...] and divergence [n] in nats.
        x: images [n, ...].
    """
    reconstruction, divergence = output
    difference = (reconstruction.float() - x).flatten(1)
    errors = difference.abs() if error == "l1" else difference.square()
    return errors.mean() + kl * divergence.float().mean() / errors.shape[1]
