"""What every branch of a run is conditioned on, and which branches are the same in this run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TypeVar

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.algebra import COND, NULL, Branch, ConditionSource, Guidance, Term
from fairlead.guide.perturb import located
from fairlead.guide.seen import Surroundings
from fairlead.guide.step import Grid, Step

Value = TypeVar("Value")


class Branches:
    """The conditions of all branches of one run.

    Args:
        guidance: whose branches they are.
        condition: of the run.
        around: encodes and embeds conditions, names layers.
        grid: of the run, None where it has none.

    Raises:
        UsageError: for a spec the model does not know, or a condition it has not.
    """

    def __init__(self, guidance: Guidance, condition: Condition, around: Surroundings, grid: Grid | None) -> None:
        self.terms, self.condition, self.around, self.grid = guidance.terms, condition, around, grid
        self.altering = any(term.alters() for term in self.terms)
        self.conditions, self.same = self._resolve()
        self._kept: dict[Branch, Branch] = {}
        self._fixed: dict[Branch, Condition] = {}
        self._sourced: dict[ConditionSource, Callable[[int], Condition]] = {}
        self._joined: dict[tuple[Branch, ...], Condition] = {}
        self._altered: tuple[int | None, Condition] | None = None

    def fresh(self) -> Branches:
        """The same for another run."""
        other = copy(self)
        other._altered = None
        return other

    def kept(self, branch: Branch) -> Branch:
        """The branch that is evaluated in the place of this one, equal to it in this run."""
        found = self._kept.get(branch)
        if found is None:
            found = self._kept[branch] = self._equal(branch)
        return found

    def of(self, branch: Branch, step: Step) -> Condition:
        """The condition of all samples for this branch at this step."""
        if branch.source is not None or self.altering:
            return self._made(branch, step)
        found = self._fixed.get(branch)
        if found is None:
            found = self._fixed[branch] = self._made(branch, step)
        return found

    def together(self, branches: tuple[Branch, ...], step: Step) -> Condition:
        """The conditions of several branches for all samples, one after the other."""
        before = self._joined.get(branches)
        if before is None or self.altering or any(branch.source is not None for branch in branches):
            parts = [self.of(branch, step) for branch in branches]
            before = self._joined[branches] = Condition.cat(parts) if before is None else before.renewed(parts)
        return before

    def _resolve(self) -> tuple[dict[Branch, Condition], dict[Branch, Branch]]:
        """The condition of every branch, and for each branch the first one that is the same for this run."""
        n, device, encode = self.condition.n, self.condition.device, self.around.encode
        conditions = {COND: self.condition, NULL: self.condition.drop()}
        for term in self.terms:
            for spec in term.specs():
                if encode is None:
                    raise UsageError(
                        f"{term}: names the condition {spec!r}, but no encode function was given to read it"
                    )
                conditions[Branch(spec)] = encode([spec] * n).to(device)
            for names in term.drops():
                conditions[Branch(drop=names)] = _without(self.condition, names, term)
        same: dict[Branch, Branch] = {}
        order = [NULL, *(branch for branch in conditions if branch != NULL)]
        altered = self.altering and not self.condition.is_null  # the run's own then equals no other
        own = {branch for branch in conditions if branch.spec is None and branch != NULL} if altered else set()
        for branch in order:
            equal = (b for b in same if not {b, branch} & own and conditions[b].equals(conditions[branch]))
            same[branch] = next(equal, branch)
        return conditions, same

    def _equal(self, branch: Branch) -> Branch:
        found = branch
        if branch.perturb is not None:
            found = replace(found, perturb=located(branch.perturb, self.around))
        if branch.source is None:
            plain = self.same[Branch(branch.spec, branch.null, branch.drop)]
            found = replace(found, spec=plain.spec, null=plain.null, drop=plain.drop)
        return branch if found == branch else found

    def _made(self, branch: Branch, step: Step) -> Condition:
        own = branch.spec is None and not branch.null and branch.source is None
        if own and self.altering and branch.model is None:
            condition = self._own(step).drop(names=branch.drop)
        else:
            if branch.source is None:
                condition = self.conditions[Branch(branch.spec, branch.null, branch.drop)]
            else:
                condition = self._from(branch.source, step)
            if self.altering and branch.model is None:
                condition = self._embedded(condition)
        return condition if branch.perturb is None else condition.perturbed(branch.perturb)

    def _from(self, source: ConditionSource, step: Step) -> Condition:
        if self.grid is None or step.index is None:
            return source.over((step,), self.around, self.condition)(0)
        if source not in self._sourced:
            steps = [Step.of(self.grid, index) for index in range(self.grid.steps)]
            self._sourced[source] = source.over(steps, self.around, self.condition)
        return self._sourced[source](step.index)

    def _own(self, step: Step) -> Condition:
        """The run's condition as the terms alter it at this step."""
        if self._altered is None or step.index is None or self._altered[0] != step.index:
            condition = self._embedded(self.condition)
            for term in self.terms:
                condition = term.alter(condition, step, self.around)
            self._altered = step.index, condition
        return self._altered[1]

    def _embedded(self, condition: Condition) -> Condition:
        """Conditions that are to ride in one call with an altered one must be embeddings too."""
        assert self.around.embed is not None
        return self.around.embed(condition)


class Merged(dict[Branch, Value]):
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


def _without(condition: Condition, names: Sequence[str], term: Term) -> Condition:
    missing = [name for name in names if name not in condition.values]
    if missing:
        has = ", ".join(sorted(condition.values)) or "no conditions"
        raise UsageError(f"{term}: drops {missing[0]!r}, the model has {has}; drop one of those")
    return condition.drop(names=names)
