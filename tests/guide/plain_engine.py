"""The plain engine that the real one is compared with: every branch is evaluated apart and for all samples, equal ones
too, and nothing is kept from one step to the next but what the terms remember."""

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import level_at, x0_of
from fairlead.core.prediction import Prediction, TiedPrediction
from fairlead.guide.branch import COND, Branch, weighted
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.perturb import located
from fairlead.guide.step import Memory, Step
from fairlead.guide.terms import Ask, total_weights
from fairlead.nets.blocks import attention_mass


class PlainEngine:
    """The guidance, model and draws of a real engine, asked anew in every step."""

    def __init__(self, real: GuidedDenoiser) -> None:
        self.real, self.memory = real, Memory()

    def at(self, index: int, x_t: Tensor, t: Tensor) -> Prediction:
        real, context = self.real, self.real.context
        assert real.grid is not None
        step = Step.of(real.grid, index, real.samples, tuple(x_t.shape[1:]), self.memory)
        self.memory.begin(index)
        at = Moment(
            model=context.model,
            condition=context.condition,
            resources=context.resources,
            draws=context.draws,
            step=step,
        )
        asks = [term.ask(at) for term in real.guidance.terms]
        looks = [finisher.ask(at) for finisher in real.guidance.finishers]
        weights = total_weights(asks)
        wanted = {COND, *weights, *(b for ask in (*asks, *looks) for b in ask.looks)}
        wanted |= {ask.renoise for ask in asks if ask.renoise is not None}
        evaluated = {branch: self._evaluate(branch, asks, at, x_t, t) for branch in wanted}
        layers = tuple(dict.fromkeys(layer for ask in asks for layer in ask.layers))
        with torch.enable_grad(), attention_mass(layers) as recorded:
            leaf = x_t.detach().requires_grad_()
            through = self._evaluate(COND, asks, at, leaf, t)
        attention = {layer: mass.detach() for layer, mass in recorded.items() if mass is not None}
        mixing = level_at(real.schedule, t, x_t).mixing
        seen = Seen(
            **{name: getattr(at, name) for name in ("model", "condition", "resources", "draws", "step")},
            x_t=x_t,
            t=t,
            mixing=mixing,
            predictions=evaluated,
            evaluate=lambda branch, other: self._evaluate(branch, asks, at, other, t),
            graph=(leaf, through),
            attention=attention,
        )
        x0 = torch.zeros_like(x_t)
        for branch, weight in weights.items():
            x0 = x0 + weighted(weight, evaluated[branch])
        for term in real.guidance.terms:
            added = term.add(seen)
            x0 = x0 if added is None else x0 + added
        for finisher in real.guidance.finishers:
            x0 = finisher.finish(x0, seen)
        renoise = next((ask.renoise for ask in asks if ask.renoise is not None), None)
        return TiedPrediction(x0, x_t, mixing) if renoise is None else Prediction(x0, seen.eps(renoise))

    def _evaluate(self, branch: Branch, asks: list[Ask], at: Moment, x_t: Tensor, t: Tensor) -> Tensor:
        """x0 of one branch for all samples, in a network call of its own."""
        model = at.model if branch.model is None else at.resource(branch.model)
        return x0_of(model.denoiser)(x_t, t, self._condition(branch, asks, at))

    @staticmethod
    def _condition(branch: Branch, asks: list[Ask], at: Moment) -> Condition:
        model, run = at.model, at.condition
        condition = run
        if branch.spec is not None:
            condition = model.encode([branch.spec] * run.n)
        alters = [ask.alter for ask in asks if ask.alter is not None]
        if alters and branch.model is None:
            assert model.embed is not None
            condition = model.embed(condition)
            if branch.spec is None and not branch.null:
                for alter in alters:
                    condition = alter(condition)
        if branch.null or branch.drop:
            condition = condition.drop(names=branch.drop or None)
        if branch.make is not None:
            condition = branch.make(at, condition)
            condition = model.embed(condition) if alters and model.embed is not None else condition
        if branch.perturb is None:
            return condition
        negative = None if branch.away is None else PlainEngine._condition(branch.away, asks, at)
        return condition.perturbed(located(branch.perturb, model), negative=negative)
