"""Several settings or conditions in one: a row of scales, classes mixed by weights, the way from one to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fairlead.app.library import Library
from fairlead.app.trial import Trial
from fairlead.core.errors import UsageError
from fairlead.guide.expression import to_guidance
from fairlead.guide.notation import literal
from fairlead.report.interpolations import planned
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Sampling
from fairlead.tune.answers import tuned_guidance
from fairlead.tune.setting import expand

MOST = 16
"""Settings in a row."""


def guidances(template: str, scales: str) -> list[str]:
    """The expressions of a row: the template at every scale.

    Raises:
        UsageError: for what is no number, too many of them, and as ``expand``.
    """
    words = scales.replace(",", " ").split()
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise UsageError(f"scales: expected numbers such as 0, 1, 1.5, 3, got {word!r}") from None
    if not 1 <= len(found) <= MOST:
        raise UsageError(f"scales: expected 1 to {MOST} numbers, got {len(found)}")
    return expand([template.strip()], found)


def mixture(parts: Sequence[tuple[str, float]]) -> str:
    """``compose(...)`` of conditions with weights; those without a name or a weight are left out.

    Raises:
        UsageError: if none is left, or one is named twice.
    """
    given = [(name.strip(), weight) for name, weight in parts if name.strip() and weight]
    if not given:
        raise UsageError("mixture: expected at least one class or prompt with a weight that is not 0")
    weights = dict(given)
    if len(weights) < len(given):
        raise UsageError("mixture: a class or prompt is named twice; give each once")
    return f"compose({literal(weights)})"


def way(library: Library, trial: Trial, frames: int) -> Plan:
    """The plan of an interpolation between both conditions of a trial, ``n`` seeds, in ``frames`` images each.

    Raises:
        UsageError: for what cannot be interpolated, or is more than the limits.
    """
    model = trial.check(library)
    if frames * trial.n > library.limits.images:
        raise UsageError(
            f"{frames} frames of {trial.n} seeds: the playground takes {library.limits.images} images at once; "
            "lower one of them"
        )
    weights = model.metadata.get("weights_hash")
    text = tuned_guidance(trial.model, trial.guidance, trial.sampler, trial.steps, weights)[0]
    guidance = to_guidance(text)
    library.check(model, guidance, trial.conds)
    first, last = trial.conds
    sampling = Sampling(trial.sampler, trial.steps, batch_size=library.limits.images)
    return planned(model, first, last, trial.n, frames, guidance, trial.seed, sampling)[1]
