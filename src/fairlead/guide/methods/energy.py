"""Guidance by any differentiable reward of the denoised estimate: universal guidance and its family.

    through the network   D + scale (sigma^2 / alpha) grad_{x_t} f(D(x_t))       DPS 2209.14687; FreeDoM 2303.09833;
                                                                                 universal guidance 2302.07121
    through=False         D + scale c_t grad_{x0} f(D),                          MPGD 2311.16424
                          c_t = sigma^2 / (alpha^2 + sigma^2)

f(x0, t, condition) -> [n] is a log-probability or another reward, D the conditional prediction. sigma^2 / alpha is
Tweedie's factor: if f is log p(y | x_t) as a function of D, scale 1 is the posterior mean given y. c_t is the posterior
variance for data from N(0, 1). For such data (sigma^2 / alpha) dD/dx_t equals c_t, so both forms agree.

Options: ``clip`` bounds the length of each sample's shift at scale 1; ``draws`` and ``spread`` smooth f over
x0 ~ N(D, spread^2 c_t), as log mean exp f (LGD-MC, Song et al. 2023, whose r_t is spread = 1). Repeating each step
(FreeDoM's time travel, universal guidance's recurrence) belongs to the sampler: ``ddim(recur=3)``. Rewards are written
by name; in Python any function can be passed: ``fl.energy(my_function, 2)``. Built-in rewards get decoded images. A
function gets samples in the model's own space, or decoded images if it has an attribute ``pixels`` = True. A reward
without a gradient is refused; use it with particles.

Cost: no row in addition to the conditional one; through the network, a backward pass and its memory. ``label`` adds a
row of its classifier for each of ``draws``. Can be added to every other method; with ``cfg`` the reward is still that
of the conditional prediction. Through the network it is off where alpha is 0.

In the terms of TFG (2409.15761, algorithm 1), with its rho, mu, gamma-bar, N_recur and N_iter: through=True is rho with
mu = 0, through=False is mu with rho = 0 and N_iter = 1, the sum of two such terms has both, spread is gamma-bar,
recur is N_recur. Public implementations take the norm of the gradient over the whole batch, so samples influence each
other; here nothing is reduced over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, Weight, is_zero, nonzero_rows, weighted
from fairlead.guide.moment import Context, Moment, Resource, Seen
from fairlead.guide.notation import is_number, plain_fields
from fairlead.guide.per_sample import length
from fairlead.guide.rewards.reward import Fn, Reward, as_reward
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term

MOST_DRAWS = 400


@dataclass(frozen=True)
class Energy(Term):
    """``energy(brightness(0.8), 2)``, ``energy(label("runs/clf"), 4, through=False)``, ``fl.energy(my_function)``.

    Attributes:
        score: a reward by name, or a function (x0, t, condition) -> [n]; it needs a gradient.
        scale: 0 is off.
        through: differentiate through the network.
        clip: longest shift of a sample at scale 1 (Euclidean), > 0.
        draws: number of draws of the smoothing, from the samples' own streams.
        spread: standard deviation of the draws in units of that of the posterior of N(0, 1) data; 0 is no smoothing.
    """

    score: Reward | Fn
    scale: Scale | Sequence[float] | Tensor = 1.0
    through: bool = field(default=True, kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    draws: int = field(default=1, kw_only=True)
    spread: float = field(default=0.0, kw_only=True)
    name: ClassVar[str] = "energy"

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "score", as_reward(self.name, self.score))
        if not self.named.differentiable:
            raise UsageError(
                f"energy: {self.named} has no gradient; steer by it with particles: fl.sample(..., particles=8, "
                "reward=...) or fairlead sample --particles 8 --reward ..."
            )
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        if not isinstance(self.through, bool):
            raise UsageError(f"energy: expected through to be True or False, got {self.through!r}")
        if self.clip is not None and not (is_number(self.clip) and 0 < self.clip < math.inf):
            raise UsageError(f"energy: expected clip to be a positive number, got {self.clip!r}")
        if not is_number(self.spread) or not 0 <= self.spread < math.inf:
            raise UsageError(f"energy: expected spread to be 0 or a positive number, got {self.spread!r}")
        if isinstance(self.draws, bool) or not isinstance(self.draws, int) or not 1 <= self.draws <= MOST_DRAWS:
            raise UsageError(f"energy: expected draws to be an integer from 1 to {MOST_DRAWS}, got {self.draws!r}")
        if self.draws > 1 and not self.spread:
            raise UsageError(
                f"energy: {self.draws} draws without a spread are all the same; give spread=1, or no draws"
            )

    @property
    def named(self) -> Reward:
        assert isinstance(self.score, Reward)
        return self.score

    def omega(self, at: Moment) -> Weight:
        """The scale; through the network 0 where there is no signal in x_t."""
        return 0.0 if self.through and at.step.sigma == math.inf else scale_at(self.scale, at.step)

    def ask(self, at: Moment) -> Ask:
        rows = nonzero_rows(self.omega(at))
        if rows is False:
            return NOTHING
        mask = None if self.through or not isinstance(rows, Tensor) else rows
        return Ask(looks={COND: mask}, graph=self.through, rows=self.draws * self.named.rows())

    def add(self, seen: Seen) -> Tensor | None:
        omega = self.omega(seen)
        if is_zero(omega):
            return None
        on = nonzero_rows(omega)
        rows = on.nonzero()[:, 0].to(seen.x_t.device) if isinstance(on, Tensor) else torch.arange(len(seen.x_t))
        with torch.enable_grad():
            if self.through:
                assert seen.graph is not None
                leaf, x0 = seen.graph
            else:
                x0 = leaf = seen.x0(COND).detach().requires_grad_()
            value = self._smoothed(x0[rows].to(torch.promote_types(x0.dtype, torch.float32)), seen, rows)
            (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=self.through)
        factor = seen.sigma**2 / seen.alpha if self.through else seen.noise_share
        shift = factor * gradient
        if self.clip is not None:
            shift = shift * (self.clip / length(shift).clamp(min=self.clip)).to(shift.dtype)
        return weighted(omega, shift)

    def _smoothed(self, x0: Tensor, seen: Seen, rows: Tensor) -> Tensor:
        """The reward [k] of x0 [k, ...], the samples ``rows`` of the batch; over draws log mean exp."""
        if not self.spread:
            return self._value(x0, seen, rows)
        spread = self.spread * seen.noise_share.sqrt().to(x0.dtype)
        around = [
            x0 + spread * seen.draw(self.name, tuple(seen.x_t.shape[1:]), i).to(seen.x_t)[rows].to(x0.dtype)
            for i in range(self.draws)
        ]
        return torch.stack([self._value(one, seen, rows) for one in around]).logsumexp(0) - math.log(self.draws)

    def _value(self, x0: Tensor, seen: Seen, rows: Tensor) -> Tensor:
        own = seen.of_rows(rows.to("cpu"))
        value = self.named.of_samples(own)(x0, seen.t, own.condition)
        if not isinstance(value, Tensor) or value.shape != (len(x0),) or not value.requires_grad:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(
                f"{self}: expected one number per sample from its reward, [{len(x0)}], differentiable in x0, got "
                f"{given}" + (" without a gradient" if isinstance(value, Tensor) and not value.requires_grad else "")
            )
        return value

    def resources(self) -> tuple[Resource, ...]:
        return self.named.resources()

    def check(self, on: Context) -> None:
        self.named.check(on)

    def needs_condition(self) -> bool:
        return self.named.needs_condition()
