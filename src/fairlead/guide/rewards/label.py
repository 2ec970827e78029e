"""log p(y | x0): the log-probability that a classifier gives the denoised image.

    energy(label("runs/clf"), 4)             the run's own condition
    energy(label("runs/pose", "left"), 2)    a class of any classifier, whatever the model is conditioned on

The classifier is evaluated at t = 0, so any ``fairlead train-classifier`` run works, whatever its noise schedule, and
so does an object with ``log_prob(x_t, t)`` that was trained on clean images only. Classifiers of different attributes
can be added: ``label("runs/digit", "seven") + label("runs/ink", "red")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairlead.core.arguments import plain
from fairlead.core.condition import Condition
from fairlead.core.denoiser import tally
from fairlead.core.errors import UsageError
from fairlead.guide.methods.classifier import class_labels
from fairlead.guide.moment import Context, Resource
from fairlead.guide.rewards.reward import Fn, Reward
from fairlead.models.model import LabelEncoder


@dataclass(frozen=True)
class Label(Reward):
    """``label("runs/clf")``: log p(y | x0) of the run's condition y by a classifier, at t = 0; ``label("runs/clf",
    "seven")``: of that class of the classifier.

    Attributes:
        classifier: a run of ``fairlead train-classifier``, or a name in ``resources=``, as for ``classifier``.
        of_class: a class of the classifier, by its name or index; None for the run's condition.
    """

    classifier: str
    of_class: str | int | None = None
    name: ClassVar[str] = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "of_class", plain(self.of_class))
        if not isinstance(self.classifier, str):
            raise UsageError(f'label: expected the path of a classifier such as "runs/clf", got {self.classifier!r}')
        if isinstance(self.of_class, bool) or not isinstance(self.of_class, str | int | None):
            raise UsageError(f'label: expected a class of the classifier such as "seven", got {self.of_class!r}')

    def of(self, on: Context) -> Fn:
        model = on.resource(self.classifier)
        place = None if self.of_class is None else self._place(on)

        def log_p(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            if tuple(x0.shape[1:]) != tuple(model.shape):
                raise UsageError(
                    f"{self}: the classifier knows {list(model.shape)}, the images are {list(x0.shape[1:])}"
                )
            known: Tensor = model.log_prob(x0, torch.zeros((), dtype=torch.float64))
            tally(len(x0))
            if place is not None:
                return known[:, place]
            label, keep = class_labels(condition, str(self))
            return known.gather(1, label[:, None].to(known.device))[:, 0] * keep.to(known)

        return log_p

    def check(self, on: Context) -> None:
        model = on.resource(self.classifier)
        if not hasattr(model, "log_prob"):
            raise UsageError(f"{self}: {self.classifier!r} is not a classifier: it has no log_prob(x_t, t)")
        if self.of_class is not None:
            self._place(on)
        if tuple(on.model.image_shape) and tuple(on.model.image_shape) != tuple(model.shape):
            raise UsageError(
                f"{self}: the classifier knows {list(model.shape)}, the images are {list(on.model.image_shape)}; train "
                "one on images of that shape"
            )

    def _place(self, on: Context) -> int:
        return LabelEncoder(tuple(on.resource(self.classifier).classes), f"{self}: class").index(self.of_class)

    def resources(self) -> tuple[Resource, ...]:
        return (Resource("clean-classifier" if self.of_class is None else "any-classifier", self.classifier),)

    def needs_condition(self) -> bool:
        return self.of_class is None

    def rows(self) -> int:
        return 1
