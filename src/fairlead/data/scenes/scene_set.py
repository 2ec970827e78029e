"""Scenes: coloured digits with a place, a size and a slant, alone or in pairs, with captions and the truth about them.

Made from any digit set. Image i is a pure function of (source, size, two, seed, split, i), however many there are.
Train and test differ in *combinations* of digit, ink, background and position, and in the handwriting.

Over 300 lines, as drawing a scene and saying what is in it share every attribute.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import permutations

import torch
from torch import Tensor

from fairlead.core.brief import brief
from fairlead.core.errors import UsageError, unknown
from fairlead.data.decode import check_memory
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.hub import load_data
from fairlead.data.images import Attribute, ImageData, stream
from fairlead.data.scenes.captions import (
    COLOURS,
    POSITIONS,
    SIZES,
    SLANTS,
    VALUES,
    full_caption,
    read_caption,
    varied_caption,
)
from fairlead.data.scenes.glyphs import draw_glyphs, frame_glyphs
from fairlead.data.spec import read_call, written_call

SMALLEST, LARGEST = 28, 64
TEST_SHARE = 5
"""The test split has n / 5 images."""
HELD_OUT = 4
"""Of the 42 pairs of ink and background, so many are held out for every digit at every position: 9.5 %."""

RGB = {
    "black": (18, 18, 18),
    "white": (240, 240, 240),
    "red": (214, 34, 34),
    "green": (22, 148, 56),
    "blue": (34, 62, 214),
    "yellow": (242, 214, 34),
    "pink": (240, 110, 200),
}
COLOUR_JITTER = 10
"""Every channel of every colour is off by up to so many levels of 255."""
HEIGHTS = {"small": 0.30, "large": 0.42}
"""Of a digit, in sides of the image; give or take ``HEIGHT_JITTER`` of itself."""
HEIGHT_JITTER = 0.04
PLACES = (0.26, 0.5, 0.74)
"""Where digits are centred, in sides of the image; give or take ``PLACE_JITTER``."""
PLACE_JITTER = 0.02
LEANS = {"leaning left": -0.36, "upright": 0.0, "leaning right": 0.36}
"""How far the top moves to the right for each pixel of height; give or take ``LEAN_JITTER``."""
LEAN_JITTER = 0.05

_BLOCK = 1000  # random numbers are drawn, and images made, for so many at a time
_DRAWS = (
    *("count", "digit", "position", "colours", "second", "size", "slant"),
    *("glyph", "height", "lean", "x", "y"),
    *("second glyph", "second height", "second lean", "second x", "second y"),
    *(f"{what} {channel}" for what in ("ink", "background", "second ink") for channel in "rgb"),
)
_OPPOSITE = {"left": "right", "top": "bottom"}
"""Where the second digit is, by the place of the first."""


def load_scenes(
    split: str = "train", source: str = "digits", size: int = 28, n: int = 20_000, two: float = 0.2, seed: int = 0
) -> ImageData:
    """uint8 images [n, 3, size, size] as "train", n / 5 of them as "test"; the label is the (first) digit.

    Attributes are those of ``captions.VALUES``; those of the second digit are -1 where there is one only. Size, slant
    and background are common to both digits, which stand left and right or one above the other.

    Args:
        source: a grey digit set, as ``load_data`` takes it; each split is drawn from the same split of the source.
        size: side of the images, 28 to 64 pixels.
        n: number of train images, at least 5.
        two: share of images with two digits, in [0, 1].
        seed: of everything but which combinations are held out, which never changes.

    Raises:
        UsageError: for another split, an argument out of range, or a source that is no grey digit set.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    _check(source, size, n, two, seed)
    check_memory(n, (size, size, 3), "data 'scenes'")
    glyphs, labels, draws = _parts(split, source, n, two, seed)
    frames, count = frame_glyphs(glyphs), len(labels["digit"])
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        own = {name: values[part] for name, values in labels.items()}
        images[part] = _draw(frames, glyphs.labels, own, {k: v[part] for k, v in draws.items()}, size)
    captions = tuple(varied_caption(scene, _words(f"{split} {seed} {i}")) for i, scene in enumerate(_scenes(labels)))
    name = written_call("scenes", {"source": source, "size": size, "n": n, "two": two, "seed": seed})
    attributes = {name: Attribute(VALUES[name], values) for name, values in labels.items()}
    return ImageData(images, labels["digit"], DIGIT_NAMES, name, split, False, captions, attributes)


def redrawn(
    index: Tensor,
    changed: Mapping[str, Tensor],
    split: str = "train",
    source: str = "digits",
    size: int = 28,
    n: int = 20_000,
    two: float = 0.2,
    seed: int = 0,
) -> Tensor:
    """Images of :func:`load_scenes` with other attributes, and all else as it was: the handwriting, where the digit
    stays, places, leans and shades. uint8 [k, 3, size, size].

    Args:
        index: int64 [k], which images.
        changed: attribute -> its labels, int64 [k].
        split, source, size, n, two, seed: of the set.
    """
    glyphs, labels, draws = _parts(split, source, n, two, seed)
    own = {name: values[index] for name, values in labels.items()} | dict(changed)
    return _draw(frame_glyphs(glyphs), glyphs.labels, own, {name: draw[index] for name, draw in draws.items()}, size)


def _parts(
    split: str, source: str, n: int, two: float, seed: int
) -> tuple[ImageData, dict[str, Tensor], dict[str, Tensor]]:
    """The digits, and the labels and draws of every image of a split."""
    draws = _draws(f"scenes {split}", seed, n if split == "train" else n // TEST_SHARE)
    labels = _assign(draws, held_out() if split == "test" else ~held_out() & possible(), two)
    return load_data(source, split), labels, draws


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a text model is asked for, and what a judge should then see.

    Attributes:
        captions: one per prompt.
        attributes: int64 [n] each, -1 where a prompt does not say.
    """

    captions: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.captions)


def held_out_prompts(n: int, seed: int = 0, two: float = 0.2, full: bool = True) -> Prompts:
    """Prompts for combinations of digit, ink, background and position that no train image has.

    Args:
        two: share of prompts for two digits.
        full: captions that say everything, in one wording; False: in varied English, which may leave attributes out.

    Raises:
        UsageError: if ``n`` is below 1 or ``two`` is not in [0, 1].
    """
    if n < 1:
        raise UsageError(f"prompts: expected n of at least 1, got {n}")
    _check_share(two)
    labels = _assign(_draws("scenes prompts", seed, n), held_out(), two)
    scenes = _scenes(labels)
    if full:
        captions = tuple(full_caption(scene) for scene in scenes)
        asked = scenes
    else:
        captions = tuple(varied_caption(scene, _words(f"prompts {seed} {i}")) for i, scene in enumerate(scenes))
        asked = [read_caption(caption) for caption in captions]
    return Prompts(
        captions,
        {
            name: Attribute(values, torch.tensor([values.index(s[name]) if name in s else -1 for s in asked]))
            for name, values in VALUES.items()
        },
    )


def possible() -> Tensor:
    """bool [digit, ink, background, position]: ink and background differ."""
    return (~torch.eye(len(COLOURS), dtype=torch.bool))[None, :, :, None].expand(
        len(DIGIT_NAMES), -1, -1, len(POSITIONS)
    )


@cache
def held_out() -> Tensor:
    """bool [digit, ink, background, position]: the combinations of the test split, by the hash of their names.

    A train image has none of them, be it of one digit or of two; in a test image every digit is one of them.
    """
    chosen = torch.zeros(len(DIGIT_NAMES), len(COLOURS), len(COLOURS), len(POSITIONS), dtype=torch.bool)
    pairs = list(permutations(range(len(COLOURS)), 2))
    for digit, name in enumerate(DIGIT_NAMES):
        for position, place in enumerate(POSITIONS):

            def rank(pair: tuple[int, int], seed_text: str = f"{name} {place}") -> bytes:
                return sha256(f"{seed_text} {COLOURS[pair[0]]} {COLOURS[pair[1]]}".encode()).digest()

            for ink, background in sorted(pairs, key=rank)[:HELD_OUT]:
                chosen[digit, ink, background, position] = True
    return chosen


def _check(source: str, size: int, n: int, two: float, seed: int) -> None:
    if not isinstance(source, str):
        raise UsageError(f"scenes: expected the name of a digit set as source, in quotes, got {source!r}")
    if (called := read_call(source)) is not None and called[0] == "scenes":
        raise UsageError(
            f"scenes: source {source!r} is made of scenes itself; expected grey digits, e.g. digits or mnist"
        )
    for name, value in (("size", size), ("n", n), ("seed", seed)):
        if not isinstance(value, int):
            raise UsageError(f"scenes: expected a whole number as {name}, got {value!r}")
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"scenes: expected a size of {SMALLEST} to {LARGEST} pixels, got {size}")
    if n < TEST_SHARE:
        raise UsageError(f"scenes: expected n of at least {TEST_SHARE}, got {n}")
    _check_share(two)


def _check_share(two: float) -> None:
    if not isinstance(two, int | float) or not 0 <= two <= 1:
        raise UsageError(f"scenes: expected a share of two-digit images in [0, 1] as two, got {two!r}")


def _draws(purpose: str, seed: int, count: int) -> dict[str, Tensor]:
    """float64 [count] in [0, 1) by name; the first of them do not depend on ``count``."""
    blocks = [
        torch.rand(_BLOCK, len(_DRAWS), generator=stream(purpose, seed, block), dtype=torch.float64)
        for block in range(-(-count // _BLOCK))
    ]
    return dict(zip(_DRAWS, torch.cat(blocks)[:count].T.contiguous(), strict=True))


def _assign(draws: Mapping[str, Tensor], allowed: Tensor, two: float) -> dict[str, Tensor]:
    """Labels by attribute, int64 [n]; every digit is of an ``allowed`` combination [digit, ink, background, position].

    Digit, size and slant are uniform; so is the position of single digits, and ink and background but for what is
    not allowed.
    """
    pair = draws["count"] < two
    first = torch.tensor([POSITIONS.index(place) for place in _OPPOSITE])
    other = torch.tensor([POSITIONS.index(place) for place in _OPPOSITE.values()])
    side = (draws["position"] * len(first)).long()
    digit = (draws["digit"] * len(DIGIT_NAMES)).long()
    position = torch.where(pair, first[side], (draws["position"] * len(POSITIONS)).long())
    colours = _pick(allowed[digit, :, :, position].flatten(1), draws["colours"])
    ink, background = colours // len(COLOURS), colours % len(COLOURS)
    # the second digit stands on the same background, in any combination that is allowed there
    second = _pick(allowed.permute(2, 3, 0, 1)[background, other[side]].flatten(1), draws["second"])
    return {
        "digit": digit,
        "ink": ink,
        "background": background,
        "size": (draws["size"] * len(SIZES)).long(),
        "position": position,
        "slant": (draws["slant"] * len(SLANTS)).long(),
        "count": pair.long(),
        "second digit": torch.where(pair, second // len(COLOURS), -1),
        "second ink": torch.where(pair, second % len(COLOURS), -1),
        "second position": torch.where(pair, other[side], -1),
    }


def _pick(among: Tensor, draw: Tensor) -> Tensor:
    """int64 [n]: one of the true columns of ``among`` bool [n, m], uniformly by ``draw`` [n] in [0, 1)."""
    wanted = (draw * among.sum(dim=1)).long()
    return (among.cumsum(dim=1) <= wanted[:, None]).sum(dim=1)


def _draw(
    frames: Tensor, digits: Tensor, labels: Mapping[str, Tensor], draws: Mapping[str, Tensor], size: int
) -> Tensor:
    """uint8 [n, 3, size, size]: background + coverage (ink - background), one digit after the other."""
    ground = _jittered(labels["background"], draws, "background")[:, :, None, None]
    images = ground.expand(-1, -1, size, size).clone()
    for which in ("", "second "):
        index = (labels[f"{which}digit"] >= 0).nonzero()[:, 0]
        if len(index) == 0:
            continue
        own = {name: values[index] for name, values in labels.items()}
        drawn = {name: values[index] for name, values in draws.items()}
        glyph = _pick(digits[None] == own[f"{which}digit"][:, None], drawn[f"{which}glyph"])
        rows, columns = own[f"{which}position"] // 3, own[f"{which}position"] % 3
        cover = draw_glyphs(
            frames[glyph],
            size,
            x=_around(torch.tensor(PLACES)[columns], drawn[f"{which}x"], PLACE_JITTER) * size,
            y=_around(torch.tensor(PLACES)[rows], drawn[f"{which}y"], PLACE_JITTER) * size,
            height=torch.tensor(list(HEIGHTS.values()))[own["size"]]
            * _around(torch.tensor(1.0), drawn[f"{which}height"], HEIGHT_JITTER)
            * size,
            lean=_around(torch.tensor(list(LEANS.values()))[own["slant"]], drawn[f"{which}lean"], LEAN_JITTER),
        )[:, None]
        ink = _jittered(own[f"{which}ink"], drawn, f"{which}ink")[:, :, None, None]
        images[index] += cover * (ink - images[index])
    return images.round().clamp(0, 255).to(torch.uint8)


def _jittered(colour: Tensor, draws: Mapping[str, Tensor], what: str) -> Tensor:
    """float32 [n, 3], levels of the palette's ``colour`` [n] and what this image is off by."""
    off = torch.stack([draws[f"{what} {channel}"] for channel in "rgb"], dim=1).to(torch.float32)
    return torch.tensor([RGB[name] for name in COLOURS])[colour] + (2 * off - 1) * COLOUR_JITTER


def _around(centre: Tensor, draw: Tensor, reach: float) -> Tensor:
    return (centre + (2 * draw - 1) * reach).to(torch.float32)


def _scenes(labels: Mapping[str, Tensor]) -> list[dict[str, str]]:
    """The attributes of each image in words, without those that do not apply."""
    columns = {name: values.tolist() for name, values in labels.items()}
    return [
        {name: VALUES[name][column[i]] for name, column in columns.items() if column[i] >= 0}
        for i in range(len(columns["digit"]))
    ]


def _words(seed_text: str) -> random.Random:
    return random.Random(int.from_bytes(sha256(f"captions {seed_text}".encode()).digest()[:8], "big"))
