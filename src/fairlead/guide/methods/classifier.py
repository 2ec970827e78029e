"""Classifier guidance (Dhariwal & Nichol 2021, 2105.05233, algorithms 1 and 2): the gradient of log p(y | x_t, t).

    D = D_c + scale (sigma^2 / alpha) grad_x log p(y | x_t, t)

Tweedie's formula, E[x0 | x_t] = (x_t + sigma^2 score) / alpha, turns the paper's gradient of the score (and of eps:
eps - scale sigma grad, its algorithm 2) into this shift of x0. On an unconditional model with an exact classifier
scale 1 is the conditional model, by Bayes' rule. On a conditional model the label counts twice, as in the paper's best
ImageNet results. The label is the run's condition; a sample without one is not changed. An unconditional model takes
its class names from the classifier: ``fairlead sample RUN --cond seven --guidance 'classifier(2, "runs/clf")'``.

Cost: a forward and backward pass of the classifier per sample; none where the scale is 0 or the sample has no label.
Can be added to every other method. The classifier must have the model's noise schedule, shape and classes. Its gradient
must fall with alpha as the exact one does, see ``nets/noisy_classifier.py``. A classifier trained by fairlead 0.1 has
another form and ruins samples at high noise: train it again, or limit it with ``.during(sigma=(0, 3))``. Where alpha
is 0 (the first step of a flow model) the term is off: x_t says nothing about the class there, sigma^2 / alpha is
infinite, and the product is finite only for a classifier that ignores pure noise exactly.

The gradient is that of a sum of per-sample log-probabilities, by a network without batch statistics, outside autocast
and in at least float32. In public implementations a mean over the batch divides it by the batch size, and half
precision rounds it to 0 at high noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import autocast, tally
from fairlead.core.errors import UsageError
from fairlead.guide.branch import Weight, is_zero, nonzero_rows, weighted
from fairlead.guide.moment import Context, Moment, Resource, Seen
from fairlead.guide.scales import Scale, as_scale, scale_at
from fairlead.guide.terms import NOTHING, Ask, Term


@dataclass(frozen=True)
class Classifier(Term):
    """``classifier(4, "runs/clf")``, also with schedules, one scale per sample, maps over pixels.

    Attributes:
        scale: 0 is off, 1 is Bayes' rule.
        classifier: a run of ``fairlead train-classifier``, or a name under which ``resources=`` gives any object with
            ``log_prob(x_t, t) -> [n, classes]``, ``schedule``, ``shape`` and ``classes``.
    """

    scale: Scale | Sequence[float] | Tensor
    classifier: str
    name: ClassVar[str] = "classifier"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_scale(self.name, self.scale))
        if not isinstance(self.classifier, str):
            raise UsageError(
                f'classifier: expected the path of a trained classifier such as "runs/clf", got {self.classifier!r}; '
                "to use an object, pass it in resources= under a name of your own"
            )

    def omega(self, at: Moment) -> Weight:
        """The scale; 0 where there is no signal in x_t."""
        return 0.0 if at.step.sigma == math.inf else scale_at(self.scale, at.step)

    def ask(self, at: Moment) -> Ask:
        return NOTHING if is_zero(self.omega(at)) else Ask(rows=1)

    def add(self, seen: Seen) -> Tensor | None:
        omega = self.omega(seen)
        if is_zero(omega):
            return None
        label, keep = class_labels(seen.condition, str(self))
        rows = keep if isinstance(on := nonzero_rows(omega), bool) else keep & on.to(keep.device)
        if not bool(rows.any()):
            return None
        own, model = rows.nonzero()[:, 0], seen.resource(self.classifier)

        def log_p(x_t: Tensor) -> Tensor:
            chosen: Tensor = model.log_prob(x_t, seen.t)
            tally(len(x_t))
            return chosen.gather(1, label[own, None].to(chosen.device))[:, 0]

        gradient = torch.zeros_like(seen.x_t).index_copy(0, own, gradient_of(log_p, seen.x_t[own]).to(seen.x_t))
        return weighted(omega, seen.sigma**2 / seen.alpha * gradient)

    def resources(self) -> tuple[Resource, ...]:
        return (Resource("classifier", self.classifier),)

    def check(self, on: Context) -> None:
        if not hasattr(on.resource(self.classifier), "log_prob"):
            raise UsageError(f"{self}: {self.classifier!r} is not a classifier: it has no log_prob(x_t, t)")

    def needs_condition(self) -> bool:
        return True


def gradient_of(values: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of per-sample ``values`` [n] with respect to x [n, ...], in float32 at least, outside of autocast."""
    with torch.enable_grad(), autocast(x.device, None):
        leaf = x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
        (gradient,) = torch.autograd.grad(values(leaf).sum(), leaf)
    return gradient


def class_labels(condition: Condition, owner: str) -> tuple[Tensor, Tensor]:
    """The labels int64 [n] of a condition, and which samples have one."""
    if "label" not in condition.values or condition.values["label"].ndim != 1:
        raise UsageError(f"{owner} needs class labels, the run's condition has {sorted(condition.values) or 'nothing'}")
    return condition.values["label"], condition.keep["label"]
