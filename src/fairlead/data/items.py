"""The items of a torch data set, each read once: a training then sees the same images at every visit, whatever draws
and workers its own loader would use.

An item is an image, a pair (image, label), or a dictionary of an image, and of a label and a caption where it has them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fairlead.core.arguments import plain, shown
from fairlead.core.errors import UsageError, note
from fairlead.data.decode import pixels_of
from fairlead.data.images import to_uint8
from fairlead.data.tensor_cache import cache_folder

IMAGES = ("image", "img", "images", "pixel_values", "x")
LABELS = ("label", "labels", "class", "target", "targets", "fine_label", "y")
CAPTIONS = ("caption", "captions", "text", "prompt")
_TWICE = 4
"""First items that are read twice, to see whether they are the same."""
_IN_MEMORY = 2**28
"""Bytes of images above which they lie in a file that is mapped, and gone with the process."""


@dataclass(frozen=True, eq=False)
class Items:
    """What the items hold.

    Attributes:
        images: uint8 [n, c, h, w].
        labels: one an item, integers or names; None where they have none.
        captions: one an item, text or lists of text; None where they have none.
    """

    images: Tensor
    labels: list[Any] | None
    captions: list[Any] | None


def is_items(given: Any) -> bool:
    """Whether this is a data set of items, not an array or a list of images."""
    plain_kinds = (Tensor, np.ndarray, list, tuple, str, bytes, Mapping)
    return not isinstance(given, plain_kinds) and not hasattr(given, "__array__") and hasattr(given, "__getitem__")


def read_items(given: Any, progress: Callable[[int], object] = lambda count: None) -> Items:
    """All items of a map-style data set, in their order.

    Args:
        given: has ``len()`` and ``[i]``. Images are uint8 (0 to 255) or float (-1 to 1) tensors or arrays [c, h, w],
            [h, w, c] or [h, w], or pictures of PIL; all of one size, with 1 or 3 channels.
        progress: called with numbers of items.

    Raises:
        UsageError: naming the first item that is none of that, or of another size; for items that are others when they
            are read again, as random transforms make them.
    """
    try:
        n = len(given)
    except TypeError:
        raise UsageError(f"data: expected a data set with a length and items by number, got {shown(given)}") from None
    if n == 0:
        raise UsageError("data: the data set has no items")
    first = _Item.of(given, 0)
    for i in range(min(n, _TWICE)):
        if not _Item.of(given, i).same(_Item.of(given, i)):
            raise UsageError(
                f"data: item {i} is a different image when it is read again, so it is changed at random; remove the "
                "random transforms (a batch must depend on seed and step alone); flip=True mirrors images"
            )
    images = _room((n, *first.image.shape))
    labels, captions, low = [], [], 1.0
    for i in range(n):
        item = _Item.of(given, i)
        if item.image.shape != first.image.shape or (item.label is None) != (first.label is None):
            raise UsageError(f"data: item {i} is {item.said}, item 0 {first.said}; expected all alike")
        images[i] = item.image
        labels.append(item.label)
        captions.append(item.caption)
        low = min(low, item.low)
        progress(1)
    if 0 <= low < 1:
        note("data: float images are from -1 to 1 and no item is below 0; if they are from 0 to 1, give 2 * image - 1")
    texts = None if first.caption is None else captions
    return Items(torch.from_numpy(images), None if first.label is None else labels, texts)


@dataclass(frozen=True, eq=False)
class _Item:
    """``low``: the least value of a float image; 1 for others."""

    image: NDArray[np.uint8]
    label: Any
    caption: Any
    low: float

    @property
    def said(self) -> str:
        return f"{'x'.join(map(str, self.image.shape))} {'without' if self.label is None else 'with'} a label"

    def same(self, other: _Item) -> bool:
        return np.array_equal(self.image, other.image)

    @classmethod
    def of(cls, given: Any, i: int) -> _Item:
        try:
            item = given[i]
        except Exception as error:  # whatever the reader of others raises
            raise UsageError(f"data: item {i} cannot be read ({type(error).__name__}: {error})") from error
        image, label, caption = _parts(item, i)
        pixels, low = _pixels(image, i)
        label = plain(label.item() if isinstance(label, Tensor) and label.numel() == 1 else label)
        if not isinstance(label, int | str | None) or isinstance(label, bool):
            raise UsageError(f"data: item {i} has the label {shown(label)}, expected an index or a name")
        return cls(pixels, label, caption, low)


def _parts(item: Any, i: int) -> tuple[Any, Any, Any]:
    """(image, label, caption)"""
    if isinstance(item, Mapping):
        found = []
        for known in (IMAGES, LABELS, CAPTIONS):
            name = next((name for name in known if name in item), None)
            found.append((name, None if name is None else item[name]))
        unknown = [name for name in item if name not in [name for name, _ in found]]
        if found[0][0] is None or unknown:
            what = f"and also {shown(unknown[0])}" if found[0][0] is not None else "but no image"
            raise UsageError(
                f"data: item {i} has {', '.join(map(str, item))}, {what}; expected image, and label and caption where "
                "there are some"
            )
        return found[0][1], found[1][1], found[2][1]
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        if len(item) not in (1, 2):
            raise UsageError(f"data: item {i} has {len(item)} parts, expected an image and a label")
        return item[0], item[1] if len(item) == 2 else None, None
    return item, None, None


def _pixels(image: Any, i: int) -> tuple[NDArray[np.uint8], float]:
    """uint8 [c, h, w], and the least value of a float image, else 1."""
    if isinstance(image, Image.Image):
        try:
            array = pixels_of(image)
        except UsageError as error:
            raise UsageError(f"data: item {i} {error}") from None
        return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), 1.0
    tensor = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
    if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3):
        raise UsageError(f"data: item {i}: expected an image [c, h, w], [h, w, c] or [h, w], got {shown(image)}")
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.shape[0] not in (1, 3) and tensor.shape[2] in (1, 3):
        tensor = tensor.permute(2, 0, 1)
    if tensor.shape[0] not in (1, 3):
        raise UsageError(f"data: item {i} has the shape {list(tensor.shape)}, expected 1 or 3 channels")
    low = 1.0
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= -1 and high <= 1):
            raise UsageError(
                f"data: item {i}: expected float images from -1 to 1, got {low:g} to {high:g}; scale it, or give uint8"
            )
        tensor = to_uint8(tensor[None])[0]
    if tensor.dtype != torch.uint8:
        raise UsageError(f"data: item {i}: expected uint8, 0 to 255, or float, -1 to 1, got {tensor.dtype}")
    return tensor.detach().cpu().numpy(), low


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """For images: memory, or of many a file without a name, mapped."""
    if int(np.prod(shape)) <= _IN_MEMORY:
        return np.empty(shape, np.uint8)
    try:
        folder = cache_folder()
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.uint8, mode="w+", shape=shape)
    except OSError as error:
        raise UsageError(f"data: {int(np.prod(shape)) / 1e9:.2f} GB of images cannot be stored ({error})") from error
