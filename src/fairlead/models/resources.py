"""What a guidance names beside the model it guides: weak models, classifiers, images; loaded once, checked to fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fairlead.core.arguments import as_mapping
from fairlead.core.errors import UsageError
from fairlead.data.decode import decode_images
from fairlead.data.images import to_float
from fairlead.data.names import same_names
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.models.noisy_classifier_model import load_classifier


class Named(Protocol):
    """One thing to load: ``kind`` is "model", "classifier", "clean-classifier" (asked at t = 0 only),
    "any-classifier" (likewise, and its classes need not be the model's) or "image"."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


def load_resources(wanted: Sequence[Named], model: Model, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """name -> what it names, taken from ``given`` or loaded from disk onto the model's device.

    Raises:
        UsageError: if something given is not wanted, or something wanted cannot be loaded or does not fit the model.
    """
    given = as_mapping("resources", given)
    unused = sorted(set(given) - {resource.name for resource in wanted})
    if unused:
        raise UsageError(f"resources: {unused[0]!r} was given, but the guidance names no such thing; leave it out")
    loaded: dict[str, Any] = {}
    for resource in wanted:
        if resource.name in given:
            loaded[resource.name] = given[resource.name]
        elif resource.name not in loaded:
            loaded[resource.name] = _load(resource, model)
        _check_fit(resource, loaded[resource.name], model)
    return loaded


def identities(resources: Mapping[str, Any]) -> dict[str, Any]:
    """name -> what decides the bits of what was loaded under it, JSON-ready."""
    found: dict[str, Any] = {}
    for name, thing in resources.items():
        if isinstance(thing, Tensor):
            found[name] = hashlib.sha256(thing.cpu().contiguous().numpy().tobytes()).hexdigest()
        else:
            metadata = dict(getattr(thing, "metadata", {}))
            found[name] = metadata.get("weights_hash", metadata)
    return found


def _load(resource: Named, model: Model) -> Any:
    if resource.kind == "image":
        return to_float(decode_images([(resource.name, None)], None, resource.name)[0]).to(model.device)
    loads = load if resource.kind == "model" else load_classifier
    return loads(resource.name, device=model.device)


def _check_fit(resource: Named, other: Any, model: Model) -> None:
    if resource.kind == "image":
        return
    needed = ("log_prob", "schedule", "shape", "classes")
    missing = [attribute for attribute in needed if not hasattr(other, attribute)]
    if resource.kind != "model" and missing:
        raise UsageError(
            f"resources: expected {resource.name!r} to be a classifier, with {', '.join(needed)}; {other!r} has no "
            f"{missing[0]}"
        )
    if resource.kind == "model" and not isinstance(other, Model):
        raise UsageError(f"resources: expected {resource.name!r} to be a model from fl.load(...), got {other!r}")
    clean = resource.kind in ("clean-classifier", "any-classifier")  # sees decoded images, at no noise
    agreeing = {"clean-classifier": ("classes",), "any-classifier": ()}.get(resource.kind, ("shape", "classes"))
    for what in agreeing:
        mine, theirs = getattr(model, what), getattr(other, what)
        alike = same_names(mine, theirs) if what == "classes" else mine == theirs
        if not alike and not (what == "classes" and not mine and resource.kind != "model"):
            raise UsageError(
                f"{resource.kind} {resource.name!r} has {what} {list(theirs)}, the model {list(mine)}; they must agree"
            )
    if not clean and _space(model) != _space(other):
        mine, theirs = (f"latents {_space(one)}" if _space(one) else "pixels" for one in (model, other))
        raise UsageError(
            f"{resource.kind} {resource.name!r} sees {theirs}, the model {mine}; they must be trained on the same"
        )
    if not clean and model.schedule.config() != other.schedule.config():
        raise UsageError(
            f"{resource.kind} {resource.name!r} was trained on the noise schedule {other.schedule.config()}, the model "
            f"on {model.schedule.config()}; they must agree"
        )


def _space(thing: Any) -> dict[str, Any]:
    """What decides the latents a model sees; {}: it sees pixels."""
    found = (getattr(thing, "metadata", None) or {}).get("autoencoder") or {}
    return {name: found[name] for name in ("hash", "scale", "shift") if name in found}
