"""What a comparison of two sets of images finds, and the protocol behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

import fairlead
from fairlead.core.brief import brief
from fairlead.measure.estimate import Estimate
from fairlead.measure.prompts import TextScore
from fairlead.measure.score import Conditions

METRICS: Mapping[str, str] = {
    "distance": "Fréchet distance of the features, biased upwards by about 1/n on either side",
    "distance_debiased": "Fréchet distance without the bias of a finite number of fakes (delete-block jackknife)",
    "kid": "kernel distance of the features, unbiased; may be below 0 when the truth is near 0",
    "cmmd": "1000 times the squared MMD of CLIP embeddings of length 1, Gaussian kernel, unbiased",
    "precision": "share of the fakes that lie near a real image",
    "recall": "share of the real images that lie near a fake one",
    "density": "how many real neighbourhoods a fake lies in, 1 for equal distributions",
    "coverage": "share of the real images that have a fake in their neighbourhood",
    "vendi": "effective number of different images; grows with n",
    "accuracy": "share that a judge trained on REAL recognises as their class; beside it held-out real images",
    "inception_style": "how sure the judge is of each, and how many classes there are in all: at most their number; "
    "grows with n, and is compared at the number of held-out real images",
}
"""Every metric of a :class:`Comparison`, in the order of tables, and what it means."""

CHOICES = tuple(name for name in METRICS if name != "distance_debiased")
"""What may be asked for; ``distance`` brings both."""

SEED = 0
"""Of the halves of the real images."""


@dataclass(frozen=True)
class FolderProtocol(Conditions):
    """How two sets were compared; numbers of two comparisons compare if all of it is equal but ``fake``.

    Attributes:
        features: name of the extractor, with hashes of weights and preprocessing.
        real, fake: name and fingerprint of the images.
        real_n, fake_n: how many.
        real_shape, fake_shape: (c, h, w).
        block: images of either kind in the columns that are compared, against the ``half`` other real ones.
        half: real images that are the reference of these columns.
        k: which neighbour makes a neighbourhood.
        resize: what every image was brought to, or None.
        judge: name and weight hash of the judge, or None.
        text: name and weight hash of the text network and hash of the prompts, or None.
        seed: of the halves.
        quantised: what images are rounded to before they are measured.
        dtype: of the networks; metrics are float64.
        version: of fairlead.
    """

    features: str
    real: str
    fake: str
    real_n: int
    fake_n: int
    real_shape: tuple[int, int, int]
    fake_shape: tuple[int, int, int]
    block: int
    half: int
    k: int
    resize: int | None = None
    judge: str | None = None
    text: str | None = None
    seed: int = SEED
    quantised: str = "uint8"
    dtype: str = "float32"
    version: str = fairlead.__version__


@dataclass(frozen=True)
class ClassRow:
    """One class: the accuracy of the judge on the fakes of it and on held-out real images of it."""

    name: str
    fake: Estimate | None
    real: Estimate | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was found.

    Attributes:
        whole: metric -> all fakes against all real images.
        fake: metric -> ``block`` fakes against half of the real images; to be compared with ``floor``.
        floor: metric -> ``block`` images of the other real half, measured like the fakes.
        classes: a row a class, if there is a judge.
        text: how the fakes fit their prompts, if there are any.
        missing: metric -> why it is not there.
        warnings: what makes the numbers less than they look, a sentence each.
        distance: what the distance is called: "FID" or "Fréchet distance".
        protocol: how it was measured.
        features: [n, d] of the real and of the fake images, for pictures.
    """

    whole: Mapping[str, Estimate]
    fake: Mapping[str, Estimate]
    floor: Mapping[str, Estimate]
    classes: tuple[ClassRow, ...]
    text: TextScore | None
    missing: Mapping[str, str]
    warnings: tuple[str, ...]
    distance: str
    protocol: FolderProtocol
    features: tuple[Tensor, Tensor] = field(repr=False)

    __repr__ = brief

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, nan as None; features are not in it."""
        found = {name: getattr(self, name) for name in ("whole", "fake", "floor")}
        return {
            "metrics": {
                name: {metric: asdict(value) for metric, value in part.items()} for name, part in found.items()
            },
            "classes": [asdict(row) for row in self.classes],
            "text": None if self.text is None else asdict(self.text),
            "missing": dict(self.missing),
            "warnings": list(self.warnings),
            "distance": self.distance,
            "protocol": {**asdict(self.protocol), "hash": self.protocol.hash},
        }


def clear(a: Estimate, b: Estimate, errors: float = 2.0) -> bool:
    """Whether ``a`` and ``b`` differ by more than so many standard errors of their difference, taken as independent.

    How often that is said of two sets of real digits (359 against 719, 100 draws each of random and classifier
    features): distance 1 to 4 %, kid 0 to 3 %, precision 0 to 2 %, vendi 1 to 6 %; recall 9 to 16 %, because its error
    holds the fakes fixed, and 0 to 1 % with ``errors = 3``, which is therefore what recall needs.
    """
    return abs(a.value - b.value) > errors * math.hypot(a.error, b.error)
