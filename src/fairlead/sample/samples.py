"""The samples of a run: one condition and one seed each, from what was given for one or for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fairlead.core.arguments import is_count, plain, plain_list, shown
from fairlead.core.errors import UsageError
from fairlead.data.names import same_names
from fairlead.guide.moment import Resource
from fairlead.guide.terms import Guidance
from fairlead.models.model import Given, LabelEncoder, Model, Spec


def with_vocabulary(
    model: Model, guidance: Guidance, resources: Mapping[str, Any], wanted: Sequence[Resource] | None = None
) -> Model:
    """An unconditional model that a classifier steers takes conditions in the classifier's words.

    Args:
        wanted: what is named by the guidance and what else steers; default: by the guidance.
    """
    wanted = guidance.resources() if wanted is None else wanted
    steering = [resources[r.name] for r in wanted if r.kind in ("classifier", "clean-classifier")]
    if model.classes or not steering:
        return model
    for term in guidance.terms:
        reads = term.needs_condition() or term.specs()
        if reads and not any("classifier" in resource.kind for resource in term.resources()):
            raise UsageError(f"{term} needs a conditional model, this one is unconditional; drop the term")
    classes = steering[0].classes
    if any(not same_names(other.classes, classes) for other in steering):
        raise UsageError(
            f"{guidance}: its classifiers know different classes; to steer an unconditional model they must agree"
        )
    return replace(model, classes=classes, encode=LabelEncoder(classes), conditions=("label",), examples=classes)


def named_specs(model: Model, specs: Sequence[Given]) -> tuple[Spec, ...]:
    """The specs by name; a run has few different ones."""
    known: dict[Any, Spec] = {}
    named: list[Spec] = []
    for spec in specs:
        key = (type(spec), spec) if isinstance(spec, str | int | None) else None  # 1 and True are equal
        if key is None or key not in known:
            known[key] = model.named(spec)
        named.append(known[key])
    return tuple(named)


def samples_of(cond: Any, n: Any, seeds: Any, start: int | None = None) -> tuple[list[Given], tuple[int, ...]]:
    """One spec and one seed per sample, from what was given for one or for all; ``start`` is how many images a run
    begins with, one of them for all."""
    cond, n, seeds = plain_list(cond), plain(n), plain_list(seeds)
    if n is not None and not is_count(n):
        raise UsageError(f"n: expected an integer of at least 1, got {shown(n)}")
    one = cond is None or isinstance(cond, str | int | Mapping)
    if not (one or (isinstance(cond, Sequence) and not isinstance(cond, bytes | bytearray))):
        raise UsageError(
            f"cond: expected a class name, a prompt, an index, None, or a list of those, got {shown(cond)}"
        )
    if isinstance(seeds, bool | str | bytes) or not isinstance(seeds, int | Sequence):
        raise UsageError(f"seeds: expected an integer or a list of integers, got {shown(seeds)}")
    given = {
        "cond": None if one else len(cond),
        "seeds": None if isinstance(seeds, int) else len(seeds),
        "n": n,
        "start": None if start == 1 else start,
    }
    counts = {name: count for name, count in given.items() if count is not None}
    if len(set(counts.values())) > 1:
        raise UsageError(f"the numbers of samples disagree: {', '.join(f'{k} gives {v}' for k, v in counts.items())}")
    total = next(iter(counts.values()), 1)
    if total < 1:
        raise UsageError("expected at least 1 sample, got none")
    specs = [cond] * total if one else [*map(plain, cond)]
    return specs, tuple(range(seeds, seeds + total)) if isinstance(seeds, int) else tuple(map(plain, seeds))
