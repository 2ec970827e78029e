"""The readers of samplers, data sets and image conditions share one rule for numbers, names and nesting."""

import warnings

import pytest

from fairlead.core.errors import UsageError
from fairlead.data.degrade import read_degradation
from fairlead.data.spec import read_call
from fairlead.sample.sampler import parse_sampler
from fairlead.tune.constraint import Constraint
from fairlead.tune.setting import expand
from fairlead.tune.template import Template

READERS = {
    "sampler": (parse_sampler, "ddim(eta={})", 0.5),
    "data": (read_call, "scenes(size={})", 32),
    "image condition": (read_degradation, "inpaint(low={})", 0.25),
}
NO_NUMBERS = [
    *("0x" + "f" * 4000, "9" * 5000, "1e400", "nan", "inf", "1j", "b'4'", "f'{1}'", "True", "{[]: 1}", "[1]", "*a"),
    *("lambda: 1", "x", "1 2", "(" * 300, "[" * 90 + "]" * 90, "'\\ud800' + 1", "\ud800", "1, 1", "\0", "\n", "4 if"),
]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: ascii(value)[:14])
def test_what_is_no_number_is_refused_in_one_short_line(kind: str, value: str) -> None:
    read, form, _ = READERS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError) as error:
            read(form.format(value))
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("kind", READERS)
def test_an_argument_is_given_once(kind: str) -> None:
    read, form, value = READERS[kind]
    twice = form.format(f"{value}, {form.split('(')[1].split('=')[0]}={value}")
    assert read(form.format(value)) == read(form.format(f"--{value}"))
    with pytest.raises(UsageError, match="twice"):
        read(twice)


@pytest.mark.parametrize("text", ["accuracy >= 0.99", "rows <= 30", "a >= 0.123456789012", "a <= -1e-300"])
def test_a_constraint_reads_back(text: str) -> None:
    assert Constraint.parse(str(Constraint.parse(text))) == Constraint.parse(text)


@pytest.mark.parametrize("text", ["a >= 1e400", "a >= nan", "a > 1", "x" * 100_000, "a >= 1 >= 2", "\n", "a >= 0x1"])
def test_a_constraint_has_a_finite_bound(text: str) -> None:
    with pytest.raises(UsageError, match="expected METRIC >= NUMBER") as error:
        Constraint.parse(text)
    assert len(str(error.value)) < 400


def test_a_scale_keeps_its_digits_and_a_range_is_given_once() -> None:
    assert expand(["cfg({scale})"], [1.25, 2.0, 123456.75]) == ["cfg(1.25)", "cfg(2)", "cfg(123456.75)"]
    with pytest.raises(UsageError, match="has a range already"):
        Template.of("cfg({scale})", ["scale=1:2", "scale=3:4"])
