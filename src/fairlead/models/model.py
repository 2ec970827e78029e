"""What can be sampled: a denoiser with its schedule, an encoder of condition specs, a decoder to images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Objective
from fairlead.core.schedule import NoiseSchedule
from fairlead.data.specs import Spec as Spec


def identity(x0: Tensor) -> Tensor:
    return x0


@dataclass(frozen=True, eq=False)
class Model:
    """A denoiser and what surrounds it.

    Attributes:
        denoiser: called as (x_t, t, condition).
        schedule: the noise schedule it lives on.
        shape: of one sample in the model's space, e.g. (1, 8, 8).
        encode: one spec a sample -> Condition; raises UsageError for a spec the model does not know.
        decode: x0 [n, *shape] -> images [n, c, h, w] in [-1, 1] (the identity for pixel models), differentiable.
        classes: names of the class labels; empty when there are none.
        data_range: lowest and highest value of clean data, None when unbounded (latents, toys).
        objective: what the network returns; some guidance is defined in that space.
        layers: names of the layers that guidance may perturb, by kind: "attention", "block".
        embed: condition -> the same with labels and token ids replaced by embeddings, for guidance that changes them;
            None if the model has none.
        conditions: names of the conditions that the denoiser reads: "label", "text", attributes.
        examples: some specs that it knows: its classes, or prompts of its training; empty if it is unconditional.
        metadata: where it came from, JSON-ready; goes into the provenance of every image.
        device: where x_t must live.
        to_space: images [n, c, h, w] in [-1, 1] -> x0 [n, *shape], the other way; the identity for pixel models.
        image_shape: of what ``decode`` returns for one sample; default: ``shape``.
        reachable: raises UsageError for an attention layer that cannot be perturbed now; None: all can.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    encode: Callable[[Sequence[Spec]], Condition]
    decode: Callable[[Tensor], Tensor]
    classes: tuple[str, ...] = ()
    data_range: tuple[float, float] | None = None
    objective: Objective = "eps"
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    embed: Callable[[Condition], Condition] | None = None
    conditions: tuple[str, ...] = ()
    examples: tuple[Spec, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it is immutable)
    to_space: Callable[[Tensor], Tensor] = identity
    image_shape: tuple[int, ...] = ()
    reachable: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not self.image_shape:
            object.__setattr__(self, "image_shape", self.shape)

    @property
    def conditional(self) -> bool:
        return bool(self.conditions or self.classes)

    @property
    def told(self) -> str:
        """What a condition of it is called: a label, a prompt, or a condition."""
        return {("label",): "label", (): "label", ("text",): "prompt"}.get(self.conditions, "condition")


@dataclass(frozen=True)
class LabelEncoder:
    """Class names or indices -> ``Condition.of(label=...)``, None -> null. ``name`` is what they are names of.

    A string is looked up among the names first, then without regard to case, and read as an index only if it is none
    of them.
    """

    classes: tuple[str, ...]
    name: str = "class"

    def index(self, spec: Spec) -> int:
        """The class index of one spec that is not None."""
        if isinstance(spec, str):
            if spec in self.classes:
                return self.classes.index(spec)
            alike = [i for i, name in enumerate(self.classes) if name.lower() == spec.lower()]
            if len(alike) == 1:
                return alike[0]
            if re.fullmatch("-?[0-9]{1,18}", spec):
                spec = int(spec)
        known, last = ", ".join(self.classes), len(self.classes) - 1
        if isinstance(spec, int) and not isinstance(spec, bool):
            if 0 <= spec <= last:
                return spec
            raise UsageError(f"{self.name} index {spec} is out of range: expected 0 to {last} ({known})")
        raise UsageError(f"unknown {self.name} {spec!r} (known: {known}, or 0 to {last})")

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        label = torch.tensor([0 if spec is None else self.index(spec) for spec in specs])
        keep = torch.tensor([spec is not None for spec in specs])
        return Condition(len(specs), {"label": label}, {"label": keep})


def encode_nothing(specs: Sequence[Spec]) -> Condition:
    """The encoder of an unconditional model: only None is legal."""
    given = [spec for spec in specs if spec is not None]
    if given:
        raise UsageError(f"this model is unconditional, but the condition {given[0]!r} was given; leave it out")
    return Condition(len(specs))
