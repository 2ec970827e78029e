"""The conditions of a pipeline's samples, and those that a guidance names, by number.

``sample`` is the sample's index (its keep mask says nothing). ``prompt`` is 0 for a sample's own and i for the i-th of
those that the guidance names, ``label`` a class; where it is not kept, the row is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.models.model import LabelEncoder, Spec, encode_nothing


def samples_condition(n: int, **values: tuple[Tensor, Tensor]) -> Condition:
    """A condition of n samples that know their index; ``values`` are (value, keep)."""
    index = torch.arange(n)
    own = {"sample": (index, torch.zeros(n, dtype=torch.bool)), **values}
    return Condition(n, {k: v for k, (v, _) in own.items()}, {k: m for k, (_, m) in own.items()})


class Specs:
    """Conditions that a guidance names, and the run's own; called with one spec a sample."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        raise NotImplementedError

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        """Of n samples; ``labels`` [n] where the pipeline passes some; null if ``empty``."""
        raise NotImplementedError


@dataclass(frozen=True)
class PromptSpecs(Specs):
    """Prompts by name: ``prompt`` is 0 for a sample's own and i for the i-th of ``known``."""

    known: Sequence[str]

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        places = torch.tensor([0 if spec is None else 1 + list(self.known).index(str(spec)) for spec in specs])
        return samples_condition(len(specs), prompt=(places, places > 0))

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        return samples_condition(n, prompt=(torch.zeros(n, dtype=torch.long), torch.full((n,), not empty)))


@dataclass(frozen=True)
class LabelSpecs(Specs):
    """Class names and indices; an index beyond the classes is null."""

    labels: LabelEncoder

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        made = self.labels(specs)
        return samples_condition(len(specs), label=(made.values["label"], made.keep["label"]))

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        assert labels is not None
        mine = labels.cpu().long()
        keep = mine < len(self.labels.classes)
        return samples_condition(n, label=(mine.where(keep, 0), keep))


@dataclass(frozen=True)
class NoSpecs(Specs):
    """Of an unconditional pipeline."""

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        return samples_condition(encode_nothing(specs).n)

    def own(self, n: int, labels: Tensor | None, empty: bool) -> Condition:
        return samples_condition(n)
