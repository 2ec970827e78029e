"""Particles: K streams for each sample, which compete by a reward (Feynman-Kac steering, Singhal et al. 2025,
2501.06848).

The K streams of a sample are drawn with independent noise. Every few steps each is weighted by exp(r(D) - r(D_before)),
D its denoised estimate then and at the last choice, and where the weights have become uneven the K streams are drawn
anew among themselves by them (systematic resampling). At the end one of the K is drawn by its weight, or the best is
taken. The weights of a path multiply to exp(r(x0)), so that with many particles samples follow

    p(x0) exp(r(x0)) / Z

whatever r is: it needs no gradient. The paper's lambda is a factor of the reward: ``10 * label("runs/clf", "seven")``.
Methods that weigh particles themselves (``fkc``) multiply their weights in.

The noise of particle k of a sample is a pure function of (its seed, k, step), that of k = 0 is the sample's own, and
what is drawn to choose comes from the sample's seed: sample i is the same in any batch, and one particle is plain
sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen, is_count, plain, shown
from fairlead.core.denoiser import autocast
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.guide.methods.fkc import FKC
from fairlead.guide.moment import Context
from fairlead.guide.notation import is_number
from fairlead.guide.observation import Observation
from fairlead.guide.rewards.reward import Fn, Reward, as_reward
from fairlead.guide.terms import Guidance
from fairlead.sample.noise import NoiseStream
from fairlead.sample.sampler import Sampler

Pick = Literal["draw", "best"]
_LEAST = -1e30
"""Stands for a reward of - infinity."""


@dataclass(frozen=True)
class Particles:
    """How many particles a sample has, and how they are resampled.

    Attributes:
        count: K, at least 1; 1 is plain sampling.
        every: steps from one resampling to the next; 0 chooses at the end only; with ``pick="best"`` that is best of K.
        pick: which of the K particles becomes the sample: "draw" draws it by its weight, "best" has the highest reward.
        below: the particles of a sample are drawn anew only where their effective number, 1 / sum of squared weights,
            is below this share of K; 1 always draws, 0 never.
    """

    count: int
    every: int = 4
    pick: Pick = "draw"
    below: float = 0.5

    def __post_init__(self) -> None:
        for name in ("count", "every", "below"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if not is_count(self.count):
            raise UsageError(f"particles: expected a number of particles of at least 1, got {shown(self.count)}")
        if not is_count(self.every, 0):
            raise UsageError(
                f"particles: expected every to be a number of steps, or 0 to choose at the end only, got "
                f"{shown(self.every)}"
            )
        chosen("particles pick", self.pick, get_args(Pick))
        if not is_number(self.below) or not 0 <= self.below <= 1:
            raise UsageError(f"particles: expected below to be a share from 0 to 1, got {shown(self.below)}")


@dataclass(frozen=True)
class Steering:
    """The particles of a run and what they compete by: a reward, terms of the guidance that weigh them, or both."""

    particles: Particles
    reward: Reward | None

    @classmethod
    def of(cls, particles: Any, reward: Any, guidance: Guidance, sampler: Sampler) -> Steering | None:
        """From what was given; None for plain sampling.

        Raises:
            UsageError: if one of them is given without what it needs, or cannot be used together.
        """
        weighing = _weighing(guidance)
        if particles is None:
            if reward is not None:
                raise UsageError(
                    "reward: it chooses among particles, and none were given; pass particles=8, or use its gradient in "
                    "guidance='energy(...)'"
                )
            if weighing:
                raise UsageError(f"{weighing[0]} weighs particles, and none were given; pass particles=16 or more")
            return None
        made = particles if isinstance(particles, Particles) else Particles(particles)
        steering = cls(made, None if reward is None else as_reward("reward", reward))
        if steering.reward is None and not weighing:
            raise UsageError("particles: nothing tells them apart; pass reward=..., or guidance='fkc(cfg(3))'")
        if made.pick == "best" and steering.reward is None:
            raise UsageError("particles pick 'best': without a reward there is no best; pass reward=...")
        if made.count > 1 and made.every and not sampler.stochastic:
            raise UsageError(
                f"particles: sampler '{sampler}' draws no noise, so that copies of a particle stay equal; take ddpm, "
                "ddim(eta=1) or dpmpp_2m_sde, or every=0 to choose at the end only"
            )
        if weighing and getattr(sampler, "recur", 1) > 1:
            raise UsageError(f"{weighing[0]} is exact for steps that are taken once; take ddim(eta=1) without recur")
        return steering

    @property
    def count(self) -> int:
        return self.particles.count

    def described(self) -> dict[str, Any]:
        """What decides the samples, JSON-ready."""
        reward = {} if self.reward is None else {"reward": str(self.reward)}
        return {"particles": asdict(self.particles), **reward}


def _weighing(guidance: Guidance) -> list[FKC]:
    """The terms that weigh particles.

    Raises:
        UsageError: if one is inside of another method, or beside what its weights know nothing of.
    """
    found = [inner for term in guidance.terms for inner in term.nested() if isinstance(inner, FKC)]
    if found and not isinstance(guidance.terms[0], FKC):
        raise UsageError(f"{guidance}: {found[0]} cannot be combined; put nothing around it or before it")
    if found and (len(guidance.terms) > 1 or guidance.finishers):
        raise UsageError(
            f"{guidance}: the weights of {found[0]} know nothing of other methods and finishers; leave them out, and "
            "give what can be scored as reward=..."
        )
    return found


class Population:
    """The particles of one batch while it is sampled: n samples with K rows each, one after the other.

    Args:
        steering: what they compete by.
        on: the model, and the condition of all rows.
        noise: of the samples.
        guidance: whose terms may weigh them.
    """

    def __init__(self, steering: Steering, on: Context, noise: NoiseStream, guidance: Guidance) -> None:
        self.steering, self.on, self.noise = steering, on, noise
        self.weighing = _weighing(guidance)
        self.reward: Fn | None = None if steering.reward is None else steering.reward.of_samples(on)
        self.n, self.k = len(noise.seeds), steering.count
        self.log_weight = torch.zeros(self.n, self.k, dtype=torch.float64)
        self._rewarded = torch.zeros(self.n, self.k, dtype=torch.float64)
        self._observed: int | None = None

    def watching(self, other: Callable[[Observation], object] | None) -> Callable[[Observation], object] | None:
        """What observes the run, for itself where terms weigh particles and for ``other``; None for nobody."""
        if not self.weighing:
            return other
        if other is None:
            return self._observe

        def both(observation: Observation) -> None:
            self._observe(observation)
            other(observation)

        return both

    def _observe(self, observation: Observation) -> None:
        """The weights that terms give in a step, at its first evaluation."""
        seen = observation.seen
        if seen.step.index != self._observed:
            self._observed = seen.step.index
            for term in self.weighing:
                self.log_weight += term.log_weight(seen).cpu().reshape(self.n, self.k)

    def selecting(self, moved: Callable[[Tensor], object]) -> Callable[[int, Tensor, Prediction], Tensor | None]:
        """What a sampler's loop calls before each step; ``moved`` is called with the rows when some are copied."""

        def select(i: int, x_t: Tensor, prediction: Prediction) -> Tensor | None:
            every = self.steering.particles.every
            if not i or not every or i % every:
                return None
            if self.reward is not None:
                self._reweigh(prediction.x0, i)
            rows = self._resampled(i)
            if rows is not None:
                rows = rows.to(x_t.device)
                moved(rows)
            return rows

        return select

    def heaviest(self) -> Tensor:
        """The row of largest weight of each sample, int64 [n]."""
        return self._rows(self.log_weight.argmax(1))

    def final(self, x0: Tensor) -> Tensor:
        """The row of each sample that is its result, int64 [n], from the final samples of all rows."""
        if self.reward is not None:
            self._reweigh(x0, None)
        if self.steering.particles.pick == "best":
            return self._rows(self._rewarded.argmax(1))
        below = self.log_weight.softmax(1).cumsum(1) <= self.noise.uniform(0)[:, None]
        return self._rows(below.sum(1).clamp(max=self.k - 1))

    def _rows(self, places: Tensor) -> Tensor:
        return torch.arange(self.n) * self.k + places

    def _reweigh(self, x0: Tensor, step: int | None) -> None:
        """Multiply the weights by exp(reward now - reward before)."""
        assert self.reward is not None
        t = torch.zeros((), dtype=torch.float64)
        with torch.no_grad(), autocast(x0.device, None):
            wide = x0.to(torch.promote_types(x0.dtype, torch.float32))
            value = self.reward(wide, t, self.on.condition)
        if not isinstance(value, Tensor) or value.shape != (len(x0),):
            given = list(value.shape) if isinstance(value, Tensor) else shown(value)
            raise UsageError(f"reward {self.steering.reward}: expected one number per sample, [{len(x0)}], got {given}")
        now = value.detach().to("cpu", torch.float64).reshape(self.n, self.k)
        if bool((now.isnan() | (now == torch.inf)).any()):
            when = "the final samples" if step is None else f"step {step + 1}"
            bad = int((now.isnan() | (now == torch.inf)).any(1).nonzero()[0])
            raise UsageError(
                f"reward {self.steering.reward}: {when} gave a value that is not finite, first for seed "
                f"{self.noise.seeds[bad]}; expected finite numbers, or - infinity for what may not be"
            )
        now = now.clamp(min=_LEAST)
        self.log_weight += now - self._rewarded
        self._rewarded = now

    def _resampled(self, i: int) -> Tensor | None:
        """The rows to go on with, None where all samples keep theirs; the weights of those drawn anew become equal."""
        weight = self.log_weight.softmax(1)
        uneven = 1 / weight.square().sum(1) < self.steering.particles.below * self.k * (1 - 1e-9)
        if self.steering.particles.below == 1:
            uneven |= True
        if not bool(uneven.any()):
            return None
        at = (self.noise.uniform(i)[:, None] + torch.arange(self.k)) / self.k
        places = torch.searchsorted(weight.cumsum(1).contiguous(), at.contiguous(), right=True).clamp(max=self.k - 1)
        places = torch.where(uneven[:, None], places, torch.arange(self.k))
        self.log_weight = torch.where(uneven[:, None], 0.0, self.log_weight)
        self._rewarded = self._rewarded.gather(1, places)
        return (torch.arange(self.n)[:, None] * self.k + places).flatten()


def repeated(values: Sequence[Any], k: int) -> list[Any]:
    """Each value k times in a row."""
    return [value for value in values for _ in range(k)]
