"""What the samples of a measurement are asked for: classes in real proportions, what real images say, or prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fairlead.core.brief import brief
from fairlead.data.images import Attribute
from fairlead.data.specs import data_specs
from fairlead.measure.evaluator import Evaluator, PromptEvaluator
from fairlead.measure.metrics import OF_A_CLASS, rare_classes, rare_said
from fairlead.measure.references import labels_in_order, shared_out, spread
from fairlead.measure.scoring import Scoring, rare_labels
from fairlead.models.model import Model, Spec


@dataclass(frozen=True, eq=False)
class Targets:
    """What each sample is asked for.

    Attributes:
        conds: one spec a sample.
        labels: int64 [n], indices into ``names``.
        attributes: what each sample should show beside, where the evaluator can judge it.
        names: the classes of the real images, or the different prompts.
        left_out: the labels that diversity leaves out, for want of samples or of real images.
        notes: what the reader has to know, a sentence each.
    """

    conds: tuple[Spec, ...]
    labels: Tensor
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    __repr__ = brief

    def part(self, which: slice) -> Targets:
        """Of some of the samples."""
        shown = {name: replace(a, labels=a.labels[which]) for name, a in self.attributes.items()}
        return replace(self, conds=self.conds[which], labels=self.labels[which], attributes=shown)

    @classmethod
    def of_prompts(cls, evaluator: PromptEvaluator, n: int) -> Targets:
        """The prompts in turn: sample i is asked for prompt i, from the beginning again after the last."""
        index = [i % len(evaluator.asked) for i in range(n)]
        labels, notes = evaluator.labels[index], []
        if n < len(evaluator.asked):
            notes.append(f"only the first {n:,} of {len(evaluator.asked):,} prompts are used, one image each")
        if rare := rare_labels(labels):
            asked = len(set(labels.tolist()))
            notes.append(
                f"diversity leaves out {len(rare):,} of {asked:,} prompts: fewer than {OF_A_CLASS} of the {n:,} "
                f"images; n = {OF_A_CLASS * len(evaluator.asked):,} would do"
            )
        return cls(tuple(evaluator.asked[i] for i in index), labels, names=evaluator.names, notes=tuple(notes))

    @classmethod
    def of(cls, model: Model, evaluator: Evaluator, n: int) -> Targets:
        """Of a model conditioned on labels only, classes in the proportions of the reference; of any other what the
        held-out images say of themselves, prompts that it was not trained on. Both spread over the classes, as every
        prefix is, so that generated and real images differ in what is in the pictures, not in how many there are of
        each class.

        Raises:
            UsageError: if the held-out images do not say what the model is conditioned on.
        """
        data, classes = evaluator.held_out, evaluator.reference.classes
        if model.condition_kind == "label":
            names = shared_out(model.classes, evaluator.reference.labels, n)
            labels = model.encode(names).values["label"]
            return cls(tuple(names), labels, {}, classes, *_rare(model, evaluator, labels))
        index = spread(data.labels, n)
        known = evaluator.attributes.asked if evaluator.attributes is not None else {}
        shown = {name: replace(a, labels=a.labels[index]) for name, a in known.items()}
        labels = data.labels[index]
        conds = tuple(data_specs(model.conditions, data, index))
        return cls(conds, labels, shown, classes, *_rare(model, evaluator, labels))


def targets_for(model: Model, evaluator: Scoring, n: int) -> Targets:
    """What ``n`` samples of ``model`` are asked for, to be scored by ``evaluator``.

    Raises:
        UsageError: as :meth:`Targets.of`.
    """
    if isinstance(evaluator, PromptEvaluator):
        return Targets.of_prompts(evaluator, n)
    assert isinstance(evaluator, Evaluator)
    return Targets.of(model, evaluator, n)


def _rare(model: Model, evaluator: Evaluator, labels: Tensor) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(labels that diversity leaves out of samples with ``labels``, sentences on them)"""
    real, held_out = evaluator.reference, evaluator.held_out
    rare = rare_classes(labels, held_out.labels, labels_in_order(model, real, held_out))
    return tuple(one.label for one in rare), tuple(rare_said(rare, real.classes, len(labels)))
