"""What a comparison of two sets of images finds, how well images fit their prompts, and the protocol behind it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fairlead
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.core.places import read_text
from fairlead.data.own.tables import FILE_COLUMNS, read_rows
from fairlead.measure.extractors import Extractor, TextFeatures, extractor
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.measure.rewards.image_reward import RewardedImages
from fairlead.measure.score import Conditions

PROMPT = ("prompt", "text", "caption")
_ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
"""Endings of files of rows, in which a prompt is one of several things said."""


@dataclass(frozen=True)
class TextScore:
    """The cosine itself: neither clipped at 0 nor multiplied by 2.5 or 100.

    Attributes:
        cosine: mean over images of the cosine with their own prompt.
        others: mean over images of the cosine with the prompts of other images; the same where all prompts are equal.
        truncated: prompts that are longer than the network reads.
        name: of the text network with a hash of its weights, for protocols.
        prompts: a hash of the file's pairs, for protocols.
    """

    cosine: Estimate
    others: Estimate | None
    truncated: int
    name: str
    prompts: str


def read_prompts(path: Path, files: Sequence[str]) -> list[str]:
    """The prompt of each of ``files``, from a file of JSON lines, CSV or parquet with a column of file names and one of
    prompts.

    Raises:
        UsageError: if the file cannot be read, has no such columns, or no prompt for one of ``files``.
    """
    if not files:
        raise UsageError(f"prompts {path}: FAKE is a data set, whose images have no file names; give a folder")
    found: dict[str, str] = {}
    for number, (_, row) in enumerate(read_rows(path, "prompts"), 1):
        keys = set(row) if isinstance(row, Mapping) else set()
        name = next((row[key] for key in FILE_COLUMNS if key in keys), None)
        prompt = next((row[key] for key in PROMPT if key in keys), None)
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise UsageError(
                f"prompts {path}, entry {number}: expected a file name ({', '.join(FILE_COLUMNS)}) and a prompt "
                f"({', '.join(PROMPT)}), got {', '.join(sorted(map(str, keys))) or 'neither'}"
            )
        if found.setdefault(name, prompt) != prompt:
            raise UsageError(f"prompts {path}, entry {number}: {name} has another prompt already; expected one each")
    lacking = [name for name in files if name not in found]
    if lacking:
        raise UsageError(f"prompts {path}: no prompt for {lacking[0]} ({len(lacking)} of {len(files)} images lack one)")
    return [found[name] for name in files]


def listed_prompts(path: Path) -> list[str]:
    """The prompts of a file in their order, without spaces around them: one a line of a text file, blank lines left
    out; or those of a file as :func:`read_prompts` takes it, which need no file names then.

    Raises:
        UsageError: if the file cannot be read, or holds no prompt.
    """
    if path.suffix.lower() in _ROWS:
        rows = read_rows(path, "prompts")
        found = [
            str(given or "")
            for _, row in rows
            for given in [next((row[key] for key in PROMPT if key in row), None) if isinstance(row, Mapping) else row]
        ]
        blank = next((number for (number, _), prompt in zip(rows, found, strict=True) if not prompt.strip()), None)
        if blank is not None:
            raise UsageError(f"prompts {path}, entry {blank}: expected a prompt ({', '.join(PROMPT)}), got none")
    else:
        found = read_text(path, "prompts").split("\n")
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise UsageError(f"prompts {path}: the file holds no prompt; write one per line")
    return prompts


def text_score(embeddings: Tensor, prompts: Sequence[str], clip: Extractor) -> TextScore:
    """Of image ``embeddings`` [n, d] from ``clip`` and a prompt each.

    The error of ``cosine`` is sd / sqrt(n) over the images.

    Raises:
        UsageError: if ``clip`` embeds no text or its folder lacks the text network or its tokens, or lengths differ.
    """
    if len(prompts) != len(embeddings):
        raise UsageError(f"prompts: {len(embeddings)} images, {len(prompts)} prompts; expected one each")
    different = sorted(set(prompts))
    text = text_features(clip, different)
    index = torch.tensor([different.index(prompt) for prompt in prompts])
    cosines = cosines_of(embeddings, text.values)
    own = cosines.gather(1, index[:, None])[:, 0]
    others = None
    if len(different) > 1:
        counts = index.bincount(minlength=len(different)).to(torch.float64)
        total = cosines @ counts - own * counts[index]
        others = mean_estimate(total / (len(prompts) - counts[index]))
    digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:16]
    return TextScore(mean_estimate(own), others, text.truncated, text.name, digest)


def prompt_reader(clip: str | None, features: Extractor, device: str | torch.device = "auto") -> Extractor:
    """The network of the cosine with prompts: what ``clip`` names, else ``features`` where they embed text, else CLIP.

    Raises:
        UsageError: if it embeds no text, or as ``extractor``.
    """
    network = features if clip is None and features.texts is not None else extractor(clip or "clip", device=device)
    network = features if network.name == features.name else network
    if network.texts is None:
        raise UsageError(
            f"prompts: features {network.kind!r} embed no text, so no image has a cosine with its prompt; pass clip, "
            "clip:PATH or other features that embed text as --clip"
        )
    return network


def text_features(network: Extractor, texts: Sequence[str]) -> TextFeatures:
    """What ``network`` makes of ``texts``.

    Raises:
        UsageError: if it reads no text, or gives texts other features than images; as its ``texts``.
    """
    if network.texts is None:
        raise UsageError(f"prompts: features {network.kind!r} embed no text; expected those of clip")
    found = network.texts(texts)
    if found.values.shape != (len(texts), network.d):
        raise UsageError(
            f"prompts: features {network.kind!r} give texts {list(found.values.shape)}, expected one row per text of "
            f"{network.d} features, as images have"
        )
    return found


def cosines_of(images: Tensor, texts: Tensor) -> Tensor:
    """float64 [n, m]: cosines of the features of n images [n, d] and m texts [m, d]."""
    return F.normalize(images.to(torch.float64), dim=1) @ F.normalize(texts.to(torch.float64), dim=1).T


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
        classes: a row per class, if there is a judge.
        text: how the fakes fit their prompts, if there are any.
        missing: metric -> why it is not there.
        warnings: what makes the numbers less than they look, a sentence each.
        distance: what the distance is called: "FID" or "Fréchet distance".
        protocol: how it was measured.
        features: [n, d] of the real and of the fake images, for pictures.
        rewards: what a reward gives the fakes, and the real images where it applies to them; empty without one.
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
    rewards: tuple[RewardedImages, ...] = ()

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
            "rewards": [one.as_dict() for one in self.rewards],
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
