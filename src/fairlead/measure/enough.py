"""Whether there are enough images for what is to be measured: said from counts alone, before anything is trained.

What the metrics ask for:

    distance    4 images on the side that is measured (the jackknife leaves blocks out); it says little below 4 for each
                feature, and at n <= d the covariance is singular
    diversity   3 images of a class; a class with fewer is left out of it, among the samples and among the real images
    judge       2 classes with 10 real images each in ``fairlead measure``; classes with fewer are left out of it

Everything else takes any number of images of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData

PER_FEATURE = 4
"""Images a feature that a distance wants before it says anything: with 78 images of 64 features, -7.7 +- 3.7."""
FEWEST = 4
"""Images that a distance without bias needs at all."""
OF_A_CLASS = 3
"""Images of a class that diversity needs, for its error."""
JUDGED = 10
"""Real images of a class that the judge of two folders needs: 8 to learn from, 2 to be tried on."""
_NAMED = 8


def few_for_features(n: int, d: int, what: str = "images", each: str = "") -> str | None:
    """A sentence where ``n`` images are few for a distance of ``d`` features, else None.

    Args:
        what: they are.
        each: of what there are so many, as it goes on behind the number.
    """
    if n >= PER_FEATURE * d:
        return None
    singular = "; no more images than features: most of the raw distance is bias" if n <= d else ""
    return f"few {what} for features of {d} dimensions: {n:,}{each} where {PER_FEATURE * d:,} are wanted{singular}"


@dataclass(frozen=True)
class Rare:
    """A class that diversity leaves out.

    Attributes:
        label: its index.
        asked: how many of the samples are of it.
        held_out: how many of the held-out real images are.
        would_do: the fewest samples in all with which diversity would count it; None where there are too few real ones.
    """

    label: int
    asked: int
    held_out: int
    would_do: int | None


def rare_classes(asked: Tensor, held_out: Tensor, order: Tensor) -> list[Rare]:
    """The classes that diversity leaves out, of the samples and of the real images beside them.

    Args:
        asked: int64 [n], labels of the samples.
        held_out: int64, labels of the held-out real images.
        order: int64 [m], the labels in the order in which they are asked for, from the beginning again after m.
    """
    found = []
    for label in sorted({*asked.tolist(), *held_out.tolist()}):
        here, there = int((asked == label).sum()), int((held_out == label).sum())
        if here < OF_A_CLASS or there < OF_A_CLASS:
            needed = _needed(order, label) if there >= OF_A_CLASS else None
            found.append(Rare(label, here, there, needed))
    return found


def _needed(order: Tensor, label: int) -> int | None:
    """The length of the shortest prefix of ``order``, repeated, with ``OF_A_CLASS`` of ``label``."""
    places = (order == label).nonzero()[:, 0].tolist()
    if not places:
        return None
    rounds, rest = divmod(OF_A_CLASS - 1, len(places))
    return rounds * len(order) + int(places[rest]) + 1


def rare_said(rare: Sequence[Rare], classes: Sequence[str], n: int) -> list[str]:
    """A sentence each on the classes that diversity leaves out: those with few real images, and those with few of the
    ``n`` samples, with the n that would do."""
    notes = []
    real = [one for one in rare if one.held_out < OF_A_CLASS]
    if real:
        each = listed([f"{classes[one.label]} ({one.held_out})" for one in real])
        notes.append(
            f"diversity leaves out {each}: fewer than {OF_A_CLASS} held-out images of a class (the number in brackets) "
            "tell nothing of its variety, at any n; hold out more images of it"
        )
    few = [one for one in rare if one.held_out >= OF_A_CLASS]
    if few:
        each = listed([f"{classes[one.label]} ({one.asked})" for one in few])
        enough = max((one.would_do for one in few if one.would_do is not None), default=None)
        then = f"; n = {enough:,} would do" if enough is not None else ""
        notes.append(
            f"diversity leaves out {each}: fewer than {OF_A_CLASS} of the {n:,} images (the number in brackets){then}"
        )
    return notes


def check_real(reference: ImageData, held_out: ImageData) -> None:
    """Raise UsageError if there are too few real images to measure anything beside them."""
    for what, part, least in (("real", reference, 2), ("held-out", held_out, FEWEST)):
        if len(part) < least:
            raise UsageError(
                f"data {part.name!r}: split {part.split!r} has {len(part)} {what} images to measure with, expected at "
                f"least {least}; add images to it"
            )


def not_asked(data: ImageData) -> list[str]:
    """A sentence on classes that no sample is asked for: ``data`` says what is asked for, and has none of them."""
    there = set(data.labels.tolist())
    absent = [name for label, name in enumerate(data.classes) if label not in there]
    return [f"not asked for: {listed(absent)}; split {data.split!r} has no images of it"] if absent else []


def check_classes(data: ImageData, held_out: ImageData) -> list[str]:
    """Sentences on classes that a classifier never sees, or is never tried on.

    Raises:
        UsageError: if ``data`` has images of fewer than two classes.
    """
    seen, tried = (set(part.labels.tolist()) for part in (data, held_out))
    if len(seen) < 2:
        raise UsageError(
            f"data {data.name!r}: a classifier needs images of 2 classes, got {len(seen)} with images of "
            f"{len(data.classes)}; add a class"
        )
    notes = []
    for what, part, there in (("never seen in training", data, seen), ("not measured", held_out, tried)):
        absent = [name for label, name in enumerate(data.classes) if label not in there]
        if absent:
            notes.append(f"{what}: {listed(absent)}; split {part.split!r} has no images of it")
    return notes


def judged(labels: Tensor, classes: Sequence[str]) -> tuple[list[int], list[str]]:
    """(labels that a judge of these real images can tell, a sentence on those that are too rare for it)."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    rare = [f"{classes[label]} ({count})" for label, count in enumerate(counts) if count < JUDGED]
    kept = [label for label, count in enumerate(counts) if count >= JUDGED]
    note = (
        f"the judge leaves out {listed(rare)}: fewer than {JUDGED} real images of a class (the number in brackets) "
        "teach it nothing"
    )
    return kept, [note] if rare else []


def listed(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - _NAMED} more classes" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
