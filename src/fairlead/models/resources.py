"""What a guidance names beside the model it guides: weak models and classifiers, loaded once and checked to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fairlead.core.errors import UsageError
from fairlead.models.load import load
from fairlead.models.model import Model


class Named(Protocol):
    """One thing to load: ``kind`` is "model" or "classifier"."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


def load_resources(wanted: Sequence[Named], model: Model, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """name -> what it names, taken from ``given`` or loaded from disk onto the model's device.

    Raises:
        UsageError: if something given is not wanted, or something wanted cannot be loaded or does not fit the model.
    """
    given = given or {}
    unused = sorted(set(given) - {resource.name for resource in wanted})
    if unused:
        raise UsageError(f"resources: {unused[0]!r} was given, but the guidance names no such thing; leave it out")
    loaded: dict[str, Any] = {}
    for resource in wanted:
        if resource.name in given:
            loaded[resource.name] = given[resource.name]
        else:
            loaded[resource.name] = load(resource.name, device=model.device)
        _check_fit(resource, loaded[resource.name], model)
    return loaded


def _check_fit(resource: Named, other: Any, model: Model) -> None:
    for what in ("shape", "classes"):
        mine, theirs = getattr(model, what), getattr(other, what)
        if mine != theirs and not (what == "classes" and not mine):
            raise UsageError(
                f"{resource.kind} {resource.name!r} has {what} {list(theirs)}, the model {list(mine)}; they must agree"
            )
    if model.schedule.config() != other.schedule.config():
        raise UsageError(
            f"{resource.kind} {resource.name!r} was trained on the noise schedule {other.schedule.config()}, the model "
            f"on {model.schedule.config()}; they must agree"
        )
