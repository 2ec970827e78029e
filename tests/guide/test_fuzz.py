"""Any text is an equal guidance when printed and read again, or refused in one line of bounded length."""

import inspect
import warnings

import pytest

from fairlead.core.errors import UsageError
from fairlead.core.registry import lookup, names
from fairlead.guide.expression import parse, to_guidance
from tests.guide.examples import FINISHERS, SCALES, TERMS
from tests.guide.fuzzed import Fuzz

KINDS = ("term", "finisher", "scale", "reward")
NAMES = [name for kind in KINDS for name in names(kind)]
SETTINGS = sorted({p for k in KINDS for n in names(k) for p in inspect.signature(lookup(k, n)).parameters})
READ = [
    *(on for on, _, _ in TERMS.values()),
    *(f"cfg({scale})" for scale in SCALES.values()),
    *('cfg(7, negative="one")', "cfg(4)", "none", 'energy(color("red"))', 'energy(match("a.png", [0, 0, 1, 0.5]), 2)'),
    'compose({"seven": 4, "one": -2})',
]


def outcome(seed: int) -> bool:
    """Whether the text of this seed is read; everything that must hold of it is asserted."""
    text = Fuzz(seed, READ, list(FINISHERS.values()), NAMES, SETTINGS).text()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        guidance, message = None, ""
        try:
            guidance = parse(text)
        except UsageError as error:
            message = str(error)
    assert not warned, seed
    if guidance is None:
        assert len(message) <= 2000, seed
        assert len(message.splitlines()) == 1, seed
        return False
    again = parse(str(guidance))
    assert to_guidance(again) == to_guidance(guidance), seed
    assert str(again) == str(guidance), seed
    return True


def test_500_texts() -> None:
    read = sum(map(outcome, range(500)))
    assert 60 < read < 300


@pytest.mark.slow
def test_50_000_texts() -> None:
    read = sum(map(outcome, range(500, 50_500)))
    assert read > 6000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cfg(0x" + "f" * 4000 + ")", "got inf"),
        ("cfg(-0x" + "f" * 4000 + ")", "got -inf"),
        ("cfg(1e400)", "got inf"),
        ("cfg(" + "9" * 5000 + ")", "a number in it has too many digits"),
        ("cfg(2)" + ".during(t=(0, 1))" * 500, "is nested too deeply to be read"),
        ("cfg(" + "ramp(1, " * 150 + "2" + ")" * 150 + ")", "is nested too deeply to be read"),
        ("x" * 10**6, "xxx"),
        ("cfg('" + "\\n" * 10**5 + "')", "got '"),
        ("cfg(2, drop='\x1b[31m', drop=3)", "cfg(...) got 'drop' twice"),
    ],
    ids=lambda value: value[:12],
)
def test_refused_in_one_short_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert reason in str(error.value)
    assert len(str(error.value)) < 1000
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "given", [3, None, b"cfg(2)", ["cfg(2)"], [1 << 20_000]], ids=["3", "None", "bytes", "list", "huge"]
)
def test_what_is_no_text_is_refused(given) -> None:
    with pytest.raises(UsageError, match="guidance: expected a text, got"):
        parse(given)


def test_a_number_too_long_to_be_written_is_described() -> None:
    with pytest.raises(UsageError, match="got an integer of 20,001 bits"):
        lookup("term", "cfg")(1 << 20_000)


def test_a_long_sum_is_not_deep() -> None:
    text = " + ".join(["cfg(2)"] * 300) + " | clip()" * 200
    assert str(parse(text)) == text


def test_half_a_character_survives() -> None:
    assert str(parse(str(parse("cfg(2, negative='a\\ud800')")))) == 'cfg(2, negative="a\\ud800")'
