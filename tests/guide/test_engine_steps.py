"""Every registered method for several steps against the plain engine, and the traps that caches once hid."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition, Perturbation
from fairlead.guide.branch import COND, NULL, Branch, Weight
from fairlead.guide.moment import Moment, Seen
from fairlead.guide.terms import Ask, Term
from fairlead.sample.noise import NoiseStream
from tests.guide.examples import FINISHERS, LABELLED, SCALES, TERMS
from tests.guide.plain_engine import PlainEngine
from tests.guide.test_contract import GRID
from tests.guide.toy import N, close, images, steered

STEPS = 4
BATCHINGS = ("auto", "fused", "sequential")
COMBINED: list[tuple[str, list]] = [
    ("cfg(3) + cads(0.3, low=0.1, high=0.9) + s2(0.5) + icg(2)", LABELLED),
    ("cfg(2, negative=1) + pag(1) + s2(0.5, share=0.4) + apg(cfg(2), momentum=-0.5) | rescale(0.7)", LABELLED),
    ("cads(0.5, low=0.1, high=0.95).during(t=(0.5, 1)) + cfg(3)", LABELLED),
]
CASES = [
    *((on, specs) for on, _, specs in TERMS.values()),
    *((f"cfg(3) | {text}", LABELLED) for text in FINISHERS.values()),
    *((f"cfg({text})", LABELLED) for text in SCALES.values()),
    *COMBINED,
]


def course(guidance, specs: list, order: list[int] | None = None, **options) -> list[Tensor]:
    """x0 of the first steps; x_t is moved on a little in each, so that memory matters."""
    denoiser = steered(guidance, specs, order, times=GRID, **options)
    return _steps(lambda i, x, t: denoiser.at(i)(x, t, denoiser.condition).x0, order)


def _steps(predict, order: list[int] | None) -> list[Tensor]:
    x_t, found = images() if order is None else images()[order], []
    for i in range(STEPS):
        x0 = predict(i, x_t, GRID[i])
        found.append(x0)
        x_t = 0.8 * x_t + 0.2 * x0
    return found


@pytest.mark.parametrize(
    ("batching", "text", "specs"),
    [(batching, *case) for batching in ("fused", "sequential") for case in CASES]
    + [("auto", *case) for case in COMBINED],  # which is one of the two
)
def test_every_step_is_that_of_the_plain_engine(batching: str, text: str, specs: list) -> None:
    plain = PlainEngine(steered(text, specs, times=GRID))
    expected = _steps(lambda i, x, t: plain.at(i, x, t).x0, None)
    for mine, own in zip(course(text, specs, batching=batching), expected, strict=True):
        close(mine, own, 1e-10)


@pytest.mark.parametrize(("text", "specs"), CASES[: len(TERMS)], ids=list(TERMS))
def test_a_sample_in_a_batch_of_its_own_goes_the_same_way(text: str, specs: list) -> None:
    together = course(text, specs)
    for i in range(2):
        for mine, own in zip(course(text, specs, [i]), together, strict=True):
            close(mine, own[i : i + 1], 1e-10)


@dataclass(frozen=True)
class _Rotating:
    """Skips another block in every step."""

    def __call__(self, at: Moment, condition: Condition) -> Condition:
        blocks = at.model.layers["block"]
        assert at.step.index is not None
        return condition.perturbed(Perturbation("skip", (blocks[at.step.index % len(blocks)],)))


@dataclass(frozen=True)
class Rotating(Term):
    """Away from the network without one block, another in every step."""

    name: ClassVar[str] = "rotating"

    def ask(self, at: Moment) -> Ask:
        return Ask({COND: 2.0, Branch(make=_Rotating()): -2.0})


@pytest.mark.parametrize("batching", BATCHINGS)
def test_masks_of_the_first_step_are_not_kept(batching: str) -> None:
    plain = PlainEngine(steered(Rotating(), LABELLED, times=GRID))
    expected = _steps(lambda i, x, t: plain.at(i, x, t).x0, None)
    for mine, own in zip(course(Rotating(), LABELLED, batching=batching), expected, strict=True):
        close(mine, own, 1e-10)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3


@dataclass(frozen=True)
class Cautious(Term):
    """Guides from the second step on, and asks carefully where it is."""

    name: ClassVar[str] = "cautious"

    def ask(self, at: Moment) -> Ask:
        index = getattr(at.step, "index", None)
        weights: Mapping[Branch, Weight] = {COND: 2.0, NULL: -2.0} if index else {}
        return Ask(weights)


def test_a_method_that_asks_carefully_for_the_step_is_not_off_for_good() -> None:
    found, off, on = course(Cautious(), LABELLED), course("none", LABELLED), steered("cfg(3)", LABELLED, times=GRID)
    close(found[0], off[0], 0)
    x_t = 0.8 * images() + 0.2 * found[0]
    close(found[1], on.at(1)(x_t, GRID[1], on.condition).x0, 1e-12)


@dataclass(frozen=True)
class Broken(Term):
    """Has an error of its own."""

    name: ClassVar[str] = "broken"

    def ask(self, at: Moment) -> Ask:
        return at.nothing  # type: ignore[attr-defined,no-any-return]


def test_a_methods_own_attribute_error_is_not_hidden() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        steered(Broken(), LABELLED, times=GRID)


def test_a_branch_made_anew_sees_what_others_make_of_the_condition() -> None:
    """Where the skipped block is one that the network does not have to pass through, s2 adds nothing beside cads."""

    @dataclass(frozen=True)
    class Same:
        def __call__(self, at: Moment, condition: Condition) -> Condition:
            return condition

    @dataclass(frozen=True)
    class Nothing(Term):
        name: ClassVar[str] = "nothing"

        def ask(self, at: Moment) -> Ask:
            return Ask({COND: 5.0, Branch(make=Same()): -5.0})

    noised = course("cads(0.5, low=0.1, high=0.9)", LABELLED)
    both = steered("cads(0.5, low=0.1, high=0.9)", LABELLED).guidance + Nothing()
    for mine, own in zip(course(both, LABELLED), noised, strict=True):
        close(mine, own, 1e-10)


def test_draws_of_two_methods_are_told_apart_by_their_names() -> None:
    denoiser = steered("none", LABELLED, times=GRID)
    at = denoiser.moment(denoiser._step(2))
    names: list[Hashable] = ["s2", "signs", "icg", "cads", "energy", "a method of somebody else"]
    draws = [at.draw(str(name), (64,)) for name in names]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    for a, part in zip(draws, [at.draw(str(name), (64,), 1) for name in names], strict=True):
        assert not torch.equal(a, part)
    assert torch.equal(at.draw("s2", (64,)), draws[0])
    correlation = torch.corrcoef(torch.stack([draw.flatten() for draw in draws]).double())
    off_diagonal = correlation - torch.eye(len(names), dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 5 / (64 * N) ** 0.5


def test_the_draws_of_methods_that_had_numbers_are_what_they_were() -> None:
    denoiser = steered("none", LABELLED, times=GRID)
    at = denoiser.moment(denoiser._step(2))
    stream = NoiseStream(tuple(range(N)), (3,))
    for name, number in (("energy", 2000), ("icg", 2610), ("cads", 2620)):
        assert torch.equal(at.draw(name, (3,), 1), stream.extra(number + 1, (3,)))


@dataclass(frozen=True)
class Wavering(Term):
    """Asks for other things in every step, some of them twice."""

    name: ClassVar[str] = "wavering"

    def ask(self, at: Moment) -> Ask:
        assert at.step.index is not None
        return (Ask({COND: 2.0, NULL: -2.0}), Ask(looks={NULL: None}), Ask({COND: 2.0, NULL: -2.0}, {NULL: None}))[
            at.step.index % 3
        ]

    def add(self, seen: Seen) -> Tensor | None:
        return seen.x0(NULL) if seen.has(NULL) else None


def test_a_plan_is_taken_again_only_where_the_asks_are_the_same() -> None:
    plain = PlainEngine(steered(Wavering(), LABELLED, times=GRID))
    expected = _steps(lambda i, x, t: plain.at(i, x, t).x0, None)
    denoiser = steered(Wavering(), LABELLED, times=GRID)
    for _ in range(2):  # the second run finds every plan made
        for mine, own in zip(
            _steps(lambda i, x, t: denoiser.at(i)(x, t, denoiser.condition).x0, None), expected, strict=True
        ):
            close(mine, own, 1e-10)
