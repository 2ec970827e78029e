"""Every pair of registered methods: terms added, wrappers around methods, finishers after terms and after each other.

A pair either makes a whole run that is finite, permutes with its batch, repeats to the bit and costs the rows that its
parts announce, or it is refused in one line that names both and says why. A new name is in the grid once
``tests/guide/examples.py`` has its example, which mostly follows from the registration.

Every name is tried beside those of ``KINDS``, which stand for all that a method can ask of the engine; the rest of the
grid is slow.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.registry import lookup, names
from fairlead.guide.branch import COND, Branch, nonzero_rows
from fairlead.guide.checks import check_condition
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import to_guidance
from fairlead.guide.observation import Observation
from fairlead.guide.pairs import Wrapper
from fairlead.guide.step import Step
from fairlead.guide.terms import Finisher, Guidance, Term, as_guidance
from fairlead.sample.ddim import DDIM
from fairlead.sample.grids import trailing
from tests.guide.examples import FINISHERS, TERMS
from tests.guide.toy import NETWORK, N, close, images, steered

STEPS, ORDER = 6, [3, 0, 4, 1, 2]
GRID = trailing(NETWORK.schedule, STEPS)
START = images(t=torch.ones((), dtype=torch.float64))
KINDS = {
    "cfg": "weights of a branch",
    "pag": "a perturbed network",
    "cads": "another condition for all",
    "classifier": "a gradient",
    "cached": "what earlier steps answered",
}
Rows = set[tuple[Branch, int]]
"""The samples that each branch is evaluated for."""


def example(name: str) -> Guidance:
    """Of a registered term, whose example may be a sum."""
    return to_guidance(TERMS[name][0])


def wrapped(wrapper: str, inner: str) -> Term:
    """The example of a wrapper, around the example of another method."""
    (outer,) = example(wrapper).terms
    assert isinstance(outer, Wrapper)
    return replace(outer, term=example(inner).terms[0])


def finisher(name: str) -> Finisher:
    (last,) = to_guidance(f"none | {FINISHERS[name]}").finishers
    return last


def wrappers() -> list[str]:
    return [name for name in names("term") if issubclass(lookup("term", name), Wrapper)]


def grid(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """``pairs`` for a test; those without a name of ``KINDS`` are slow."""
    return [pytest.param(*pair, marks=[] if KINDS.keys() & set(pair) else [pytest.mark.slow]) for pair in pairs]


def rows_of(denoiser: GuidedDenoiser, step: Step) -> Rows:
    masks = denoiser.needed(step).items()
    return {(branch, i) for branch, mask in masks for i in range(N) if mask is None or bool(mask[i])}


@dataclass
class Trace:
    """The states after each step, the rows that were counted, and those that were announced."""

    frames: list[Tensor]
    counted: int
    announced: int


def run(
    guidance: Guidance, specs: list, order: list[int] | None = None, steps: int = STEPS, watch: bool = True
) -> Trace:
    """``watch`` also checks, in every step, that the rows are those of the terms alone, each once."""
    announced = 0

    def observe(seen: Observation) -> None:
        nonlocal announced
        step = seen.seen.step
        rows = rows_of(denoiser, step)
        announced += len(rows) + N * sum(ask.rows for ask in seen.asks)
        if watch:
            shared(denoiser, parts, rows, step)

    parts = [steered(as_guidance(one), specs, order, times=GRID) for one in guidance.terms] if watch else []
    denoiser = steered(guidance, specs, order, times=GRID, observe=observe)
    x_t = START if order is None else START[order]
    with counting() as cost, torch.no_grad():
        frames = DDIM().frames(denoiser, x_t, GRID, NETWORK.schedule, denoiser.condition, no_noise)
        states = [next(frames).x_t for _ in range(steps)]
    return Trace(states, cost.rows, announced)


def no_noise(step: int) -> Tensor:
    raise AssertionError("ddim draws none")


def shared(denoiser: GuidedDenoiser, parts: list[GuidedDenoiser], rows: Rows, step: Step) -> None:
    """rows(a + b) = base + extra(a) + extra(b) - shared: what either term needs, once, save for rows of an affine
    branch whose weights cancel. The terms alone are asked in the state that they have in this run."""
    wanted = {(COND, i) for i in range(N)}
    at = denoiser.moment(step)
    altered = any(term.ask(at).alter is not None for term in denoiser.guidance.terms)
    for part in parts:  # unmerged, for which conditions are equal depends on whether any term alters the run's
        (term,) = part.guidance.terms
        ask = term.ask(at)
        for branch, weight in ask.weights.items():
            rows_here = nonzero_rows(weight)
            wanted |= {(branch, i) for i in range(N) if (rows_here if isinstance(rows_here, bool) else rows_here[i])}
        wanted |= {(branch, i) for branch, mask in ask.looks.items() for i in range(N) if mask is None or mask[i]}
        wanted |= {(ask.renoise, i) for i in range(N) if ask.renoise is not None}
    weights = denoiser.coefficients(step)
    for finisher in denoiser.guidance.finishers:
        wanted |= {(branch, i) for branch in finisher.ask(at).looks for i in range(N)}
    wanted = {(denoiser.conditions.kept(branch, altered), i) for branch, i in wanted}
    assert rows <= wanted
    for branch, i in wanted - rows:
        weight = torch.as_tensor(weights.get(branch, 0.0))
        assert not bool((weight[i] if len(weight.shape) and len(weight) == N else weight).any())


def holds(guidance: Guidance, specs: list) -> None:
    """A pair that is not refused."""
    trace = run(guidance, specs)
    assert all(bool(frame.isfinite().all()) for frame in trace.frames)
    assert trace.counted == trace.announced
    permuted = run(guidance, specs, ORDER, steps=4, watch=False)
    close(permuted.frames[-1], trace.frames[3][ORDER], 1e-8)
    again = run(guidance, specs, steps=2, watch=False)
    assert all(map(torch.equal, again.frames, trace.frames))


def holds_or_is_refused(make: Callable[[], Guidance | Term], *methods: str, runs: list[list]) -> None:
    """On the first of ``runs`` (specs) that the pair is made for; if on none, every refusal names the methods."""
    refusals = []
    for specs in runs:
        try:
            guidance = as_guidance(make())
            check_condition(guidance, NETWORK.encode(specs))
            steered(guidance, specs, times=GRID)
        except UsageError as error:
            refusals.append(str(error))
        else:
            return holds(guidance, specs)
    for text in refusals:
        assert "\n" not in text
        assert ";" in text or "," in text, f"what is wrong, and what to do: {text}"
        assert all(name in text for name in methods), f"the refusal of {methods} does not name both: {text}"
    return None


def runs_of(*terms: str) -> list[list]:
    """The specs of the examples' own runs, each once."""
    missing = [name for name in terms if name not in TERMS]
    assert not missing, f"add an example of {missing} to tests/guide/examples.py"
    return [list(specs) for specs in dict.fromkeys(tuple(TERMS[name][2]) for name in terms)]


@pytest.mark.parametrize(("first", "second"), grid(combinations(names("term"), 2)))
def test_two_terms(first: str, second: str) -> None:
    holds_or_is_refused(lambda: example(first) + example(second), first, second, runs=runs_of(first, second))


@pytest.mark.parametrize(("wrapper", "inner"), grid(product(wrappers(), names("term"))))
def test_a_wrapper_around_a_method(wrapper: str, inner: str) -> None:
    holds_or_is_refused(lambda: wrapped(wrapper, inner), wrapper, inner, runs=runs_of(inner))


@pytest.mark.parametrize(("name", "last"), list(product(names("term"), names("finisher"))))
def test_a_finisher_after_a_term(name: str, last: str) -> None:
    holds_or_is_refused(lambda: example(name) | finisher(last), name, last, runs=runs_of(name))


@pytest.mark.parametrize(("first", "second"), list(permutations(names("finisher"), 2)))
def test_two_finishers(first: str, second: str) -> None:
    make = lambda: example("cfg") | finisher(first) | finisher(second)  # noqa: E731
    holds_or_is_refused(make, first, second, runs=runs_of("cfg"))
