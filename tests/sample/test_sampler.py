"""Sampler expressions print and parse back; what cannot be read is refused in one line."""

import re
from dataclasses import FrozenInstanceError

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.registry import lookup, names
from fairlead.sample.ddim import DDIM
from fairlead.sample.sampler import parse_sampler


@pytest.mark.parametrize("name", names("sampler"))
def test_every_registered_sampler_prints_and_parses_back(name: str) -> None:
    sampler = lookup("sampler", name)()
    assert sampler.name == name
    assert str(sampler) == name
    for text in (name, f"{name}()", f"  {name} ( ) "):
        assert parse_sampler(text) == sampler
    with pytest.raises(FrozenInstanceError):
        sampler.name = "other"


@pytest.mark.parametrize("eta", [0.0, 1e-17, 0.1 + 0.2, 1.0])
def test_settings_round_trip_to_the_bit(eta: float) -> None:
    assert parse_sampler(str(DDIM(eta))) == DDIM(eta)
    assert hash(parse_sampler(str(DDIM(eta)))) == hash(DDIM(eta))


def test_only_what_differs_from_the_default_is_printed() -> None:
    assert str(DDIM(0.0)) == "ddim"
    assert str(DDIM(0.5)) == "ddim(eta=0.5)"
    assert parse_sampler("ddim(eta=1)") == DDIM(1.0)


SHAPE = "expected a name with keyword settings only, such as ddim or ddim(eta=0.5)"
KNOWN = ", ".join(names("sampler"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"sampler '': {SHAPE}"),
        ("ddim(", f"sampler 'ddim(': {SHAPE}"),
        ("ddim(0.5)", f"sampler 'ddim(0.5)': {SHAPE}"),
        ("a.ddim()", f"sampler 'a.ddim()': {SHAPE}"),
        ("ddim\0", f"sampler 'ddim\\x00': {SHAPE}"),
        ("ddim + 1", f"sampler 'ddim + 1': {SHAPE}"),
        ("dim", f"unknown sampler 'dim'; did you mean 'ddim'? (known: {KNOWN})"),
        ("ddim(etta=1)", "unknown setting of sampler 'ddim' 'etta'; did you mean 'eta'? (known: eta, recur)"),
        ("ddim(**{'eta': 1})", "unknown setting of sampler 'ddim' 'None' (known: eta, recur)"),
        ("heun(eta=1)", "sampler 'heun' has no settings; got 'eta', write 'heun'"),
        ("ddim(eta='1')", "sampler setting ddim(eta=...): expected a number, got \"'1'\""),
        ("ddim(eta=True)", "sampler setting ddim(eta=...): expected a number, got 'True'"),
        ("ddim(eta=1e999)", "sampler setting ddim(eta=...): expected a number, got '1e309'"),
        ("ddim(eta=f(1))", "sampler setting ddim(eta=...): expected a number, got 'f(1)'"),
        ("ddim(eta=1.5)", "ddim eta 1.5: expected a number from 0 (deterministic) to 1 (ancestral)"),
        ("ddim(eta=-0.5)", "ddim eta -0.5: expected a number from 0 (deterministic) to 1 (ancestral)"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$") as error:
        parse_sampler(text)
    assert "\n" not in str(error.value)


def test_nan_is_no_eta() -> None:
    with pytest.raises(UsageError, match="ddim eta nan"):
        DDIM(float("nan"))
