"""What every branch of a run is conditioned on, and which branches are the same in this run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from fairlead.core.condition import Condition
from fairlead.guide.branch import COND, NULL, Branch
from fairlead.guide.moment import Context, Moment
from fairlead.guide.perturb import located
from fairlead.guide.terms import Alter, Guidance

Value = TypeVar("Value")


class BranchConditions:
    """The conditions of all branches of one run. What is kept here is what does not depend on the step.

    Args:
        guidance: whose branches they are; the conditions it names are encoded now.
        context: the run's condition, and the model that encodes and embeds.
        null: what stands in the place of null: one condition for the run, or one for each step, which then have null
            tokens of their own.

    Raises:
        UsageError: for a spec that the model does not know.
    """

    def __init__(
        self, guidance: Guidance, context: Context, null: Condition | Sequence[Condition] | None = None
    ) -> None:
        self.context, own = context, context.condition
        self.nulls = () if null is None or isinstance(null, Condition) else tuple(null)
        first = null if isinstance(null, Condition) else self.nulls[0] if self.nulls else own.drop()
        self.plain: dict[Branch, Condition] = {NULL: first, COND: own}
        """By branches of ``spec``, ``null`` and ``drop`` alone; of equal ones the first is kept."""
        for _, spec in guidance.specs():
            if Branch(spec) not in self.plain:
                self.plain[Branch(spec)] = context.model.encode([spec] * own.n).to(own.device)
        self._kept: dict[tuple[Branch, bool], Branch] = {}
        self._fixed: dict[Branch, Condition] = {}
        self._joined: dict[tuple[Branch, ...], tuple[list[Condition], Condition]] = {}

    def at(self, moment: Moment, alters: Sequence[Alter]) -> StepConditions:
        """The conditions of one step, in which the terms alter the run's own as ``alters`` say."""
        return StepConditions(self, moment, alters)

    def of_plain(self, branch: Branch) -> Condition:
        """The condition of a branch of ``spec``, ``null`` and ``drop`` alone."""
        found = self.plain.get(branch)
        if found is None:
            found = self.plain[branch] = self.context.condition.drop(names=branch.drop)
        return found

    def kept(self, branch: Branch, altered: bool) -> Branch:
        """The branch that is evaluated in the place of this one; ``altered``: the run's own condition is changed."""
        found = self._kept.get((branch, altered))
        if found is None:
            found = self._kept[branch, altered] = self._equal(branch, altered)
        return found

    def fixed(self, branch: Branch) -> Condition:
        """The condition of a branch that is the same in every step."""
        found = self._fixed.get(branch)
        if found is None:
            negative = None if branch.away is None else self.of_plain(branch.away)
            found = self._fixed[branch] = _perturbed(self.of_plain(_plain(branch)), branch, negative)
        return found

    def with_nulls(self, condition: Condition) -> Condition:
        """The condition with the network's own null tokens, to ride in one call with those that have others."""
        if condition.null:
            return condition
        assert self.context.model.null_tokens is not None
        own = self.context.model.null_tokens()
        return replace(condition, null={name: token.expand(condition.n, *token.shape) for name, token in own.items()})

    def joined(self, branches: tuple[Branch, ...], parts: list[Condition]) -> Condition:
        """``parts``, the conditions of ``branches``, in one; kept for as long as each is the same object."""
        before = self._joined.get(branches)
        if before is not None and all(a is b for a, b in zip(before[0], parts, strict=True)):
            return before[1]
        together = Condition.cat(parts)
        self._joined[branches] = parts, together
        return together

    def _equal(self, branch: Branch, altered: bool) -> Branch:
        found = branch
        if branch.perturb is not None:
            found = replace(found, perturb=located(branch.perturb, self.context.model))
        if branch.make is None:
            first = self._first(_plain(branch), altered)
            found = replace(found, spec=first.spec, null=first.null, drop=first.drop)
        return branch if found == branch else found

    def _first(self, plain: Branch, altered: bool) -> Branch:
        """The first branch with an equal condition. The run's own, where it is altered, equals no other."""
        condition = self.of_plain(plain)
        if altered and _own(plain):
            return plain
        candidates = [b for b in self.plain if not (altered and _own(b))]
        return next(b for b in candidates if b == plain or self.plain[b].equals(condition))


class StepConditions:
    """See :meth:`BranchConditions.at`."""

    def __init__(self, run: BranchConditions, moment: Moment, alters: Sequence[Alter]) -> None:
        self.run, self.moment, self.alters = run, moment, alters
        self._own: Condition | None = None

    def kept(self, branch: Branch) -> Branch:
        """The branch that is evaluated in the place of this one, equal to it in this step."""
        return self.run.kept(branch, self._changed)

    def of(self, branch: Branch) -> Condition:
        """The condition of all samples for this branch at this step."""
        altered = bool(self.alters) and branch.model is None
        nulls = self.run.nulls if branch.model is None else ()
        if branch.make is None and not altered and not nulls:
            return self.run.fixed(branch)
        plain = _plain(branch)
        own = altered and _own(plain)
        condition = self._altered().drop(names=plain.drop) if own else self.run.of_plain(plain)
        if nulls and plain == NULL:
            assert self.moment.step.index is not None
            condition = nulls[self.moment.step.index]
        if branch.make is not None:
            condition = branch.make(self.moment, condition)
        if altered:  # what rides in one call with an altered condition must be embeddings too
            condition = self._embedded(condition)
        condition = self.run.with_nulls(condition) if nulls else condition
        return _perturbed(condition, branch, None if branch.away is None else self.of(branch.away))

    def together(self, branches: tuple[Branch, ...]) -> Condition:
        """The conditions of several branches for all samples, one after the other."""
        return self.run.joined(branches, [self.of(branch) for branch in branches])

    @cached_property
    def _changed(self) -> bool:
        """Whether the run's own condition is another one in this step. One that is null says nothing however it is
        altered, unless it is given a scale."""
        context = self.run.context
        if not self.alters or not context.condition.is_null:
            return bool(self.alters)
        return context.model.scale_range is not None and not self._altered().is_null

    def _altered(self) -> Condition:
        """The run's own condition as the terms alter it at this step."""
        if self._own is None:
            self._own = self._embedded(self.run.context.condition)
            for alter in self.alters:
                self._own = alter(self._own)
        return self._own

    def _embedded(self, condition: Condition) -> Condition:
        embed = self.run.context.model.embed
        return condition if embed is None else embed(condition)


class BranchValues(dict[Branch, Value]):
    """What is known of the branches that are evaluated (their predictions), under every name that they go by."""

    def __init__(self, values: Mapping[Branch, Value], kept: Callable[[Branch], Branch]) -> None:
        super().__init__(values)
        self.kept = kept

    def __missing__(self, branch: Branch) -> Value:
        kept = self.kept(branch)
        if kept == branch:
            raise KeyError(branch)
        return self[kept]

    def __contains__(self, branch: object) -> bool:
        return super().__contains__(branch) or (isinstance(branch, Branch) and super().__contains__(self.kept(branch)))


def _perturbed(condition: Condition, branch: Branch, negative: Condition | None) -> Condition:
    return condition if branch.perturb is None else condition.perturbed(branch.perturb, negative=negative)


def _plain(branch: Branch) -> Branch:
    return Branch(branch.spec, branch.null, branch.drop)


def _own(branch: Branch) -> bool:
    """Whether it is the run's own condition, whole or in part."""
    return branch.spec is None and not branch.null
