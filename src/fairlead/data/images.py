"""Labelled images, in memory or mapped from a file, their splits, and the stream of training batches.

uint8 in [0, 255] is how images are stored; float32 in [-1, 1] is what a network sees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from fairlead.core.arguments import as_mapping, as_names, shown
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.data.own.store import Crops, Stored


@dataclass(frozen=True, eq=False)
class Attribute:
    """One thing that is known of every image of a set, beside its class.

    Attributes:
        values: names of the values, e.g. ("red", "green"); the position is the label.
        labels: int64 [n], indices into ``values``; -1 where the attribute does not apply to an image.
    """

    values: tuple[str, ...]
    labels: Tensor

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled set of equally sized images, with captions and attributes where the set has them.

    Attributes:
        images: uint8 [n, c, h, w]; of folders and hub sets mapped from a file, so that rows nobody reads take no
            memory.
        labels: int64 [n], indices into ``classes``.
        classes: names of the classes; the position is the label.
        name: of the data set, e.g. "digits".
        split: "train", "test", ...
        flip: whether a horizontal flip of an image is again an image of this set: photographs yes, digits never.
        captions: none, or a sentence for each image.
        more: none, or the further sentences of each image, of which training draws one at every visit; everything else
            goes by ``captions``.
        attributes: by name, what else is known of the images.
        notes: what the reader of a folder or a hub set found, used and left out, a sentence each.
        crops: the whole images of which a training sees another part at every visit; None: ``images`` are all of them.

    Raises:
        UsageError: if dtypes, shapes, labels, captions or attributes do not fit each other.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    flip: bool
    captions: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    more: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    crops: Crops | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        for name in ("images", "labels"):
            if not isinstance(getattr(self, name), Tensor):
                raise UsageError(f"data: expected {name} to be a tensor, got {shown(getattr(self, name))}")
        for name in ("classes", "captions"):
            object.__setattr__(self, name, as_names(f"data {self.name!r}: {name}", getattr(self, name)))
        attributes = as_mapping(f"data {self.name!r}: attributes", self.attributes)
        object.__setattr__(self, "attributes", attributes)
        if wrong := [a for a in self.attributes.values() if not isinstance(a, Attribute)]:
            raise UsageError(f"data {self.name!r}: expected attributes by name, got {shown(wrong[0])}")
        if not isinstance(self.more, list | tuple):
            raise UsageError(f"data {self.name!r}: expected further captions of each image, got {shown(self.more)}")
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise UsageError(
                f"data {self.name!r}: expected images uint8 [n, c, h, w], "
                f"got {self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise UsageError(
                f"data {self.name!r}: expected labels int64 [{len(self.images)}], "
                f"got {self.labels.dtype} {list(self.labels.shape)}"
            )
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if bool(outside.any()):
            raise UsageError(
                f"data {self.name!r}: label {int(self.labels[outside][0])} is not one of {len(self.classes)} classes"
            )
        if self.captions and len(self.captions) != len(self.images):
            raise UsageError(
                f"data {self.name!r}: expected no captions or {len(self.images)}, one per image, "
                f"got {len(self.captions)}"
            )
        if self.more and (not self.captions or len(self.more) != len(self.images)):
            raise UsageError(
                f"data {self.name!r}: expected no further captions, or those of {len(self.images)} captioned images, "
                f"got {len(self.more)}"
            )
        for name, attribute in self.attributes.items():
            labels = attribute.labels
            if labels.dtype != torch.int64 or labels.shape != (len(self.images),):
                raise UsageError(
                    f"data {self.name!r}, attribute {name!r}: expected labels int64 [{len(self.images)}], "
                    f"got {labels.dtype} {list(labels.shape)}"
                )
            outside = (labels < -1) | (labels >= len(attribute.values))
            if bool(outside.any()):
                raise UsageError(
                    f"data {self.name!r}, attribute {name!r}: label {int(labels[outside][0])} is neither -1 nor one of "
                    f"{len(attribute.values)} values"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image."""
        _, c, h, w = self.images.shape
        return c, h, w

    def sentences(self, i: int) -> tuple[str, ...]:
        """All captions of image i."""
        return (self.captions[i], *(self.more[i] if self.more else ()))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the sha256 of image and label bytes, and of captions and attributes where there are any:
        equal for equal contents in equal order."""
        digest = hashlib.sha256()
        for part in _parts(self.images):
            digest.update(part.numpy().data)
        if self.crops is not None:
            for i in range(len(self)):
                digest.update(self.crops.whole(i).numpy().data)
        digest.update(self._described())
        return digest.hexdigest()[:16]

    def stored_as(self, stored: Stored) -> ImageData:
        """The set, its fingerprint noted beside the store that its images are mapped from, or read from there."""
        of = hashlib.sha256(self._described()).hexdigest()
        known = stored.fingerprint(of)
        if known is None:
            stored.remember(of, self.fingerprint)
        else:
            self.__dict__["fingerprint"] = known  # of the cached property; a changed copy does not have it
        return self

    def _described(self) -> bytes:
        """All but the pixels that a fingerprint goes by."""
        described = bytearray(self.labels.numpy().tobytes())
        if self.captions:
            described += json.dumps(self.captions).encode()
        if self.more:
            described += json.dumps(self.more).encode()
        for name, attribute in sorted(self.attributes.items()):
            described += json.dumps([name, attribute.values]).encode()
            described += attribute.labels.numpy().tobytes()
        if self.crops is not None:
            described += json.dumps(self.crops.sizes.tolist()).encode()
        return bytes(described)

    def subset(self, index: Tensor | slice) -> ImageData:
        """The samples at ``index`` (a slice, int64 indices or a bool mask [n]), with their captions and attributes."""
        # only indexing the sample numbers says which captions a slice, indices or a mask mean
        chosen = torch.arange(len(self))[index].tolist() if self.captions else []
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            captions=tuple(self.captions[i] for i in chosen),
            more=tuple(self.more[i] for i in chosen) if self.more else (),
            attributes={name: replace(a, labels=a.labels[index]) for name, a in self.attributes.items()},
            crops=None if self.crops is None else self.crops.subset(index),
        )


def pixel_hash(images: Tensor) -> str:
    """sha256 of the bytes of uint8 [n, c, h, w], of which no copy is made."""
    digest = hashlib.sha256()
    for part in _parts(images):
        digest.update(part.numpy().data)
    return digest.hexdigest()


def _parts(images: Tensor) -> Iterator[Tensor]:
    return (part.contiguous() for part in torch.split(images, 1024))


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float [n, ...] in [-1, 1] (clamped) -> uint8 [0, 255], to nearest; the inverse of :func:`to_float`.

    Raises:
        UsageError: naming the first sample with a nan or inf, which a cast would turn into a black image.
    """
    broken = (~x.isfinite()).reshape(len(x), -1).any(dim=1)
    if bool(broken.any()):
        raise UsageError(
            f"images to store: sample {int(broken.nonzero()[0])} of {len(x)} has nan or inf pixels, expected numbers "
            "in [-1, 1]; lower the guidance scale or sample in float32"
        )
    # bfloat16 cannot tell neighbouring grey levels apart once they are multiplied out
    return ((x.to(torch.float32).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A shuffled order, int64 [n], in which every prefix is spread over the classes in proportion.

    For each prefix there is a fraction q such that it holds q * n_c samples of every class c, to within 1/2.
    """
    shuffled = torch.randperm(len(labels), generator=stream("stratify", seed, 0))
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in set(labels.tolist()):
        members = shuffled[labels[shuffled] == label]
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[rank[shuffled].argsort(stable=True)]


def stratified_split(data: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageData]:
    """Two disjoint parts in the original order: ``fraction`` of every class, and the rest.

    Args:
        fraction: in (0, 1); the first part holds round(fraction * n) samples.
        seed: the split is a pure function of (labels, fraction, seed).
    """
    if not 0 < fraction < 1:
        raise UsageError(f"split of data {data.name!r}: expected a fraction between 0 and 1, got {fraction:g}")
    order = stratified_order(data.labels, seed)
    count = round(fraction * len(data))
    return data.subset(order[:count].sort().values), data.subset(order[count:].sort().values)


def stream(purpose: str, seed: int, number: int) -> torch.Generator:
    """A generator of its own for (purpose, seed, number); hashed, so that neighbouring numbers are unrelated."""
    digest = hashlib.sha256(f"{purpose} {seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
