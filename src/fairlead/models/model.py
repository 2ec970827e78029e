"""What can be sampled: a denoiser with its schedule, an encoder of condition specs, a decoder to images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import chosen, is_count, plain, plain_list, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Denoiser
from fairlead.core.errors import UsageError, unknown
from fairlead.core.prediction import Objective
from fairlead.core.schedule import NoiseSchedule, as_schedule
from fairlead.data.names import Names
from fairlead.data.specs import Given as Given
from fairlead.data.specs import Spec as Spec
from fairlead.data.specs import written


def identity(x0: Tensor) -> Tensor:
    return x0


@dataclass(frozen=True, eq=False)
class Model:
    """A model to sample from: denoiser, schedule, the encoder of conditions, the decoder of samples.

    Attributes:
        denoiser: called as (x_t, t, condition).
        schedule: the noise schedule it lives on, or its name.
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
        scale_range: lowest and highest scale of the guidance that the denoiser itself answers for, given by the term
            ``distilled``; None: it takes none.
        reachable: raises UsageError for an attention layer that cannot be perturbed now; None: all can.
        null_tokens: () -> the null token of each condition that may have another in its place (``Condition.null``), of
            one sample, by name; None: that cannot be done.
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
    scale_range: tuple[float, float] | None = None
    null_tokens: Callable[[], Mapping[str, Tensor]] | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        for name in ("denoiser", "encode", "decode", "to_space"):
            if not callable(getattr(self, name)):
                raise UsageError(f"model: expected {name} to be a function, got {shown(getattr(self, name))}")
        object.__setattr__(self, "schedule", as_schedule(self.schedule))
        object.__setattr__(self, "shape", _sizes("shape", self.shape))
        object.__setattr__(
            self, "image_shape", _sizes("image_shape", self.image_shape if plain_list(self.image_shape) else self.shape)
        )
        for name in ("classes", "conditions", "examples"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UsageError(f"model: expected {name} to be a list, got {shown(value)}")
            object.__setattr__(self, name, tuple(value))
        if wrong := [name for name in self.classes if not isinstance(name, str)]:
            raise UsageError(f"model: expected classes to be names as text, got {shown(wrong[0])}")
        chosen("objective", self.objective, get_args(Objective))

    @property
    def conditional(self) -> bool:
        return bool(self.conditions or self.classes)

    def named(self, spec: Given) -> Spec:
        """The spec with every class and value by its name, as it is written everywhere.

        Raises:
            UsageError: for what the model does not know, or what could be two things.
        """
        spec = plain(spec)
        if not isinstance(spec, str | int | Mapping | None):
            raise UsageError(
                f"cond: expected a class name, an index, a prompt, several by name, or None, got {shown(spec)}"
            )
        read: Callable[[Given], Spec] | None = getattr(self.encode, "named", None)
        return read(spec) if read is not None else written(spec) if isinstance(spec, Mapping) else spec

    @property
    def condition_kind(self) -> str:
        """What its conditions are called: label, prompt, or condition."""
        return {("label",): "label", (): "label", ("text",): "prompt"}.get(self.conditions, "condition")


def _sizes(what: str, given: Any) -> tuple[int, ...]:
    sizes = plain_list(given)
    if not isinstance(sizes, list | tuple) or not all(is_count(plain(size)) for size in sizes):
        raise UsageError(f"model: expected {what} of one sample, such as (1, 8, 8), got {shown(given)}")
    return tuple(map(plain, sizes))


@dataclass(frozen=True)
class LabelEncoder:
    """Class names or indices -> ``Condition.of(label=...)``, None -> null. ``name`` is what they are names of; how they
    are read is said in :mod:`fairlead.data.names`."""

    classes: tuple[str, ...]
    name: str = "class"

    def index(self, spec: Spec) -> int:
        """The class index of one spec that is not None."""
        return self._names.place(spec)

    def find(self, spec: Spec) -> int | None:
        """The same, None for what is no class, or could be two."""
        return self._names.find(spec)

    def named(self, spec: Given) -> str | None:
        """The spec by the name of its class."""
        if isinstance(spec, Mapping):
            if len(spec) != 1 or "label" not in spec:
                raise unknown("condition", next((name for name in spec if name != "label"), "nothing"), ("label",))
            return self.named(plain(spec["label"]))
        return None if spec is None else self._names.written(self.index(spec))

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        specs = listed(specs)
        label = torch.tensor([0 if spec is None else self.index(spec) for spec in specs])
        keep = torch.tensor([spec is not None for spec in specs])
        return Condition(len(specs), {"label": label}, {"label": keep})

    @cached_property
    def _names(self) -> Names:
        return Names(self.classes, self.name)


def listed(specs: Any) -> Sequence[Spec]:
    """Specs, one per sample; raises UsageError for a single one, whose letters would be taken for specs."""
    specs = plain_list(specs)
    if isinstance(specs, str | bytes) or not isinstance(specs, Sequence):
        raise UsageError(
            f"encode: expected a list with one condition per sample, such as ['seven'], got {shown(specs)}"
        )
    return specs


def only_texts(what: str, spec: Given) -> str | None:
    """The spec of a model that takes one condition, which is ``what``: text, or None.

    Raises:
        UsageError: for anything else.
    """
    if spec is not None and not isinstance(spec, str):
        raise UsageError(f"condition {shown(spec)}: this model {what}")
    return spec


def encode_nothing(specs: Sequence[Spec]) -> Condition:
    """The encoder of an unconditional model: only None is legal."""
    given = [spec for spec in listed(specs) if spec is not None]
    if given:
        raise UsageError(f"this model is unconditional, but the condition {given[0]!r} was given; leave it out")
    return Condition(len(specs))
