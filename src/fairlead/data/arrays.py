"""A training set of images that are at hand already: tensors, arrays, or the items of a torch data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.arguments import as_mapping, as_names, plain_list, shown
from fairlead.core.errors import UsageError, note, unknown
from fairlead.data.images import Attribute, ImageData, to_uint8
from fairlead.data.items import is_items, read_items

_CHANNELS = (1, 3)


def data(
    images: Any,
    labels: Any = None,
    captions: Sequence[str] | Sequence[Sequence[str]] | None = None,
    *,
    classes: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[str | None]] | None = None,
    name: str = "images",
    split: str = "train",
    flip: bool = False,
) -> ImageData:
    """A set of images in memory, for training and measuring.

    Args:
        images: a tensor or array of n images, [n, c, h, w], [n, h, w, c] or grey [n, h, w], with 1 or 3 channels:
            uint8 0 to 255, or float -1 to 1, which is rounded to uint8. Or a data set of torch (of `datasets`, anything
            with a length and items by number), whose items are images, pairs of image and label, or dictionaries of
            image, label and caption; each is read once, see :func:`fairlead.data.items.read_items`.
        labels: n indices into ``classes``, or n names of classes; without them there is one class.
        captions: n sentences, or n lists of sentences, of which training draws one at every visit.
        classes: names of the classes in the order of their indices; by default those that a data set has as
            ``classes``, or the names among the labels, sorted, or "0", "1", ... up to the largest index.
        attributes: what else is known of each image, by name: n texts, None where it does not apply.
        name: of the set, for messages and protocols.
        split: "train", "test", ...
        flip: whether a mirrored image is again one of this set.

    Raises:
        UsageError: for images of another type, shape or range, labels that are no classes, or another number of labels,
            captions or values than of images.
    """
    if is_items(images):
        if labels is not None or captions is not None:
            raise UsageError("data: labels and captions are those of the data set's items; leave them out")
        found = read_items(images)
        own_names = getattr(images, "classes", None)
        by_index = found.labels is not None and all(isinstance(label, int) for label in found.labels)
        classes = own_names if classes is None and by_index and own_names else classes
        images, labels, captions = found.images, found.labels, found.captions
    stored = _images(images if isinstance(images, Tensor) else _tensor(images))
    n = len(stored)
    numbers, names = _labels(labels, n, classes)
    first, more = _captions(captions, n)
    own = {}
    for attribute, given in as_mapping("data: attributes", attributes).items():
        values = tuple(dict.fromkeys(sorted(str(value) for value in _list("values", given, n) if value is not None)))
        places = [-1 if value is None else values.index(str(value)) for value in given]
        own[attribute] = Attribute(values, torch.tensor(places, dtype=torch.int64))
    return ImageData(stored, numbers, names, name, split, flip, first, own, more)


def with_held_out(given: Any) -> tuple[Any, ImageData | None]:
    """What a training is given as data: (what to train on, what to hold out, where two sets in memory are given).

    Raises:
        UsageError: for a list of anything but two sets.
    """
    if not isinstance(given, list | tuple):
        return given, None
    if len(given) != 2 or not all(isinstance(one, ImageData) for one in given):
        raise UsageError(f"data: expected one set, or two of fl.data, to train on and to hold out, got {shown(given)}")
    return given[0], given[1]


def _tensor(images: Any) -> Tensor:
    try:
        return torch.from_numpy(np.require(images, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise UsageError(f"data: expected images as a tensor or an array of numbers, got {shown(images)}") from error


def _images(images: Tensor) -> Tensor:
    """uint8 [n, c, h, w]."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape or not (images.shape[1] in _CHANNELS or images.shape[3] in _CHANNELS):
        raise UsageError(
            f"data: expected images [n, c, h, w], [n, h, w, c] or [n, h, w] with 1 or 3 channels, got "
            f"{list(images.shape)}"
        )
    if images.shape[1] not in _CHANNELS:
        images = images.permute(0, 3, 1, 2)
    images = images.detach().cpu().contiguous()
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise UsageError(f"data: expected images of uint8, 0 to 255, or float, -1 to 1, got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):
        raise UsageError(
            f"data: expected float images from -1 to 1, got {low:g} to {high:g}; scale them, or pass uint8"
        )
    if low >= 0:
        note(
            "data: float images are from -1 to 1, and these are 0 or more; if they are from 0 to 1, pass 2 * images - 1"
        )
    return to_uint8(images)


def _labels(labels: Any, n: int, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    names = None if classes is None else as_names("data: classes", classes)
    if names is not None and (not names or len(set(names)) < len(names)):
        raise UsageError(f"data: expected different names of classes, got {shown(list(names))}")
    if labels is None:
        if names is not None and len(names) > 1:
            raise UsageError(f"data: {len(names)} classes and no labels; pass labels, one per image")
        return torch.zeros(n, dtype=torch.int64), names or ("all",)
    given = _list("labels", labels, n)
    if all(isinstance(label, str) for label in given):
        names = names or tuple(sorted(set(given)))
        place = {name: i for i, name in enumerate(names)}
        if missing := [label for label in given if label not in place]:
            raise unknown("class of data", missing[0], names)
        return torch.tensor([place[label] for label in given]), names
    if not all(isinstance(label, int) and not isinstance(label, bool) for label in given):
        raise UsageError(f"data: expected labels to be indices of classes, or their names, got {shown(given)}")
    names = names or tuple(map(str, range(max(given) + 1)))
    if outside := [label for label in given if not 0 <= label < len(names)]:
        raise UsageError(f"data: label {outside[0]} is not one of {len(names)} classes, 0 to {len(names) - 1}")
    return torch.tensor(given), names


def _captions(captions: Any, n: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The first sentence of each image, and the others where there are any."""
    if captions is None:
        return (), ()
    parsed = [
        (own,) if isinstance(own, str) else as_names("data: captions", own) for own in _list("captions", captions, n)
    ]
    if not all(parsed):
        raise UsageError("data: an image has an empty list of captions; give each at least one")
    more = tuple(own[1:] for own in parsed)
    return tuple(own[0] for own in parsed), more if any(more) else ()


def _list(what: str, given: Any, n: int) -> list[Any]:
    values = plain_list(given)
    if isinstance(values, str) or not isinstance(values, list | tuple) or len(values) != n:
        count = f"{len(values)}" if isinstance(values, list | tuple) else shown(given)
        raise UsageError(f"data: expected {n} {what}, one per image, got {count}")
    return list(values)
