"""What several commands need from their options: a model, and an evaluator for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from fairlead.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from fairlead.measure.evaluate import Evaluator
    from fairlead.models.model import Model


def load_model(spec: str, weights: str = "ema", device: str = "auto") -> Model:
    from fairlead.models.load import Weights, load

    if weights not in get_args(Weights):
        raise unknown("weights", weights, get_args(Weights))
    try:
        return load(spec, weights, device)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def evaluator_for(spec: str, data: str | None) -> Evaluator:
    """The evaluator of a checkpoint: its training images as reference, the test split held out, cached classifiers."""
    from fairlead.data.hub import load_data
    from fairlead.measure.evaluate import Evaluator
    from fairlead.measure.judge import cached_classifier
    from fairlead.train.checkpoint import find_checkpoint

    about = find_checkpoint(spec).about
    given = dict(about["train"].get("data") or {})
    if data is not None:
        given["spec"] = data
    if "spec" not in given:
        raise UsageError(f"checkpoint {spec!r} does not say where its data is; pass --data")
    given.pop("limit", None)
    reference, held_out = load_data(**given, split="train"), load_data(**given, split="test")
    judge, features = cached_classifier(reference, "judge"), cached_classifier(reference, "features")
    return Evaluator(reference, held_out, judge, features)
