"""What a guidance and a run must agree on, checked before sampling starts."""

from __future__ import annotations

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.terms import Guidance


def check_condition(guidance: Guidance, condition: Condition) -> None:
    """Raise UsageError when the condition of a whole run is one that the guidance never uses, or lacks."""
    replacing = next(iter(guidance.replacing()), None)
    steering = next((term for term in guidance.terms if term.needs_condition()), None)
    if replacing is not None and steering is not None:
        raise UsageError(
            f"{replacing} replaces the run's condition, and {steering} steers towards that condition; keep one of the "
            "two"
        )
    if replacing is not None and not condition.is_null:
        raise UsageError(f"{replacing} replaces the run's condition, but a condition was given too; leave it out")
    for term in guidance.terms:
        if term.needs_condition() and condition.is_null:
            raise UsageError(
                f"{term} steers towards the run's condition, but none was given; pass one or drop the term"
            )


def check_samples(guidance: Guidance, n: int) -> None:
    """Raise UsageError when a per-sample scale is not for n samples."""
    for term in guidance.terms:
        if term.samples() not in (None, n):
            raise UsageError(
                f"{term} has scales for {term.samples()} samples, the run has {n}; give one scale per sample"
            )


def check_unweighed(guidance: Guidance) -> None:
    """Raise UsageError when a method weighs particles, and there are none."""
    for term in guidance.terms:
        weighing = next((inner for inner in term.nested() if inner.weighs), None)
        if weighing is not None:
            raise UsageError(
                f"{weighing} weights particles, and an attached pipeline has none; load the pipeline with fl.load and "
                "sample it"
            )
