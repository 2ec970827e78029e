"""One setting to try: what is sampled, the plan that samples it, and the same as a command and as Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from fairlead.app.library import Library
from fairlead.core.arguments import is_count, shown
from fairlead.core.errors import UsageError
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance, Term
from fairlead.models.model import Model, Spec
from fairlead.report.image_grid import image_grid
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Sampling
from fairlead.tune.answers import tuned_guidance


@dataclass(frozen=True)
class Trial:
    """A setting as it stands in the fields of the page; nothing is checked before :meth:`plan`.

    Attributes:
        model: a name of the library.
        guidance: an expression; "tuned" for what ``fairlead tune`` found.
        conds: classes or prompts, ``n`` images of each; none: unconditional.
        negative: what every term that takes a negative moves away from; "" for null.
        seed: of the first image of each condition; the same seed is the same noise.
    """

    model: str
    guidance: str = "none"
    conds: tuple[str, ...] = ()
    negative: str = ""
    n: int = 4
    seed: int = 0
    sampler: str = "ddim"
    steps: int = 20

    def plan(self, library: Library) -> Plan:
        """The checked plan, in the order of ``fairlead sample``: condition by condition, seed by seed.

        Raises:
            UsageError: for whatever cannot be sampled, or is more than the library's limits.
        """
        model = self.check(library)
        guidance = self._steering(model)
        wanted: Sequence[Spec] = self.conds or (None,)
        library.check(model, guidance, wanted)
        return Plan.of(
            model,
            [cond for cond in wanted for _ in range(self.n)],
            guidance,
            Sampling(self.sampler, self.steps, batch_size=library.limits.images),
            seeds=[self.seed + i for _ in wanted for i in range(self.n)],
        )

    def check(self, library: Library) -> Model:
        """The model, once the numbers are within the limits.

        Raises:
            UsageError: if they are not.
        """
        limits = library.limits
        for name, value, least in (("images", self.n, 1), ("steps", self.steps, 1), ("seed", self.seed, 0)):
            if not is_count(value, least):
                raise UsageError(f"{name}: expected an integer of at least {least}, got {shown(value)}")
        if (total := self.n * max(1, len(self.conds))) > limits.images:
            raise UsageError(
                f"{total} images: the playground takes {limits.images} at once; lower the number or classes"
            )
        if self.steps > limits.steps:
            raise UsageError(f"{self.steps} steps: the playground takes {limits.steps}; use `fairlead sample` for more")
        for text in (*self.conds, self.guidance, self.negative):
            if len(text) > limits.length or "\0" in text:
                raise UsageError(
                    f"a text of {len(text):,} characters: the playground takes {limits.length:,}; shorten it"
                )
        return library.model(self.model)

    def command(self, plan: Plan) -> str:
        """The line that samples the same images into a folder."""
        words = ["fairlead", "sample", self.model]
        words += ["--cond", *self.conds] if self.conds else []
        words += ["--n", str(self.n), "--guidance", str(plan.guidance), "--sampler", str(plan.sampling.sampler)]
        words += ["--steps", str(self.steps), "--seed", str(self.seed), "--out", "samples"]
        return shlex.join(words)

    def python(self, plan: Plan) -> str:
        """A script that samples the same images."""
        conds, seeds = [*plan.conds], [*plan.seeds]
        one = len({*conds}) == 1
        given = repr(conds[0] if one else conds)
        numbers = f"n={len(seeds)}, seeds={seeds[0]}" if one else f"seeds={seeds}"
        sampling = f"sampler={str(plan.sampling.sampler)!r}, steps={self.steps}, batch_size={len(seeds)}"
        return (
            "import fairlead as fl\n\n"
            f"model = fl.load({self.model!r})\n"
            f"run = fl.sample(model, {given}, guidance={str(plan.guidance)!r}, {numbers}, {sampling})\n"
            'run.save("samples")\n'
        )

    def _steering(self, model: Model) -> Guidance:
        text = self.guidance.strip() or "none"
        weights = model.metadata.get("weights_hash")
        guidance = to_guidance(tuned_guidance(self.model, text, self.sampler, self.steps, weights)[0])
        return with_negative(guidance, self.negative.strip()) if self.negative.strip() else guidance


def picture(run: Run, columns: int) -> bytes:
    """All images of a run as one PNG, ``columns`` conditions with a row per seed; its text records how to make it."""
    assert run.images is not None
    n = len(run.seeds) // columns
    return image_grid(
        run.images.reshape(columns, n, *run.images.shape[1:]).transpose(0, 1),
        row_labels=[str(seed) for seed in run.seeds[:n]],
        col_labels=["null" if cond is None else str(cond) for cond in run.conds[::n]],
        title=f"{run.settings['guidance']}, {run.settings['sampler']}, {run.settings['steps']} steps",
        provenance={"fairlead": json.dumps(run.provenance())},
    )


def with_negative(guidance: Guidance, negative: str) -> Guidance:
    """The guidance, every term of it that takes a negative and has none moving away from this one.

    Raises:
        UsageError: if there is no such term.
    """
    terms = tuple(_with_negative(term, negative) for term in guidance.terms)
    if terms == guidance.terms:
        raise UsageError(
            f"negative {shown(negative)}: no term of {guidance} takes one; take e.g. cfg(3), or empty the field"
        )
    return replace(guidance, terms=terms)


def _with_negative(term: Term, negative: str) -> Term:
    changed: dict[str, Any] = {}
    for each in fields(term):
        value = getattr(term, each.name)
        if each.name == "negative" and value is None:
            changed["negative"] = negative
        elif isinstance(value, Term) and (inner := _with_negative(value, negative)) != value:
            changed[each.name] = inner
    return replace(term, **changed) if changed else term
