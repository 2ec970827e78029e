"""The best of several knobs: candidates from optuna, thinned out by halving on common seeds.

All candidates are measured on the same few seeds, the better half on as many more, and so on until two are left. All
that are compared have the same number of images, as the sampling bias of a Fréchet distance demands, and the same
seeds, so that the comparison is paired. (Successive halving: Jamieson & Talwalkar 2015, 1502.07943.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairlead.core.errors import UsageError
from fairlead.measure.frechet import Moments
from fairlead.tune.constraint import Constraint
from fairlead.tune.measurements import Goal, Measure, Measurement, z_of
from fairlead.tune.recommend import Recommended, recommend
from fairlead.tune.template import Knob

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, eq=False)
class Halved:
    """What a search over several knobs found.

    Attributes:
        points: every candidate, those of most images first, then by loss.
        images: drawn in all.
        recommended: by the rule of ``recommend``; None if no candidate is feasible.
    """

    points: tuple[Measurement, ...]
    images: int
    recommended: Recommended | None


def candidates_for(budget: int, first: int) -> int:
    """The most candidates, a power of two from 4, that can be halved down to two with ``first`` images each at the
    start: 2^c candidates cost first 2^c (1 + (c - 1) / 2) images.

    Raises:
        UsageError: if the budget does not pay for 4 candidates.
    """
    power = 1
    while first * 2 ** (power + 1) * (1 + power / 2) <= budget:
        power += 1
    if power < 2:
        raise UsageError(
            f"search: a budget of {budget} images does not pay for 4 candidates of {first} images and 2 of twice that; "
            f"expected at least {6 * first}"
        )
    return int(2**power)


def halving(
    measure: Measure,
    reference: Moments | None,
    knobs: Sequence[Knob],
    *,
    budget: int,
    first: int,
    objective: Goal | None = None,
    constraints: Sequence[Constraint] = (),
    level: float = 0.95,
    seed: int = 0,
) -> Halved:
    """Search ``knobs`` with at most ``budget`` images, ``first`` for each candidate at the start.

    The first half of the candidates are points of a scrambled Sobol sequence, the rest come from a tree-structured
    Parzen estimator that has seen those before. A candidate that misses a constraint ranks behind all that do not, by
    how far it misses it. A pure function of its arguments (and of what ``measure`` returns).

    Raises:
        UsageError: if optuna is not installed, or the budget does not pay for 4 candidates.
    """
    objective, z = objective or Goal(), z_of(level)
    count = candidates_for(budget, first)
    points = _proposed(measure, reference, knobs, count, first, objective, constraints, seed)
    dropped: list[Measurement] = []
    n = first
    while True:
        points = _ranked(points, objective, constraints)
        if len(points) <= 2:
            break
        half = len(points) // 2
        dropped = points[half:] + dropped
        n *= 2
        points = [one.more(measure, n) for one in points[:half]]
    everything = (*points, *dropped)
    return Halved(everything, sum(one.n for one in everything), recommend(everything, objective, constraints, z))


def _ranked(points: Sequence[Measurement], objective: Goal, constraints: Sequence[Constraint]) -> list[Measurement]:
    """Of as many images each, the best first."""
    losses = objective.of(points).values.tolist()
    misses = [_miss(one, constraints) for one in points]
    return [points[i] for i in sorted(range(len(points)), key=lambda i: (misses[i], losses[i]))]


def _miss(one: Measurement, constraints: Sequence[Constraint]) -> float:
    """The largest violation; 0 if the constraints are satisfied."""
    return max((max(0.0, rule.violation(one)) for rule in constraints), default=0.0)


def _proposed(
    measure: Measure,
    reference: Moments | None,
    knobs: Sequence[Knob],
    count: int,
    n: int,
    objective: Goal,
    constraints: Sequence[Constraint],
    seed: int,
) -> list[Measurement]:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("a search over several knobs needs optuna; pip install 'fairlead[tune]'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna calls some samplers experimental
            sobol = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
            parzen = optuna.samplers.TPESampler(multivariate=True, n_startup_trials=0, seed=seed)
            study = optuna.create_study(sampler=sobol)
        found: list[Measurement] = []
        space: dict[str, BaseDistribution] = {
            str(i): optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)
            for i, knob in enumerate(knobs)
        }
        for k in range(count):
            study.sampler = sobol if k < count // 2 else parzen
            trial = study.ask(space)
            setting = tuple(float(trial.params[str(i)]) for i in range(len(knobs)))
            seeds = range(seed, seed + n)
            one = Measurement(setting, seeds, measure(setting, seeds), reference)
            found.append(one)
            _tell(study, trial, one, objective, constraints)
        return found
    finally:
        optuna.logging.set_verbosity(before)


def _tell(
    study: optuna.Study, trial: optuna.Trial, one: Measurement, objective: Goal, constraints: Sequence[Constraint]
) -> None:
    """The loss, or for what misses a constraint a value behind all losses that rises with the miss."""
    miss = _miss(one, constraints)
    loss = float(objective.of([one]).values[0])
    study.tell(trial, loss if miss == 0 else 1e6 * (1 + math.atan(miss)))
