"""A number with its error; what metrics are called, their units, which way is better; how many images they ask for.

A metric has a *key*, under which it is stored and asked for (``distance_debiased``), and a *title*, under which people
read it. The Fréchet distance has two of either: the raw one is biased upwards by about 1/n, the debiased one is not
(jackknife). They never share a name, because a number of one kind says nothing beside one of the other.

Whether there are enough images is said from counts alone, before anything is trained:

    distance    4 images on the side that is measured (the jackknife leaves blocks out); it says little below 4 for each
                feature, and at n <= d the covariance is singular
    diversity   3 images of a class; a class with fewer is left out of it, among the samples and among the real images
    judge       2 classes with 10 real images each in ``fairlead measure``; classes with fewer are left out of it

Everything else takes any number of images of a class. Over 300 lines: names and counts are asked for together.

Over 300 lines, as half of it is the table of metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.data.images import ImageData


@dataclass(frozen=True)
class Estimate:
    """A measured ``value``, the standard ``error`` of it, and the ``n`` samples it comes from."""

    value: float
    error: float
    n: int

    def __str__(self) -> str:
        """``0.9870 ± 0.0036``: as many decimals as give the error two significant digits."""
        if not math.isfinite(self.error) or self.error <= 0:
            return f"{self.value:.4g}"
        decimals = min(max(1 - math.floor(math.log10(self.error)), 0), 8)
        return f"{self.value:.{decimals}f} ± {self.error:.{decimals}f}"


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of independent ``values`` [n] (any dtype, summed in float64) and sd / sqrt(n); nan error for n = 1."""
    values = values.to(torch.float64)
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error, n)


def proportion_estimate(hits: Tensor) -> Estimate:
    """The share of ones among independent ``hits`` [n] of 0 and 1.

    The error is half the width of the Wilson score interval for z = 1 (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4),

        sqrt(p (1 - p) / n + 1 / (4 n^2)) / (1 + 1 / n),

    which is not 0 for n hits of n, as sd / sqrt(n) is.
    """
    n = len(hits)
    p = float(hits.to(torch.float64).mean())
    return Estimate(p, math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n), n)


Unit = Literal["", "share", "rows"]
RAW, DEBIASED = "distance", "distance_debiased"
SHARES = "shares between 0 and 1 (0.99 is 99 %)"
"""For the captions of tables: which unit accuracy, agreement, confidence and saturation have there."""


@dataclass(frozen=True)
class Metric:
    """Of one metric: its title, whether lower is better (None: neither way by itself), and its unit."""

    title: str
    lower: bool | None = False
    unit: Unit = ""


_KNOWN: Mapping[str, Metric] = {
    RAW: Metric("raw distance", lower=True),
    DEBIASED: Metric("debiased distance", lower=True),
    "kid": Metric("kid", lower=True),
    "cmmd": Metric("cmmd", lower=True),
    "precision": Metric("precision", unit="share"),
    "recall": Metric("recall", unit="share"),
    "density": Metric("density"),
    "coverage": Metric("coverage", unit="share"),
    "vendi": Metric("vendi"),
    "accuracy": Metric("accuracy", unit="share"),
    "confidence": Metric("confidence", unit="share"),
    "inception_style": Metric("inception-style score"),
    "cosine": Metric("CLIP cosine"),
    "diversity": Metric("diversity", lower=None),
    "saturation": Metric("saturation", lower=True, unit="share"),
    "reward": Metric("reward"),
    "rows": Metric("network rows per image", lower=True, unit="rows"),
}


def metric(key: str) -> Metric:
    """By its key; agreement in one attribute is known by how its key begins."""
    if key == "agreement" or key.startswith("agreement_"):
        return Metric(key.replace("_", " "), unit="share")
    return _KNOWN.get(key) or Metric(key.replace("_", " "))


def title_of(key: str, distance: str = "distance") -> str:
    """What people read: ``raw distance``; ``distance`` is what the distance is called, e.g. "FID"."""
    found = metric(key).title
    return found.replace("distance", distance) if key in (RAW, DEBIASED) else found


def percent(estimate: Estimate) -> str:
    """A share as ``99.954 ± 0.046 %``, with the digits of ``str(estimate)``."""
    return f"{Estimate(100 * estimate.value, 100 * estimate.error, estimate.n)} %"


def shown_as(key: str, estimate: Estimate) -> str:
    """A value in the unit that sentences use: shares in percent."""
    return percent(estimate) if metric(key).unit == "share" else str(estimate)


def maximised(key: str) -> bool:
    """Whether a search for the best of it looks for the highest."""
    return not metric(key).lower


def check_distance(key: str, where: str) -> None:
    """Raise UsageError where the raw distance is asked for and settings of different n are compared.

    Args:
        where: what asked, for the message: "--objective 'distance'".
    """
    if key == RAW:
        raise UsageError(
            f"{where}: the raw distance falls with the number of images, which differs between settings; write "
            f"{DEBIASED}, the one without that bias"
        )


def checked_features(features: Tensor, what: str, least: int, d: int | None = None, chunk: int = 1024) -> Tensor:
    """``features`` [n, d] as they are, detached and on the CPU; finiteness is looked at ``chunk`` rows at a time.

    Args:
        features: any float dtype.
        what: the measure and the side, for the message: "kid, fakes".
        least: the fewest samples that will do.
        d: the number of features of the other side, if it is known.

    Raises:
        UsageError: if the shape is not [n, d] with n >= least, d differs, a feature is not finite, or chunk < 1.
    """
    if chunk < 1:
        raise UsageError(f"{what}: chunk = {chunk}; expected at least 1 row at a time")
    if features.ndim != 2 or features.shape[1] == 0:
        raise UsageError(f"{what}: expected features of shape [n, d], got {list(features.shape)}; flatten them")
    if len(features) < least:
        raise UsageError(f"{what}: expected at least {least} samples, got {len(features)}; draw more images")
    if d is not None and features.shape[1] != d:
        raise UsageError(f"{what}: d = {features.shape[1]} features against d = {d}; use one extractor for both")
    x = features.detach().to("cpu")
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in torch.split(x, chunk))
    if bad:
        raise UsageError(f"{what}: {bad} of {len(x)} samples have features that are not finite; check the images")
    return x


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
        each = class_list([f"{classes[one.label]} ({one.held_out})" for one in real])
        notes.append(
            f"diversity leaves out {each}: fewer than {OF_A_CLASS} held-out images of a class (the number in brackets) "
            "do not show its variety, at any n; hold out more images of it"
        )
    few = [one for one in rare if one.held_out >= OF_A_CLASS]
    if few:
        each = class_list([f"{classes[one.label]} ({one.asked})" for one in few])
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
    return [f"not asked for: {class_list(absent)}; split {data.split!r} has no images of it"] if absent else []


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
            notes.append(f"{what}: {class_list(absent)}; split {part.split!r} has no images of it")
    return notes


def judged_classes(labels: Tensor, classes: Sequence[str]) -> tuple[list[int], list[str]]:
    """(labels that a judge of these real images can tell, a sentence on those that are too rare for it)."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    rare = [f"{classes[label]} ({count})" for label, count in enumerate(counts) if count < JUDGED]
    kept = [label for label, count in enumerate(counts) if count >= JUDGED]
    note = (
        f"the judge leaves out {class_list(rare)}: fewer than {JUDGED} real images of a class (the number in brackets) "
        "teach it nothing"
    )
    return kept, [note] if rare else []


def class_list(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - _NAMED} more classes" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
