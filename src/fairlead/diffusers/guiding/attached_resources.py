"""What a guidance on a pipeline calls by name: weak networks, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.diffusers.guiding.stand_in import behind
from fairlead.diffusers.schedulers import objective_of, schedule_of
from fairlead.guide.terms import Guidance
from fairlead.models.resources import load_resources


class BranchPredictor(Protocol):
    """A denoiser of a pipeline's calls that can ask another network of the same kind."""

    def predict(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction: ...


@dataclass(frozen=True, eq=False)
class Weak:
    """Another network of the same kind, named by a guidance; it sees the arguments of the pipeline's own."""

    network: Callable[..., Any]
    beside: BranchPredictor | None = None

    def denoiser(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        assert self.beside is not None
        return self.beside.predict(self.network, x_t, t, condition)


def attached_resources(pipe: Any, network: str, guidance: Guidance, given: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> what ``guidance`` calls by it.

    Args:
        network: name of the component that denoises; a weak pipeline has it too.
        given: by the user, by name; images may be read from their files instead.

    Raises:
        UsageError: for names that the guidance does not know, those that are missing, and things that do not fit.
    """
    wanted = {resource.name: resource for resource in guidance.resources()}
    unused = sorted(set(given) - set(wanted))
    if unused:
        raise UsageError(f"resources: {unused[0]!r} was given, but the guidance names no such thing; leave it out")
    loaded: dict[str, Any] = {}
    for name, resource in wanted.items():
        if resource.kind == "image" and name not in given:
            loaded |= load_resources((resource,), pipe)  # which knows its device
            continue
        if name not in given:
            raise UsageError(f"{guidance} names {name!r}; pass it: attach(..., resources={{{name!r}: ...}})")
        thing = given[name]
        loaded[name] = _weak(pipe, network, name, thing) if resource.kind == "model" else thing
    return loaded


def check_no_classifier(guidance: Guidance) -> None:
    """Refuse classifiers where the conditions of a pipeline are prompts."""
    for resource in guidance.resources():
        if "classifier" in resource.kind:
            raise UsageError(
                f"{guidance} reads class labels for {resource.name!r}, this pipeline's conditions are prompts; "
                "steer by another score, or by cfg"
            )


def _weak(pipe: Any, component: str, name: str, thing: Any) -> Weak:
    network = thing if isinstance(thing, nn.Module) else getattr(thing, component, None)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"resources: expected {name!r} to be a pipeline or network like the one it guides, got "
            f"{type(thing).__name__}"
        )
    if not isinstance(thing, nn.Module):
        mine, other = pipe.scheduler, thing.scheduler
        if objective_of(other) != objective_of(mine):
            raise UsageError(f"resources: {name!r} predicts another quantity than the pipeline; they must agree")
        if schedule_of(other) != schedule_of(mine):
            raise UsageError(f"resources: {name!r} has another noise schedule than the pipeline")
    return Weak(behind(network))
