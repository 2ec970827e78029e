"""Scenes: what the truth says is what the pixels show; the splits share no combination; one spec, the same bits."""

import math
from typing import Any

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import DIGIT_NAMES, load_digits
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.data.scenes.captions import COLOURS, POSITIONS, VALUES, full_caption, read_caption
from fairlead.data.scenes.glyphs import FRAME, INSIDE, draw_glyphs, frame_glyphs
from fairlead.data.scenes.scene_set import (
    COLOUR_JITTER,
    PLACES,
    RGB,
    held_out,
    held_out_prompts,
    load_scenes,
    possible,
    redrawn,
)

PALETTE = torch.tensor([RGB[name] for name in COLOURS], dtype=torch.float64)


@pytest.fixture(scope="module")
def train() -> ImageData:
    return load_data("scenes(n=3000)")


@pytest.fixture(scope="module")
def test() -> ImageData:
    return load_data("scenes(n=7500)", "test")


def placed(data: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
    """(combination int64 [m, 4], image [m]) of every digit: digit, ink, background, position."""
    labels = {name: attribute.labels for name, attribute in data.attributes.items()}
    parts, images = [], []
    for which in ("", "second "):
        names = (f"{which}digit", f"{which}ink", "background", f"{which}position")
        rows = torch.stack([labels[name] for name in names], dim=1)
        there = rows[:, 0] >= 0
        parts.append(rows[there])
        images.append(there.nonzero()[:, 0])
    return torch.cat(parts), torch.cat(images)


def cover(data: ImageData, which: str = "") -> torch.Tensor:
    """float64 [n, h, w]: for every pixel, how far it is on the way from the background to the palette's ink."""
    ground = data.images[:, :, 0, 0].double()
    ink = PALETTE[data.attributes[f"{which}ink"].labels]
    way = (ink - ground)[:, :, None, None]
    return ((data.images - ground[:, :, None, None]) * way).sum(dim=1) / way.square().sum(dim=1)


def test_shapes_names_and_sizes(train, test):
    assert (train.shape, len(train), len(test)) == ((3, 28, 28), 3000, 1500)
    assert (train.name, test.split, train.flip, train.classes) == ("scenes(n=3000)", "test", False, DIGIT_NAMES)
    assert torch.equal(train.labels, train.attributes["digit"].labels)
    assert {name: attribute.values for name, attribute in train.attributes.items()} == VALUES
    assert load_data("scenes(n=10, size=37)").shape == (3, 37, 37)
    assert load_data("scenes(n=10)", size=64).shape == (3, 64, 64)
    assert load_data("scenes(n=10, size=64)", size=16).shape == (3, 16, 16)


def test_an_image_depends_on_seed_split_and_number_only(train):
    again = load_scenes(n=1700)
    first = train.subset(slice(0, 1700))
    assert torch.equal(again.images, first.images)
    assert again.captions == first.captions
    assert load_data("scenes(n=3000)").fingerprint == train.fingerprint
    assert load_data(train.name).fingerprint == train.fingerprint
    others = [load_scenes(n=100, seed=1), load_scenes("test", n=500)]
    assert len({train.subset(slice(0, 100)).fingerprint, *(other.fingerprint for other in others)}) == 3


def test_an_image_is_drawn_again_with_another_ink_or_digit(test):
    """Nothing changed: the same bits. Another ink: the same cover, so that the background and the shape stay. Another
    digit: the flat background stays wherever neither digit is."""
    index = (test.attributes["count"].labels == 0).nonzero()[:40, 0]
    call: dict[str, Any] = {"split": "test", "n": 7500}
    assert torch.equal(redrawn(index, {}, **call), test.images[index])
    ink, ground = (test.attributes[name].labels[index] for name in ("ink", "background"))
    pairs = zip(ink.tolist(), ground.tolist(), strict=True)
    other = torch.tensor([next(c for c in range(len(COLOURS)) if c not in pair) for pair in pairs])
    again = redrawn(index, {"ink": other}, **call)
    away = again.int().sub(test.images[index].int()).abs().amax(1)
    inked = (test.images[index].int() - test.images[index][:, :, :1, :1].int()).abs().amax(1) > 0
    assert int(away[~inked].max()) <= 2  # a cover that rounding hid in the one ink
    assert bool((away[inked] > 0).float().mean() > 0.9)
    assert torch.equal(again[:, :, 0, 0], test.images[index][:, :, 0, 0])
    digit = (test.labels[index] + 1) % 10
    again = redrawn(index, {"digit": digit}, **call)
    corner = again[:, :, :1, :1].expand_as(again)
    either = inked | (again.int() - corner.int()).abs().amax(1).gt(0)
    assert torch.equal(again.masked_select(~either[:, None]), test.images[index].masked_select(~either[:, None]))


def test_no_combination_of_a_test_image_is_in_train(train, test):
    seen, unseen = placed(train)[0], placed(test)[0]
    assert not set(map(tuple, seen.tolist())) & set(map(tuple, unseen.tolist()))
    assert not bool(held_out()[tuple(seen.T)].any())
    assert bool(held_out()[tuple(unseen.T)].all())


def test_a_tenth_of_the_combinations_is_held_out_evenly():
    out, all_of_them = held_out(), possible()
    assert int(all_of_them.sum()) == 10 * 7 * 6 * 9
    assert not bool((out & ~all_of_them).any())
    assert torch.equal(out.sum(dim=(1, 2)), torch.full((10, 9), 4))  # of 42, for every digit and position
    for dims in ((0, 2, 3), (0, 1, 3)):  # inks, backgrounds: 360 / 7 each, within 3 binomial deviations
        assert bool(((out.sum(dim=dims) - 360 / 7).abs() < 3 * math.sqrt(360 * 6 / 49)).all())


def test_every_value_is_in_both_splits_in_near_equal_shares(train, test):
    for data, slack in ((train, 0.0), (test, 0.25)):
        for name, attribute in data.attributes.items():
            counts = attribute.labels[attribute.labels >= 0].bincount(minlength=len(attribute.values))
            if name == "count":
                assert int(counts[1]) == pytest.approx(0.2 * len(data), abs=5 * math.sqrt(0.16 * len(data)))
                continue
            if name == "position":
                single = attribute.labels[data.attributes["count"].labels == 0]
                counts = single.bincount(minlength=len(attribute.values))
            used = (
                counts if name != "second position" else counts[[POSITIONS.index("right"), POSITIONS.index("bottom")]]
            )
            mean = int(used.sum()) / len(used)
            # in the test split inks and backgrounds have the shares of the combinations held out
            assert bool(((used - mean).abs() < 5 * mean**0.5 + slack * mean).all()), (data.split, name, used)


def test_the_background_is_flat_and_of_its_colour(train):
    border = torch.cat([train.images[:, :, (0, -1)].flatten(2), train.images[:, :, :, (0, -1)].flatten(2)], dim=2)
    colour = border.double().median(dim=2).values
    assert bool(((colour - PALETTE[train.attributes["background"].labels]).abs() <= COLOUR_JITTER + 0.5).all())
    corners = train.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].double()
    off = (corners - colour[:, :, None]).abs().amax(dim=(1, 2))
    assert int((off > 0).sum()) <= 3  # a leaning digit may touch a corner
    assert float(off.max()) <= COLOUR_JITTER
    assert bool((train.attributes["background"].labels != train.attributes["ink"].labels).all())


def test_the_ink_covers_the_digit(train):
    one = train.subset(train.attributes["count"].labels == 0)
    covered = cover(one) > 0.8
    assert int(covered.flatten(1).sum(dim=1).min()) >= 1
    mean = (one.images.double() * covered[:, None]).sum(dim=(2, 3)) / covered.sum(dim=(1, 2))[:, None]
    distance = torch.cdist(mean, PALETTE)
    assert torch.equal(distance.argmin(dim=1), one.attributes["ink"].labels)


def test_the_centre_of_mass_is_in_the_named_place(train):
    one = train.subset(train.attributes["count"].labels == 0)
    weight = cover(one).clamp(0, 1)
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    at = (torch.arange(28, dtype=torch.float64) + 0.5) / 28
    row, column = (weight.sum(dim=2) * at).sum(dim=1), (weight.sum(dim=1) * at).sum(dim=1)
    nearest = [(where[:, None] - torch.tensor(PLACES)).abs().argmin(dim=1) for where in (row, column)]
    assert torch.equal(3 * nearest[0] + nearest[1], one.attributes["position"].labels)


def test_size_is_height_and_leaning_moves_the_top(train):
    one = train.subset(train.attributes["count"].labels == 0)
    height = (cover(one) > 0.15).any(dim=2).sum(dim=1)
    size = one.attributes["size"].labels
    assert int(height[size == 0].max()) <= 10
    assert int(height[size == 1].min()) >= 11
    at = torch.arange(28, dtype=torch.float64)
    weight = cover(one).clamp(0, 1)
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    row, column = (weight.sum(dim=2) * at).sum(dim=1), (weight.sum(dim=1) * at).sum(dim=1)
    down, right = at[None] - row[:, None], at[None] - column[:, None]
    slope = torch.einsum("nyx,ny,nx->n", weight, down, right) / torch.einsum("nyx,ny->n", weight, down.square())
    slant = one.attributes["slant"].labels
    for digit in range(10):  # each has a slant of its own, to which 0.36 to either side is added
        own = [float(slope[(slant == k) & (one.labels == digit)].mean()) for k in range(3)]
        assert own[0] - own[1] == pytest.approx(0.36, abs=0.06)
        assert own[1] - own[2] == pytest.approx(0.36, abs=0.06)


def test_two_digits_stand_apart_each_in_its_own_ink():
    data = load_scenes(n=400, two=1.0)
    labels = {name: attribute.labels for name, attribute in data.attributes.items()}
    assert bool((labels["count"] == 1).all())
    side = labels["position"] == POSITIONS.index("left")
    assert torch.equal(side, labels["second position"] == POSITIONS.index("right"))
    assert torch.equal(~side, labels["position"] == POSITIONS.index("top"))
    assert torch.equal(~side, labels["second position"] == POSITIONS.index("bottom"))
    halves = {"": data.images.clone(), "second ": data.images.clone()}
    for which, images in halves.items():  # either digit alone: the other half is background
        for i in range(len(data)):
            own = slice(0, 14) if which == "" else slice(14, 28)
            kept = images[i, :, 0:1, 0:1].expand(-1, 28, 28).clone()
            at = (slice(None), slice(None), own) if side[i] else (slice(None), own, slice(None))
            kept[at] = images[i][at]
            images[i] = kept
    rebuilt = [PALETTE[labels[f"{which}ink"]] for which in halves]
    for which, ink in zip(halves, rebuilt, strict=True):
        off = (halves[which].double() - data.images[:, :, :1, :1].double()).abs().sum(dim=1)
        strong = off >= 0.95 * off.amax(dim=(1, 2), keepdim=True)
        mean = (halves[which].double() * strong[:, None]).sum(dim=(2, 3)) / strong.sum(dim=(1, 2))[:, None]
        assert torch.equal(torch.cdist(mean, PALETTE).argmin(dim=1), torch.cdist(ink, PALETTE).argmin(dim=1))


def test_with_two_digits_off_none_has_a_second():
    data = load_scenes(n=200, two=0)
    assert bool((data.attributes["count"].labels == 0).all())
    for name in ("second digit", "second ink", "second position"):
        assert bool((data.attributes[name].labels == -1).all())


def test_captions_say_what_is_there(train):
    columns = {name: attribute.labels.tolist() for name, attribute in train.attributes.items()}
    for i, caption in enumerate(train.captions):
        for name, value in read_caption(caption).items():
            assert VALUES[name][columns[name][i]] == value, caption


@pytest.mark.parametrize("full", [True, False])
def test_prompts_ask_for_combinations_that_are_held_out(full):
    prompts = held_out_prompts(300, seed=3, full=full)
    assert len(prompts) == len(prompts.captions) == 300
    labels = torch.stack([prompts.attributes[name].labels for name in ("digit", "ink", "background", "position")], 1)
    mentioned = (labels >= 0).all(dim=1)
    assert bool(held_out()[tuple(labels[mentioned].T)].all())
    for i, caption in enumerate(prompts.captions):
        said = {n: a.values[int(a.labels[i])] for n, a in prompts.attributes.items() if int(a.labels[i]) >= 0}
        assert said == read_caption(caption)
        assert not full or caption == full_caption(said)
    assert held_out_prompts(100, seed=3, full=full).captions == prompts.captions[:100]
    assert bool(mentioned.all()) == full


def test_a_glyph_fills_its_frame_in_height_and_stands_in_the_middle():
    frames = frame_glyphs(load_digits("test"))
    assert frames.shape == (359, FRAME, FRAME)
    dark = frames > 100
    rows = dark.any(dim=2)
    top = rows.float().argmax(dim=1)
    bottom = FRAME - 1 - rows.flip(1).float().argmax(dim=1)
    assert bool((((bottom - top + 1) - INSIDE).abs() <= 4).all())
    assert bool(((top + bottom + 1 - FRAME).abs() <= 4).all())


def test_dark_digits_on_light_ground_are_the_same_digits():
    data = load_digits("test")
    inverted = ImageData(255 - data.images, data.labels, data.classes, "ink", "test", False)
    difference = frame_glyphs(inverted).int() - frame_glyphs(data).int()
    assert int(difference.abs().max()) <= 1


def test_a_square_is_drawn_where_and_as_large_as_asked():
    frames = torch.zeros(1, FRAME, FRAME, dtype=torch.uint8)
    frames[:, 2:22, 2:22] = 255
    shown = draw_glyphs(frames, 40, *(torch.tensor([value]) for value in (22.0, 12.0, 10.0, 0.0)))[0]
    assert float(shown.sum()) == pytest.approx(100, abs=1)
    assert bool((shown[8:16, 18:26] > 0.99).all())
    assert float(shown[:6].sum() + shown[18:].sum() + shown[:, :16].sum() + shown[:, 28:].sum()) == 0
    leant = draw_glyphs(frames, 40, *(torch.tensor([value]) for value in (22.0, 12.0, 10.0, 0.4)))[0]
    at = torch.arange(40) + 0.5
    middle = (leant * at).sum(dim=1) / leant.sum(dim=1).clamp(min=1e-9)
    assert float(middle[8] - middle[15]) == pytest.approx(0.4 * 7, abs=0.05)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "scenes(sise=32)",
            r"unknown argument of data 'scenes' 'sise'; did you mean 'size'\? \(known: source, size, n,",
        ),
        ("scenes(32)", r"arguments of scenes are given by name \(source, size, n, two, seed\), got 32"),
        ("scenes(size=27)", "expected a size of 28 to 64 pixels, got 27"),
        ("scenes(size=65)", "expected a size of 28 to 64 pixels, got 65"),
        ("scenes(size=32.5)", "expected a whole number as size, got 32.5"),
        ("scenes(n=4)", "expected n of at least 5, got 4"),
        ("scenes(two=1.5)", r"share of two-digit images in \[0, 1\] as two, got 1.5"),
        ("scenes(source=3)", "expected the name of a digit set as source, in quotes, got 3"),
        ("scenes(source=digits)", "expected a number or a text in quotes, got digits"),
        ("scenes(source='scenes(size=32)')", "source 'scenes.size=32.' is made of scenes itself; expected grey digits"),
        ("scenes(source='nowhere')", "unknown data 'nowhere'"),
        ("scenes(size=__import__('os').getpid())", "expected a number or a text in quotes, got __import__"),
        ("scenes(size=32", "is not an expression: .*; write e.g."),
        ("scenes(size=32) + 1", "expected a name with arguments"),
        ("scenes(**{})", "is not allowed"),
        ("scene(size=32)", "unknown data 'scene'; did you mean 'scenes'"),
        ("digits(size=32)", "unknown argument of data 'digits' 'size'"),
        ("scenes(n=100)@x", "is not an expression|expected a name"),
    ],
)
def test_wrong_specs_are_refused(spec, message):
    with pytest.raises(UsageError, match=message) as error:
        load_data(spec)
    assert "\n" not in str(error.value)


def test_other_splits_and_sources_that_are_no_digits_are_refused():
    with pytest.raises(UsageError, match="unknown split 'val'"):
        load_scenes("val")
    data = load_digits("test")
    letters = ImageData(data.images, data.labels, tuple("abcdefghij"), "letters", "test", False)
    with pytest.raises(
        UsageError, match=r"'letters' is no digit set: its classes are a, b, c, d, ...; expected 0 to 9"
    ):
        frame_glyphs(letters)
    with pytest.raises(UsageError, match="source 'colour' has 3 channels, expected grey digits"):
        frame_glyphs(ImageData(data.images.expand(-1, 3, -1, -1), data.labels, data.classes, "colour", "test", False))
    with pytest.raises(UsageError, match="has no image of 'three'"):
        frame_glyphs(data.subset(data.labels != 3))
    with pytest.raises(UsageError, match="expected n of at least 1, got 0"):
        held_out_prompts(0)
