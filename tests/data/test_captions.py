"""The grammar: what a caption says is true, and what the canonical one says is everything."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.errors import UsageError
from fairlead.data.scenes.captions import VALUES, full_caption, read_caption, varied_caption


@st.composite
def scenes(draw):
    scene = {name: draw(st.sampled_from(VALUES[name])) for name in ("digit", "ink", "background", "size", "slant")}
    if draw(st.booleans()):
        return {**scene, "position": draw(st.sampled_from(VALUES["position"])), "count": "one"}
    first, second = draw(st.sampled_from([("left", "right"), ("top", "bottom")]))
    other = {name: draw(st.sampled_from(VALUES[name])) for name in ("second digit", "second ink")}
    return {**scene, **other, "position": first, "second position": second, "count": "two"}


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_the_full_caption_says_everything(scene):
    assert read_caption(full_caption(scene)) == scene


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 2**40))
def test_what_a_varied_caption_says_is_true(scene, seed):
    for form in range(20):
        caption = varied_caption(scene, random.Random(seed + form))
        said = read_caption(caption)
        assert said.items() <= scene.items()
        assert "count" in said
        assert caption == varied_caption(scene, random.Random(seed + form))
        assert "  " not in caption
        assert " ," not in caption


def test_captions_leave_things_out_as_often_as_stated_and_use_many_forms():
    scene = dict(zip(VALUES, ("eight", "red", "white", "small", "top left", "leaning left", "one"), strict=False))
    captions = [varied_caption(scene, random.Random(i)) for i in range(4000)]
    said = [read_caption(caption) for caption in captions]
    # 0.3 + 0.7 x the stated share, within 5 standard deviations
    for name, share in (("digit", 0.97), ("ink", 0.9), ("background", 0.85), ("size", 0.6), ("slant", 0.5)):
        assert sum(name in one for one in said) / 4000 == pytest.approx(0.3 + 0.7 * share, abs=0.04)
    assert len(set(captions)) > 1000
    words = {word for caption in captions for word in caption.replace(",", "").split()}
    assert {"eight", "8", "small", "little", "upper", "corner", "against", "left-leaning", "an", "a", "the"} <= words
    assert not [caption for caption in captions if " a eight" in f" {caption}" or " a 8" in f" {caption}"]


def test_known_captions():
    scene = {"digit": "seven", "ink": "red", "background": "white", "size": "small", "position": "top left"}
    one = {**scene, "slant": "upright", "count": "one"}
    assert full_caption(one) == "a small upright red seven at the top left on a white background"
    two = {**one, "position": "left", "slant": "leaning right", "count": "two"}
    two |= {"second digit": "one", "second ink": "blue", "second position": "right"}
    assert full_caption(two) == (
        "two small digits leaning right, a red seven on the left and a blue one on the right, on a white background"
    )
    said = read_caption("a pink 1 to the right of a red two on black")
    assert said == {
        "count": "two",
        "digit": "two",
        "ink": "red",
        "position": "left",
        "second digit": "one",
        "second ink": "pink",
        "second position": "right",
        "background": "black",
    }


@pytest.mark.parametrize(("text", "found"), [("a red horse", 0), ("one two three", 3)])
def test_a_caption_without_digits_is_refused(text, found):
    with pytest.raises(UsageError, match=f"expected one or two digits, found {found}"):
        read_caption(text)
