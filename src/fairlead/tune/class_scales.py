"""What is known of the best scale of each class; found by :mod:`fairlead.tune.by_class`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.measure.metrics import Estimate

LEAST = 8
"""Images of a class below which nothing is said of it."""
_NAMED = 6
"""Classes that the sentence names."""


@dataclass(frozen=True)
class ClassScale:
    """Of one class.

    Attributes:
        name: of the class.
        n: its images at the common setting.
        scale: the measured one at which the objective is best.
        low, high: the range of the measured ones that can be the best, for all classes at once.
        gain: of the objective over the common scale, in its own unit, lower or higher as it is to be; paired error.
        common: whether the common scale is one that can be its best.
    """

    name: str
    n: int
    scale: float
    low: float
    high: float
    gain: Estimate
    common: bool


@dataclass(frozen=True)
class ByClass:
    """What is known of the classes.

    Attributes:
        scale: the common one: that of the recommended setting.
        metric: the objective.
        classes: those with enough images.
        alike: the measured scales that can be the best of every one of them; none where they differ surely.
        settings, comparisons: how many scales were compared, and how many pairs of them, over all classes.
        level: of all intervals together.
        left_out: names of the classes with too few images.
    """

    scale: float
    metric: str
    classes: tuple[ClassScale, ...]
    alike: tuple[float, ...]
    settings: int
    comparisons: int
    level: float
    left_out: tuple[str, ...] = ()

    @property
    def apart(self) -> bool:
        return not self.alike

    @property
    def text(self) -> str:
        """What was found, in a sentence or two."""
        counts = [one.n for one in self.classes]
        images = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"
        known = (
            f"{self.level:.0%} for all at once: {len(self.classes)} classes of {images} images, {self.settings} "
            f"scales, {self.comparisons} paired comparisons, Bonferroni"
        )
        if self.apart:
            own = [one for one in self.classes if not one.common]
            named = ", ".join(f"{one.name} at {one.scale:g} ({one.low:g} to {one.high:g})" for one in own[:_NAMED])
            named += f" and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
            text = f"By class: no scale can be the best of every class ({known})."
            text += f" Better elsewhere than at {self.scale:g}: {named}." if own else ""
        else:
            places = f"{self.alike[0]:g}" + (f" to {self.alike[-1]:g}" if len(self.alike) > 1 else "")
            text = f"By class: the classes are not distinguished, {places} can be the best of every one ({known})."
        if self.left_out:
            text += f" Left out, with fewer than {LEAST} images: {', '.join(self.left_out[:_NAMED])}"
            text += f" and {len(self.left_out) - _NAMED} more." if len(self.left_out) > _NAMED else "."
        return text

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; ``text`` and ``told_apart`` are said for other readers."""
        return {**asdict(self), "told_apart": self.apart, "text": self.text}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ByClass:
        """The inverse of :meth:`as_dict`."""
        own = {name: value for name, value in stored.items() if name not in ("told_apart", "text")}
        classes = tuple(ClassScale(**{**one, "gain": Estimate(**one["gain"])}) for one in own["classes"])
        return cls(**{**own, "classes": classes, "alike": tuple(own["alike"]), "left_out": tuple(own["left_out"])})
