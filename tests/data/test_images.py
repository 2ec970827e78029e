import hashlib
from dataclasses import replace

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.batches import Batches
from fairlead.data.images import Attribute, ImageData, stratified_order, stratified_split, to_float, to_uint8


def numbered(n: int, classes: int = 3, flip: bool = False) -> ImageData:
    """Image i has i in its left column and 200 in its right one, so both identity and flip can be read off."""
    images = torch.full((n, 1, 2, 2), 200, dtype=torch.uint8)
    images[..., 0] = torch.arange(n, dtype=torch.uint8)[:, None, None]
    names = tuple(f"class {i}" for i in range(classes))
    return ImageData(images, torch.arange(n) % classes, names, "numbered", "train", flip)


def identities(x: torch.Tensor) -> list[int]:
    return to_uint8(x).flatten(1).min(1).values.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_grey_level_survives_the_round_trip(dtype):
    levels = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    x = to_float(levels)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert torch.equal(to_uint8(x.to(dtype)), levels)


def test_to_uint8_rounds_to_nearest_and_clamps():
    x = torch.tensor([[-7.0], [-1.0], [0.4 / 127.5 - 1], [0.6 / 127.5 - 1], [1.0], [9.0]])
    assert to_uint8(x)[:, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_to_uint8_names_the_first_broken_sample(bad):
    x = torch.zeros(5, 1, 2, 2)
    x[3, 0, 1, 1] = bad
    x[4] = bad
    with pytest.raises(UsageError, match="sample 3 of 5 has nan or inf"):
        to_uint8(x)


def test_fingerprint_is_the_hash_of_the_bytes_and_sees_one_pixel_one_label_and_the_order():
    data = numbered(4)
    expected = hashlib.sha256(bytes(data.images.flatten().tolist()) + data.labels.numpy().tobytes()).hexdigest()[:16]
    pixel = data.images.clone()
    pixel[3, 0, 1, 1] += 1
    others = [
        ImageData(pixel, data.labels, data.classes, "numbered", "train", False),
        ImageData(data.images, data.labels.flip(0), data.classes, "numbered", "train", False),
        data.subset(torch.tensor([1, 0, 2, 3])),
    ]
    assert data.fingerprint == expected
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert data.subset(slice(None)).fingerprint == expected


def test_subset_by_mask_by_index_and_by_slice_agree():
    data = numbered(5)
    mask = torch.tensor([False, True, True, False, False])
    parts = [data.subset(index) for index in (mask, torch.tensor([1, 2]), slice(1, 3))]
    assert {part.fingerprint for part in parts} == {parts[0].fingerprint}
    assert parts[0].labels.tolist() == [1, 2]
    assert (len(parts[0]), parts[0].shape) == (2, (1, 2, 2))


def test_image_data_refuses_what_does_not_fit():
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"expected images uint8 \[n, c, h, w\], got torch.float32"):
        ImageData(images.float(), labels, ("a",), "x", "train", False)
    with pytest.raises(UsageError, match=r"expected labels int64 \[2\], got torch.int64 \[1\]"):
        ImageData(images, labels[:1], ("a",), "x", "train", False)
    with pytest.raises(UsageError, match="label 1 is not one of 1 classes"):
        ImageData(images, labels + 1, ("a",), "x", "train", False)


def labelled(n: int) -> ImageData:
    """``numbered``, where caption i says i and the attribute "parity" is i % 2, but -1 for every third image."""
    parity = torch.where(torch.arange(n) % 3 == 0, -1, torch.arange(n) % 2)
    attributes = {"parity": Attribute(("even", "odd"), parity)}
    return replace(numbered(n), captions=tuple(f"number {i}" for i in range(n)), attributes=attributes)


def test_captions_and_attributes_stay_with_their_images():
    data = labelled(7)
    for index in (torch.tensor([5, 0, 5]), torch.arange(7) % 2 == 0, slice(1, 4), slice(0, 0)):
        part = data.subset(index)
        numbers = part.images[:, 0, 0, 0].tolist()
        assert part.captions == tuple(f"number {i}" for i in numbers)
        assert part.attributes["parity"].labels.tolist() == [-1 if i % 3 == 0 else i % 2 for i in numbers]
        assert part.attributes["parity"].values == ("even", "odd")


def test_fingerprint_sees_a_caption_an_attribute_a_value_and_a_name():
    data = labelled(4)
    values, labels = data.attributes["parity"].values, data.attributes["parity"].labels
    others = [
        numbered(4),
        replace(data, captions=("number 1", *data.captions[1:])),
        replace(data, captions=()),
        replace(data, attributes={}),
        replace(data, attributes={"parity": Attribute(values, labels.clamp(min=0))}),
        replace(data, attributes={"parity": Attribute(("odd", "even"), labels)}),
        replace(data, attributes={"rest": Attribute(values, labels)}),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 8
    two = {name: Attribute(("a",), torch.zeros(4, dtype=torch.int64)) for name in ("x", "y")}
    swapped = dict(reversed(two.items()))
    assert replace(data, attributes=two).fingerprint == replace(data, attributes=swapped).fingerprint


def test_captions_and_attributes_that_do_not_fit_are_refused():
    data = numbered(3)
    with pytest.raises(UsageError, match="expected no captions or 3, one per image, got 2"):
        replace(data, captions=("a", "b"))
    labels = torch.tensor([0, 1, 0])
    with pytest.raises(UsageError, match=r"attribute 'ink': expected labels int64 \[3\], got torch.int64 \[2\]"):
        replace(data, attributes={"ink": Attribute(("red", "blue"), labels[:2])})
    with pytest.raises(UsageError, match=r"attribute 'ink': expected labels int64 \[3\], got torch.float32 \[3\]"):
        replace(data, attributes={"ink": Attribute(("red", "blue"), labels.float())})
    for bad in (labels - 2, labels + 1):
        with pytest.raises(UsageError, match=r"attribute 'ink': label (-2|2) is neither -1 nor one of 2 values"):
            replace(data, attributes={"ink": Attribute(("red", "blue"), bad)})


@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_of_a_stratified_order_is_proportional(seed):
    labels = torch.tensor([0] * 40 + [1] * 7 + [2] * 13)
    order = stratified_order(labels, seed)
    counts = torch.tensor([40.0, 7, 13])
    assert sorted(order.tolist()) == list(range(60))
    for m in range(61):
        got = labels[order[:m]].bincount(minlength=3)
        # some fraction q with every class within half a sample of q times its size
        low, high = ((got - 0.5) / counts).max(), ((got + 0.5) / counts).min()
        assert low <= high + 1e-6


def test_stratified_split_is_disjoint_complete_stratified_and_repeatable():
    data = numbered(90)
    first, second = stratified_split(data, 0.2, seed=5)
    ids = [part.images[:, 0, 0, 0].tolist() for part in (first, second)]
    assert sorted(ids[0] + ids[1]) == list(range(90))
    assert first.labels.bincount().tolist() == [6, 6, 6]
    assert second.labels.bincount().tolist() == [24, 24, 24]
    assert stratified_split(data, 0.2, seed=5)[0].fingerprint == first.fingerprint
    with pytest.raises(UsageError, match="fraction between 0 and 1, got 1"):
        stratified_split(data, 1.0, seed=0)


@pytest.mark.parametrize(("n", "size"), [(12, 4), (10, 4), (7, 16), (5, 1)])
def test_every_sample_comes_exactly_once_per_epoch(n, size):
    batches, epochs = Batches(numbered(n), size, seed=3), 4
    stream = [i for step in range(-(-epochs * n // size)) for i in identities(batches.batch(step)[0])]
    orders = [stream[e * n : (e + 1) * n] for e in range(epochs)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    assert len({tuple(order) for order in orders}) == epochs


def test_images_keep_their_labels():
    x, labels = Batches(numbered(20), 50, seed=0).batch(3)
    assert labels.tolist() == [i % 3 for i in identities(x)]


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_is_a_pure_function_of_seed_and_step(flip):
    data = numbered(10, flip=flip)
    forward = [Batches(data, 4, seed=1).batch(step)[0] for step in range(9)]
    one = Batches(data, 4, seed=1)
    for step in (8, 2, 2, 5, 0):
        assert torch.equal(one.batch(step)[0], forward[step])
    others = [Batches(data, 4, seed=2).batch(step)[0] for step in range(9)]
    assert not torch.equal(torch.stack(forward), torch.stack(others))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_shares_of_all_processes_concatenate_to_the_global_batch(world):
    batches = Batches(numbered(10, flip=True), 12, seed=1)
    for step in range(3):
        shares = [batches.batch(step, rank, world) for rank in range(world)]
        x, labels = batches.batch(step)
        assert torch.equal(torch.cat([share[0] for share in shares]), x)
        assert torch.equal(torch.cat([share[1] for share in shares]), labels)


@pytest.mark.parametrize("world", [1, 3])
def test_the_index_of_a_batch_names_its_samples(world):
    batches = Batches(numbered(10), 12, seed=1)
    for step, rank in [(0, 0), (4, world - 1)]:
        x, labels = batches.batch(step, rank, world)
        index = batches.index(step, rank, world)
        assert index.tolist() == identities(x)
        assert torch.equal(batches.data.labels[index], labels)


def test_flip_mirrors_whole_images_half_of_the_time_and_only_if_asked():
    x, _ = Batches(numbered(100, flip=True), 1000, seed=0).batch(0)
    pixels = to_uint8(x)
    mirrored = pixels[:, 0, 0, 0] == 200
    assert bool((pixels[mirrored][..., 0] == 200).all())
    assert bool((pixels[~mirrored][..., 1] == 200).all())
    assert abs(int(mirrored.sum()) - 500) < 80  # 5 standard deviations
    straight, _ = Batches(numbered(100), 1000, seed=0).batch(0)
    assert bool((to_uint8(straight)[..., 1] == 200).all())


def test_batches_refuse_what_cannot_be_served():
    data = numbered(4)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        Batches(data, 0, seed=0)
    with pytest.raises(UsageError, match="has no images"):
        Batches(data.subset(slice(0, 0)), 4, seed=0)
    with pytest.raises(UsageError, match="batch size 4 is not divisible by 3 processes"):
        Batches(data, 4, seed=0).batch(0, rank=0, world=3)
    with pytest.raises(UsageError, match="rank: expected 0 to 1, got 2"):
        Batches(data, 4, seed=0).batch(0, rank=2, world=2)
    with pytest.raises(UsageError, match="step: expected 0 or more, got -1"):
        Batches(data, 4, seed=0).batch(-1)
