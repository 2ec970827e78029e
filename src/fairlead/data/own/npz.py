"""Sets in .npz files of numpy: images and labels as arrays, of one split or several."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.own.columns import ONE_CLASS, Columns, class_names, firsts, is_no_label, places
from fairlead.data.own.listing import SPLITS
from fairlead.data.own.npz_member import BROKEN, Member

_IMAGES = ("images", "image", "x", "data", "arr_0", "imgs", "img")
_LABELS = ("labels", "label", "y", "targets", "target", "arr_1", "class", "classes", "fine_label", "fine_labels")
_AT_ONCE = 2**22
"""Bytes that are looked at together."""
_RAGGED = "expected images [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels, uint8 or float -1 to 1"


@dataclass(frozen=True, eq=False)
class Arrays:
    """A split.

    Attributes:
        pixels: uint8 [n, h, w] or [n, h, w, 3], or float -1 to 1 of these shapes, when it is opened.
        labels: int64 [n], -1 where there is none.
        classes: of all splits.
        file: it is from.
        key: name of its images there.
        sources: in words, by which arrays.
    """

    pixels: Member
    labels: Tensor
    classes: tuple[str, ...]
    file: Path
    key: str
    sources: str


def read_arrays(files: Mapping[str, Sequence[Path]], columns: Columns, what: str) -> dict[str, Arrays]:
    """The splits of .npz files.

    Args:
        files: by split; a file may hold several, whose arrays have its name in theirs (``x_train``, ``test_images``).

    Raises:
        UsageError: if a file cannot be read, or it is not clear what of it is images, or labels.
    """
    found: dict[str, tuple[Path, str, Member, str, NDArray[Any] | None]] = {}
    for split, paths in files.items():
        for path in paths:
            for inside, entry in _of_file(path, columns, what).items():
                name = inside or split
                if name in found:
                    raise UsageError(f"data {what!r}: {found[name][0].name} and {path.name} both hold split {name!r}")
                found[name] = (path, *entry)
    values = [_values(entry[4]) for entry in found.values() if entry[4] is not None]
    if values and len(values) < len(found):
        bare = next(entry[0] for entry in found.values() if entry[4] is None)
        raise UsageError(f"data {what!r}: {bare.name} has no labels and another split has; give both or neither")
    known = sorted({value for own in values for value in own if not is_no_label(value)})
    index = places(known)
    classes = class_names(firsts(index), f"data {what!r}") or (ONE_CLASS,)
    sets: dict[str, Arrays] = {}
    for split, (path, key, images, label, raw) in found.items():
        _laid_out(np.broadcast_to(np.zeros((), images.dtype), images.shape), images.what)  # what its head says
        count = images.shape[0]
        numbers = [0] * count if raw is None else [index.get(value, -1) for value in _values(raw)]
        if len(numbers) != count:
            raise UsageError(
                f"data {what!r}: {path.name} has {count:,} images in {key!r} and {len(numbers):,} labels in "
                f"{label!r}; expected as many"
            )
        sources = f"images by array {key!r}, " + (f"labels by array {label!r}" if raw is not None else "no classes")
        sets[split] = Arrays(images, torch.tensor(numbers, dtype=torch.int64), classes, path, key, sources)
    return sets


def _of_file(path: Path, columns: Columns, what: str) -> dict[str, tuple[str, Member, str, NDArray[Any] | None]]:
    """Split, "" where none is named -> (name of the images, images, name of the labels, labels)."""
    try:
        with zipfile.ZipFile(path) as stored:
            names = [name.removesuffix(".npy") for name in stored.namelist() if name.endswith(".npy")]
            images = _named(names, columns.image, _IMAGES, path, what, "image")
            labels = _named(names, columns.label, _LABELS, path, what, "label")
            if not images:
                raise UsageError(
                    f"data {what!r}: none of the arrays of {path.name} ({', '.join(names)}) is called like images; "
                    "name it with --image-column"
                )
            found: dict[str, tuple[str, Member, str, NDArray[Any] | None]] = {}
            for split, name in images.items():
                raw = None
                if split in labels:
                    with stored.open(f"{labels[split]}.npy") as file:
                        raw = np.lib.format.read_array(file, allow_pickle=False)
                member = Member.of(path, stored, name, f"data {what!r}: {path.name}, array {name!r}")
                found[split] = name, member, labels.get(split, ""), raw
            return found
    except UsageError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"data {what!r}: {path.name} cannot be read as a .npz of numpy ({reason})") from error


def _named(
    names: Sequence[str], asked: str | None, known: Sequence[str], path: Path, what: str, kind: str
) -> dict[str, str]:
    """Split -> name of its array."""
    if asked is not None:
        if asked not in names:
            raise UsageError(
                f"data {what!r}: {path.name} has no array {asked!r} (--{kind}-column), but {', '.join(names)}"
            )
        return {"": asked}
    found: dict[str, list[str]] = {}
    for name in names:
        words = re.split(r"[^a-z0-9]+", name.lower())
        splits = [SPLITS[word] for word in words if word in SPLITS]
        plain = "_".join(word for word in words if word not in SPLITS)
        if plain in known:
            found.setdefault(splits[0] if splits else "", []).append(name)
    return {split: min(own, key=lambda name: _rank(name, known)) for split, own in found.items()}


def _rank(name: str, known: Sequence[str]) -> int:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in SPLITS]
    return known.index("_".join(words))


def _values(labels: NDArray[Any]) -> list[Any]:
    plain = labels.reshape(len(labels), -1)[:, 0] if labels.ndim > 1 and labels[0].size == 1 else labels
    values: list[Any] = plain.tolist()
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]


def pixels_of_member(member: Member) -> NDArray[Any]:
    """Mapped [n, h, w] or [n, h, w, 3], uint8 or float -1 to 1.

    Raises:
        UsageError: if it cannot be read, or holds numbers of another range.
    """
    images = _laid_out(member.mapped(), member.what)
    if images.dtype != np.uint8:
        low = min(float(part.min()) for part in _parts(images))
        high = max(float(part.max()) for part in _parts(images))
        if not (low >= -1 and high <= 1 and low < 0):
            raise UsageError(f"{member.what}: holds numbers from {low:g} to {high:g}, {_RAGGED}")
    return images


def _parts(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    each = max(1, _AT_ONCE // max(1, images[0].nbytes))
    return (images[start : start + each] for start in range(0, len(images), each))


def _laid_out(images: NDArray[Any], what: str) -> NDArray[Any]:
    """[n, h, w] or [n, h, w, 3], without a copy."""
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or 0 in images.shape or (images.ndim == 4 and images.shape[3] != 3):
        raise UsageError(f"{what}: has the shape {list(images.shape)}, {_RAGGED}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise UsageError(f"{what}: holds {images.dtype}, {_RAGGED}")
    return images
