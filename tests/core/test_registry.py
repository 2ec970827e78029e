"""Every line of the registry resolves; unknown names are answered with the nearest; costs nest."""

import contextvars
import threading

import pytest
import torch

from fairlead.core.denoiser import Cost, at_step, counting, expand_like, tally
from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import REGISTRY, lookup, names

LINES = [(kind, name) for kind, table in REGISTRY.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), LINES)
def test_every_line_resolves(kind: str, name: str) -> None:
    module, attribute = REGISTRY[kind][name].split(":")
    found = lookup(kind, name)
    assert callable(found)
    assert (found.__module__, found.__name__) == (module, attribute)


@pytest.mark.parametrize("kind", ["term", "finisher", "scale", "sampler"])
def test_what_names_itself_is_registered_under_that_name(kind: str) -> None:
    assert [lookup(kind, name).name for name in names(kind)] == names(kind)


def test_names_in_expressions_are_unambiguous() -> None:
    together = [name for kind in ("term", "finisher", "scale") for name in names(kind)]
    assert len(together) == len(set(together))
    assert not {"none", "inf", "during"} & set(together)


def test_unknown_names_the_nearest_and_all() -> None:
    assert str(unknown("fruit", "aple", ["pear", "apple"])) == (
        "unknown fruit 'aple'; did you mean 'apple'? (known: pear, apple)"
    )
    assert str(unknown("fruit", "xyz", ["pear", "apple"])) == "unknown fruit 'xyz' (known: pear, apple)"
    with pytest.raises(UsageError, match=r"unknown sampler 'hein'; did you mean 'heun'\? \(known: ddpm, ddim,"):
        lookup("sampler", "hein")
    for given in (None, ["ddim"], 3):
        with pytest.raises(UsageError, match="unknown sampler"):
            lookup("sampler", given)


def test_counting_nests_and_ends() -> None:
    with counting() as outer:
        tally(3)
        with counting() as inner:
            tally(4)
        tally(5)
    tally(100)
    assert outer == Cost(rows=12, calls=3)
    assert inner == Cost(rows=4, calls=1)


def test_counting_ends_on_an_error_and_stays_in_its_thread() -> None:
    def fail() -> None:
        tally(2)
        raise RuntimeError

    with counting() as outer:
        with pytest.raises(RuntimeError), counting():
            fail()
        tally(1)
    assert outer == Cost(rows=3, calls=2)
    with counting() as here:
        thread = threading.Thread(target=contextvars.Context().run, args=(tally, 7))
        thread.start()
        thread.join()
    assert here == Cost()


def test_expand_like() -> None:
    x = torch.zeros(2, 3, 4, dtype=torch.float32)
    each = expand_like(torch.tensor([1.0, 2.0], dtype=torch.float64), x)
    assert (each.shape, each.dtype) == ((2, 1, 1), torch.float32)
    assert torch.equal((x + each)[:, 0, 0], torch.tensor([1.0, 2.0]))
    assert torch.equal(x + expand_like(torch.tensor(5.0), x), x + 5)


def test_at_step_leaves_plain_functions_alone() -> None:
    def plain(x_t, t, condition):
        raise AssertionError

    class Stepped:
        def at(self, step: int):
            return ("denoiser of step", step)

        def __call__(self, x_t, t, condition):
            raise AssertionError

    assert at_step(plain, 3) is plain
    assert at_step(Stepped(), 3) == ("denoiser of step", 3)  # type: ignore[comparison-overlap]
