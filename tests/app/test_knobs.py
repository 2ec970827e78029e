"""An expression as sliders: what is turned is what is written, and every method of the registry can be added."""

import math

import pytest

import fairlead as fl
from fairlead.app.knobs import about, examples, extended, form, knobs, methods, presets, turned
from fairlead.core.errors import UsageError
from fairlead.core.registry import names
from fairlead.guide.terms import as_guidance

TEXT = 'compose({"sevén": 4, "one": -2}) + cfg(ramp(1, 7, "cosine")).during(sigma=(0.28, 1.6)) | rescale(0.7)'


def test_every_number_has_a_knob_that_says_whose_it_is() -> None:
    found = knobs(TEXT)
    assert [(knob.label, knob.value) for knob in found] == [
        ("compose: sevén", 4), ("compose: one", -2), ("ramp: start", 1), ("ramp: end", 7),
        ("during: sigma from", 0.28), ("during: sigma to", 1.6), ("rescale: phi", 0.7),
    ]  # fmt: skip
    assert [TEXT[slice(*knob.place)] for knob in found] == ["4", "-2", "1", "7", "0.28", "1.6", "0.7"]


@pytest.mark.parametrize("text", [TEXT, *(text for texts in presets().values() for text in texts)])
def test_turning_writes_the_number_and_nothing_else(text: str) -> None:
    found = knobs(text)
    for index, knob in enumerate(found):
        assert knob.low <= knob.value <= knob.high
        assert turned(text, index, knob.value) == text
        changed = turned(text, index, 0.625)
        assert changed == f"{text[: knob.place[0]]}0.625{text[knob.place[1] :]}"
        assert form(changed) == form(text) if _reads(changed) else True


def _reads(text: str) -> bool:
    try:
        fl.parse(text)
    except UsageError:
        return False
    return True


def test_what_is_infinite_has_no_knob_and_what_is_no_guidance_is_refused() -> None:
    assert [knob.label for knob in knobs("seg(3, blur=inf)")] == ["seg: scale"]
    with pytest.raises(UsageError, match="did you mean 'cfg'"):
        knobs("cgf(3)")
    with pytest.raises(UsageError, match="1 numbers to turn, not 2"):
        turned("cfg(3)", 1, 2.0)


def test_a_slider_reaches_beyond_a_large_number_and_below_a_negative_one() -> None:
    assert knobs("cfg(25)")[0].high == 50
    assert knobs("cfg(-3)")[0].low == -10
    assert knobs("cached(cfg(4), every=3)")[1].step == 1


def test_every_method_of_the_registry_is_in_the_menu_but_for_those_that_need_a_file() -> None:
    known = {*names("term"), *names("finisher")}
    assert known - set(methods()) == {"classifier", "auto"}
    assert all(methods().values())
    assert about("clip") == "clip(): static thresholding at the model's data range"


@pytest.mark.parametrize("name", methods())
def test_a_method_is_added_where_it_belongs(name: str) -> None:
    before, kind = as_guidance("cfg(3) + pag(2) | clip()"), "finisher" if name in names("finisher") else "term"
    after = as_guidance(extended(str(before), name))
    terms, finishers = len(after.terms) - len(before.terms), len(after.finishers) - len(before.finishers)
    around = f"{name}(pag(2" in str(after) or (name == "fkc" and "fkc(cfg(3" in str(after))
    assert (terms, finishers) == ((0, 1) if kind == "finisher" else (0, 0) if around else (1, 0))
    assert f"{name}(" in str(after)
    alone = fl.parse(extended("none", name))
    assert f"{name}(" in str(alone)


def test_an_example_is_one_of_the_page_of_the_method() -> None:
    assert examples("apg") == ("apg(cfg(6))", "apg(cfg(6), norm=2.5, momentum=-0.5)")
    assert examples("nothing") == ()
    assert not math.isnan(knobs(examples("cfg")[0])[0].value)
