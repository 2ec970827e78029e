"""English for scenes: a small grammar from attributes to captions, and its inverse.

    a small upright red seven at the top left on a white background
    on white, the number 3 in blue, leaning right
    a green 0 above a black four against a pink background

A scene is a mapping of attribute to value, ``{"digit": "seven", "ink": "red", ...}``. A caption is a pure function of
the scene and of the stream of words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from fairlead.core.errors import UsageError
from fairlead.data.digits import DIGIT_NAMES

COLOURS = ("black", "white", "red", "green", "blue", "yellow", "pink")
SIZES = ("small", "large")
POSITIONS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
SLANTS = ("leaning left", "upright", "leaning right")
COUNTS = ("one", "two")
VALUES: Mapping[str, tuple[str, ...]] = {
    "digit": DIGIT_NAMES,
    "ink": COLOURS,
    "background": COLOURS,
    "size": SIZES,
    "position": POSITIONS,
    "slant": SLANTS,
    "count": COUNTS,
    "second digit": DIGIT_NAMES,
    "second ink": COLOURS,
    "second position": POSITIONS,
}
"""Every attribute and its values. Size, slant and background are those of the whole image, both digits alike."""

_KEPT = {"digit": 0.97, "ink": 0.9, "background": 0.85, "position": 0.85, "size": 0.6, "slant": 0.5}
_ALL_KEPT = 0.3
"""Share of captions that leave nothing out; in the others every attribute stays with its probability above."""

_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_SLANT_BEFORE = {"leaning left": "left-leaning", "upright": "upright", "leaning right": "right-leaning"}
_SLANT_AFTER = {
    "leaning left": ("leaning left", "leaning to the left", "slanted to the left"),
    "upright": ("standing upright", "upright"),
    "leaning right": ("leaning right", "leaning to the right", "slanted to the right"),
}
_CORNERS = {"top left": "upper left", "top right": "upper right"}
_CORNERS |= {"bottom left": "lower left", "bottom right": "lower right"}


def full_caption(scene: Mapping[str, str]) -> str:
    """The one caption that says everything, in a fixed order and wording."""
    ground = f"on a {scene['background']} background"
    if scene["count"] == "one":
        thing = f"{scene['size']} {scene['ink']} {scene['digit']}"
        lean = f" {scene['slant']}"
        if scene["slant"] == "upright":
            thing, lean = f"{scene['size']} upright {scene['ink']} {scene['digit']}", ""
        return f"a {thing}{lean} {_place(scene['position'])} {ground}"
    digits = f"two {scene['size']} digits {scene['slant']}"
    if scene["slant"] == "upright":
        digits = f"two {scene['size']} upright digits"
    each = [f"a {scene[ink]} {scene[digit]} {_place(scene[place])}" for digit, ink, place in _PLACED]
    return f"{digits}, {each[0]} and {each[1]}, {ground}"


def varied_caption(scene: Mapping[str, str], words: random.Random) -> str:
    """A caption of one of many forms, which may leave attributes out; what it says is true of the scene."""
    kept = _kept(scene, words)
    return _one(kept, words) if scene["count"] == "one" else _two(kept, words)


def read_caption(text: str) -> dict[str, str]:
    """The attributes that a caption mentions, and their values; the inverse of the two functions above.

    Raises:
        UsageError: if there is no digit in it, or more than two.
    """
    rest, found = f" {text.lower()} ", {}
    for slant, pattern in _SLANT_PATTERNS.items():
        if pattern.search(rest):
            found["slant"], rest = slant, pattern.sub(" ", rest)
    if ground := _GROUND.search(rest):
        found["background"] = ground[1] or ground[2]
        rest = rest[: ground.start()] + " , " + rest[ground.end() :]
    for size, choices in _SIZE_WORDS.items():
        pattern = re.compile(rf"\b({'|'.join(choices)})\b")
        if pattern.search(rest):
            found["size"], rest = size, pattern.sub(" ", rest)
    rest = _TOGETHER.sub(" ", rest)
    nouns = list(_NOUN.finditer(rest))
    if not 1 <= len(nouns) <= 2:
        raise UsageError(
            f"caption {text!r}: expected one or two digits, found {len(nouns)}; e.g. 'a red seven on white'"
        )
    if len(nouns) == 1:
        return {**found, "count": "one", **_placed(rest, "")}
    # what stands between the two decides which is which, and where the words of the one end
    if between := _RELATION.search(rest):
        first, second = rest[: between.start()], rest[between.end() :]
        places = _RELATIONS[" ".join(between[0].split())]
        if places[0] in ("right", "bottom"):
            first, second, places = second, first, (places[1], places[0])
        stated = {"position": places[0], "second position": places[1]}
    else:
        first, second = rest.split(" and ")
        stated = {}
    return {**found, "count": "two", **_placed(first, ""), **_placed(second, "second "), **stated}


_PLACED = (("digit", "ink", "position"), ("second digit", "second ink", "second position"))
_RELATIONS = {
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}
_NUMERALS = {**{name: name for name in DIGIT_NAMES}, **{str(i): name for i, name in enumerate(DIGIT_NAMES)}}
_ANY_COLOUR = "|".join(COLOURS)
_ANY_NUMERAL = "|".join(_NUMERALS)
_TOGETHER = re.compile(r"\btwo\b\s+digits\b")
_NOUN = re.compile(rf"\b(?:(?:digit|number)\s+)?({_ANY_NUMERAL})\b|\b(?:digit|number)\b")
_GROUND = re.compile(
    rf"(?:\bon a |\bon |\bagainst a |\bwith a |\ba )?\b({_ANY_COLOUR}) background\b|\bon ({_ANY_COLOUR})\b"
)
_RELATION = re.compile("|".join(r"\s+".join(words.split()) for words in _RELATIONS))
_COLOUR = re.compile(rf"\b({_ANY_COLOUR})\b")
_POSITION = re.compile(r"\b(top|upper|bottom|lower)(?: (left|right))?\b|\b(left|right)\b|\b(center|middle)\b")
_SLANT_PATTERNS = {
    "leaning left": re.compile(r"\b(?:leaning|slanted) (?:to the )?left\b|\bleft-leaning\b"),
    "leaning right": re.compile(r"\b(?:leaning|slanted) (?:to the )?right\b|\bright-leaning\b"),
    "upright": re.compile(r"\b(?:standing )?upright\b"),
}


def _placed(words: str, prefix: str) -> dict[str, str]:
    """Digit, ink and position of the one digit in ``words``."""
    found = {}
    if (noun := _NOUN.search(words)) and noun[1]:
        found[f"{prefix}digit"] = _NUMERALS[noun[1]]
    if colour := _COLOUR.search(words):
        found[f"{prefix}ink"] = colour[1]
    if place := _POSITION.search(words):
        row = {"upper": "top", "lower": "bottom"}.get(place[1], place[1])
        parts = ["center"] if place[4] else [part for part in (row, place[2], place[3]) if part]
        found[f"{prefix}position"] = " ".join(parts)
    return found


def _kept(scene: Mapping[str, str], words: random.Random) -> dict[str, str]:
    """What the caption will say. The two digits of a scene are always named; their places go together."""
    if words.random() < _ALL_KEPT:
        return dict(scene)
    two = scene["count"] == "two"
    dropped = {name for name, share in _KEPT.items() if words.random() >= share} - ({"digit"} if two else set())
    if two and words.random() >= _KEPT["ink"]:
        dropped.add("second ink")
    if "position" in dropped:
        dropped.add("second position")
    return {name: value for name, value in scene.items() if name not in dropped}


def _one(kept: Mapping[str, str], words: random.Random) -> str:
    places = [_varied_place(kept["position"], words)] if "position" in kept else []
    grounds = [_varied_ground(kept["background"], words)] if "background" in kept else []
    form = words.random()
    if form < 0.12:
        return _telegram(kept, words)
    thing = _thing(kept, words)
    if form < 0.55:
        return " ".join([thing, *places, *grounds])
    if form < 0.70:
        return " ".join([thing, *grounds, *places])
    if form < 0.82 and places:
        return f"{places[0]}, {' '.join([thing, *grounds])}"
    if form < 0.92 and grounds:
        return f"{_varied_ground(kept['background'], words, front=True)}, {' '.join([thing, *places])}"
    if grounds:
        return " ".join([f"a {kept['background']} background with", thing, *places])
    return " ".join([thing, *places])


def _two(kept: Mapping[str, str], words: random.Random) -> str:
    alike = {name: kept[name] for name in ("size", "slant") if name in kept}
    own = [{name.removeprefix("second "): kept[name] for name in names if name in kept} for names in _PLACED]
    things = [_thing({k: v for k, v in one.items() if k != "position"}, words) for one in own]
    side = "position" in kept and kept["position"] == "left"
    form = words.random()
    if "position" in kept and form < 0.25:
        relation = ("to the left of", "to the right of") if side else ("above", "below")
        turned = words.random() < 0.3
        said = f"{things[1]} {relation[1]} {things[0]}" if turned else f"{things[0]} {relation[0]} {things[1]}"
    else:
        placed = [
            f"{thing} {_varied_place(one['position'], words)}" if "position" in one else thing
            for thing, one in zip(things, own, strict=True)
        ]
        said = " and ".join(placed)
    if alike:
        before = [_choose(_SIZE_WORDS[alike["size"]], words)] if "size" in alike else []
        lean = _SLANT_BEFORE[alike["slant"]] if "slant" in alike else ""
        said = f"{' '.join(['two', *before, *([lean] if lean else []), 'digits'])}, {said}"
    if "background" not in kept:
        return said
    if words.random() < 0.3:
        return f"{_varied_ground(kept['background'], words, front=True)}, {said}"
    return f"{said}{',' if alike else ''} {_varied_ground(kept['background'], words)}"


def _telegram(kept: Mapping[str, str], words: random.Random) -> str:
    """``small red 7, top left, white background``"""
    before = [kept[name] for name in ("size", "ink") if name in kept]
    head = " ".join([*before, _numeral(kept["digit"], words) if "digit" in kept else "digit"])
    rest = [kept[name] for name in ("slant", "position") if name in kept]
    rest += [f"{kept['background']} background"] if "background" in kept else []
    return ", ".join([head, *rest])


def _thing(kept: Mapping[str, str], words: random.Random) -> str:
    """``a small red seven leaning left``, without place and background."""
    before: list[str] = []
    after = ""
    if "size" in kept:
        before.append(_choose(_SIZE_WORDS[kept["size"]], words))
    if "slant" in kept and words.random() < 0.5:
        before.insert(int(words.random() * (len(before) + 1)), _SLANT_BEFORE[kept["slant"]])
    elif "slant" in kept:
        after = f" {_choose(_SLANT_AFTER[kept['slant']], words)}"
    if "ink" in kept:
        style = words.random()
        if style < 0.75:
            before.append(kept["ink"])
        else:
            after = f" in {kept['ink']}{' ink' if style < 0.85 else ''}{after}"
    if "digit" not in kept:
        noun = "digit"
    else:
        noun = _numeral(kept["digit"], words)
        named = words.random()
        if named < 0.3:
            noun = f"{'digit' if named < 0.15 else 'number'} {noun}"
    phrase = " ".join([*before, noun])
    if noun.startswith(("digit ", "number ")) and not before:
        return f"the {phrase}{after}"
    return f"{'an' if _vowel(phrase) else 'a'} {phrase}{after}"


def _numeral(digit: str, words: random.Random) -> str:
    return digit if words.random() < 0.6 else str(DIGIT_NAMES.index(digit))


def _vowel(phrase: str) -> bool:
    return phrase[0] in "aeiou8" and not phrase.startswith("one")


def _place(position: str) -> str:
    if position == "center":
        return "in the center"
    return f"{'on' if position in ('left', 'right') else 'at'} the {position}"


def _varied_place(position: str, words: random.Random) -> str:
    plain = _place(position)
    if position == "center":
        return _choose((plain, plain, "in the middle"), words)
    if position in _CORNERS:
        corner = _CORNERS[position]
        return _choose(
            (plain, plain, f"in the {position} corner", f"at the {corner}", f"in the {corner} corner"), words
        )
    return _choose((plain, plain, f"at the {position}", f"at the {position} edge"), words)


def _varied_ground(background: str, words: random.Random, front: bool = False) -> str:
    plain = f"on a {background} background"
    others = (f"against a {background} background",) if front else (
        f"against a {background} background",
        f"with a {background} background",
    )  # fmt: skip
    return _choose((plain, plain, f"on {background}", *others), words)


def _choose(options: Sequence[str], words: random.Random) -> str:
    # of a stream only `random()` is promised to stay the same over versions of Python
    return options[int(words.random() * len(options))]
