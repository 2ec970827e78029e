"""Two sets of images, real and fake, measured against each other, and the real ones against themselves.

A distance says little alone: it depends on the features and falls with n. So every number is taken three times: all
fakes against all real images; and, to be compared, ``block`` fakes against one half of the real images beside ``block``
real images of the other half. The last is the floor: what good means here. (Over 300 lines: every warning stands here.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairlead.core.errors import UsageError, unknown
from fairlead.core.progress import Progress, silent
from fairlead.data.images import ImageData, stratified_order, stratified_split
from fairlead.measure.comparison import CHOICES, METRICS, SEED, ClassRow, Comparison, FolderProtocol, text_score
from fairlead.measure.extractors import Extractor, cached_features, fitted
from fairlead.measure.frechet import Moments, frechet_distance, frechet_jackknife
from fairlead.measure.image_sets import ImageSet, common_labels
from fairlead.measure.judge import Classifier, JudgeKind, Role, cached_classifier, role_of
from fairlead.measure.metrics import JUDGED, Estimate, class_list, few_for_features, judged_classes, proportion_estimate
from fairlead.measure.sample_metrics import hits, inception_score, vendi_score
from fairlead.measure.two_samples import cmmd, kid, precision_recall

ENOUGH = 500
"""Fewer images than this are warned about."""

UNEVEN = 0.05
"""A class whose share differs by more than this is warned about."""

_JUDGE_SIDE = 32
_VENDI_BLOCKS = 10


def compare(
    real: ImageSet,
    fake: ImageSet,
    extractor: Extractor,
    *,
    metrics: Sequence[str] = (),
    k: int = 5,
    resize: int | None = None,
    prompts: Sequence[str] = (),
    clip: Extractor | None = None,
    judge: JudgeKind = "quick",
    progress: Progress = silent,
) -> Comparison:
    """Measure ``fake`` against ``real``; the features of both are cached.

    Args:
        extractor: of the features.
        metrics: some of ``CHOICES``; empty for all that apply.
        k: which neighbour makes a neighbourhood.
        resize: what both were brought to, for the protocol.
        prompts: one for each fake, to be measured with ``clip``.
        clip: the CLIP of the prompts; default ``extractor``, if it is one.
        judge: of accuracy, see :func:`fairlead.measure.judge.recipe_for`.

    Raises:
        UsageError: for an unknown metric, or one that does not apply where it is asked for by name.
    """
    wanted, role = _wanted(metrics, extractor), role_of(judge)
    if k < 1:
        raise UsageError(f"k: expected at least 1 neighbour, got {k}")

    labels = common_labels(real, fake)
    missing: dict[str, str] = {}
    asked, jury = [name for name in ("accuracy", "inception_style") if name in wanted], None
    if asked:
        try:
            jury = _jury(real, labels, asked[0])
        except UsageError as error:
            if asked[0] in metrics:
                raise
            missing[asked[0]] = str(error)
    if jury is None and judge != "quick":
        why = missing[asked[0]] if asked else "accuracy is not among the metrics"
        raise UsageError(f"judge {judge!r}: {why}; leave it out")
    with progress("features", None, "image") as advance:
        x, y = (cached_features(extractor, part.data.images, progress=advance) for part in (real, fake))
    truth = None if labels is None else real.data.labels
    order, chosen = _order(len(real), truth), _order(len(fake), labels)
    first, second = order[: len(real) // 2], order[len(real) // 2 :]
    block = min(len(second), len(fake))
    chosen, second = chosen[:block], second[:block]

    whole = _measured(x, y, labels, wanted, k, missing, "")
    at = f"at the {block} images that are compared: "
    part = _measured(x[first], y[chosen], None if labels is None else labels[chosen], wanted, k, missing, at)
    floor = _measured(x[first], x[second], None if truth is None else truth[second], wanted, k, missing, at)

    looking: Classifier | None = None
    classes: tuple[ClassRow, ...] = ()
    if jury is not None:
        looking, classes, columns = _judged(jury, fake, role, progress)
        for column, seen in zip((whole, part, floor), columns, strict=True):
            column.update({name: seen[name] for name in asked})

    text = None
    if prompts:
        with_clip = clip or extractor
        with progress("features", None, "image") as advance:
            embeddings = y if with_clip is extractor else cached_features(with_clip, fake.data.images, None, advance)
        text = text_score(embeddings, prompts, with_clip)
    protocol = FolderProtocol(
        features=extractor.name,
        real=real.described,
        fake=fake.described,
        real_n=len(real),
        fake_n=len(fake),
        real_shape=real.data.shape,
        fake_shape=fake.data.shape,
        block=block,
        half=len(first),
        k=k,
        resize=resize,
        judge=None if looking is None else looking.name,
        text=None if text is None else f"{text.name}, {(clip or extractor).name}, prompts#{text.prompts}",
    )
    warnings = [*_few(min(block, len(first)), extractor.d, labels, real, wanted), *(jury.notes if jury else ())]
    warnings += _warnings(real, fake)
    return Comparison(whole, part, floor, classes, text, missing, tuple(warnings), extractor.distance, protocol, (x, y))


def nearest_pairs(real: Tensor, fake: Tensor, count: int, chunk: int = 1024) -> list[tuple[int, int, float]]:
    """(fake, real, distance) of the ``count`` fakes that lie nearest to a real image, nearest first.

    Args:
        real, fake: features [n, d] and [m, d].
    """
    found = [
        torch.cdist(part.to(torch.float64), real.to(torch.float64)).min(dim=1) for part in torch.split(fake, chunk)
    ]
    distances, index = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
    order = distances.argsort(stable=True)[:count].tolist()
    return [(i, int(index[i]), float(distances[i])) for i in order]


def _wanted(metrics: Sequence[str], extractor: Extractor) -> tuple[str, ...]:
    for name in metrics:
        if name not in CHOICES:
            raise unknown("metric", name, CHOICES)
    if "cmmd" in metrics and extractor.kind != "clip":
        raise UsageError(f"metric cmmd is defined on CLIP features, got {extractor.kind!r}; pass --features clip")
    return tuple(metrics) or tuple(name for name in CHOICES if name != "cmmd" or extractor.kind == "clip")


def _order(n: int, labels: Tensor | None) -> Tensor:
    """Shuffled. With labels every run of neighbours in it is spread over them in proportion: the floor then has the
    shares of the fakes, which were asked for; without, its shares vary by chance as theirs do."""
    if labels is None:
        return torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    return stratified_order(labels, SEED)


def _measured(
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    wanted: Sequence[str],
    k: int,
    missing: dict[str, str],
    where: str,
) -> dict[str, Estimate]:
    """Metrics on features [n, d] and [m, d]; what cannot be had is noted in ``missing``."""
    found: dict[str, Estimate] = {}
    if labels is not None and min(Counter(labels.tolist()).values()) < 2:
        labels = None

    def attempt(name: str, measure: Callable[[], Mapping[str, Estimate]]) -> None:
        try:
            found.update(measure())
        except UsageError as error:
            missing.setdefault(name, where + str(error))

    if "distance" in wanted:
        attempt("distance", lambda: _distances(real, fake, labels))
    if "kid" in wanted:
        attempt("kid", lambda: {"kid": kid(real, fake, labels)})
    if "cmmd" in wanted:
        attempt("cmmd", lambda: {"cmmd": cmmd(real, fake, labels)})
    shares = [name for name in ("precision", "recall", "density", "coverage") if name in wanted]
    if shares:

        def neighbours() -> dict[str, Estimate]:
            four = precision_recall(real, fake, k)
            return {name: getattr(four, name) for name in shares}

        attempt(shares[0], neighbours)
    if "vendi" in wanted:
        attempt("vendi", lambda: {"vendi": _vendi(fake)})
    return {name: found[name] for name in METRICS if name in found}


def _distances(real: Tensor, fake: Tensor, labels: Tensor | None) -> dict[str, Estimate]:
    d = real.shape[1]
    least = min(len(real), len(fake))
    if least <= d:
        raise UsageError(f"a distance needs at least d + 1 = {d + 1} images on either side, got {least}; see kid")
    moments = Moments.of(real)
    debiased = frechet_jackknife(real=moments, fake_features=fake, labels=labels)
    raw = frechet_distance(real=moments, fake=Moments.of(fake))
    return {"distance": Estimate(raw, debiased.error, len(fake)), "distance_debiased": debiased}


def _vendi(features: Tensor) -> Estimate:
    """The score of all, with a delete-block jackknife error; its dependence on n is left in."""
    n = len(features)
    blocks = min(_VENDI_BLOCKS, n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    value = vendi_score(features)
    if blocks < 2:
        return Estimate(value, math.nan, n)
    without = torch.tensor(
        [vendi_score(features[_others(order, block)]) for block in torch.tensor_split(order, blocks)]
    )
    spread = (without.to(torch.float64) - without.mean()).square().sum()
    return Estimate(value, math.sqrt(float(spread) * (len(without) - 1) / len(without)), n)


def _others(order: Tensor, block: Tensor) -> Tensor:
    return order[~torch.isin(order, block)]


@dataclass(frozen=True, eq=False)
class _Jury:
    """What a judge can be asked of two sets.

    Attributes:
        data: the real images of the classes that it can tell, which alone are its classes.
        kept: int64, the labels of these classes among all of the real images.
        labels: int64 [n], of the fakes, among all.
        classes: names of all.
        notes: which classes it leaves out.
    """

    data: ImageData
    kept: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def _jury(real: ImageSet, labels: Tensor | None, asked: str) -> _Jury:
    """From counts alone.

    Raises:
        UsageError: if a judge has nothing to tell apart.
    """
    if labels is None:
        raise UsageError(f"{asked} needs class sub-folders in both, of the same names; not measured")
    data = _small(real.data)
    names, (judged, notes) = data.classes, judged_classes(data.labels, data.classes)
    kept = torch.tensor(judged, dtype=torch.int64)
    if len(judged) < 2 or int(torch.isin(labels, kept).sum()) < 2:
        counts = sorted(Counter(data.labels.tolist()).items(), key=lambda pair: pair[1])
        had = class_list([f"{names[label]} ({count})" for label, count in counts])
        raise UsageError(
            f"{asked} needs 2 classes with {JUDGED} real images of each, and 2 fakes of them; got {len(judged)} "
            f"such classes of {len(counts)}, real images of each: {had}; not measured"
        )
    if len(judged) < len(names):
        index = torch.isin(data.labels, kept)
        chosen = data.subset(index)
        data = replace(
            chosen, labels=torch.searchsorted(kept, chosen.labels), classes=tuple(names[label] for label in judged)
        )
    return _Jury(data, kept, labels, names, tuple(notes))


def _judged(
    jury: _Jury, fake: ImageSet, role: Role, progress: Progress
) -> tuple[Classifier, tuple[ClassRow, ...], list[dict[str, Estimate]]]:
    """(judge, rows, what it says of all fakes, of fakes and of held-out real images to be compared)"""
    data, kept = jury.data, jury.kept
    held_out, training = stratified_split(data, 0.2, SEED)
    with progress("training the judge", None, "step") as advance:
        judge = cached_classifier(training, role, progress=lambda step, loss: advance(1))
    mine = torch.isin(jury.labels, kept)
    labels = torch.searchsorted(kept, jury.labels[mine])
    said = [judge.logits(images) for images in (fitted(fake.data.images[mine], data.shape), held_out.images)]
    truth = [labels, held_out.labels]
    fakes, reals = (hits(logits, wanted) for logits, wanted in zip(said, truth, strict=True))
    rows, places = [], dict(zip(kept.tolist(), range(len(kept)), strict=True))
    for label, name in enumerate(jury.classes):
        index = places.get(label, -1)
        ours, theirs = fakes[labels == index], reals[held_out.labels == index]
        rows.append(
            ClassRow(
                name,
                proportion_estimate(ours) if len(ours) else None,
                proportion_estimate(theirs) if len(theirs) else None,
            )
        )
    n = min(len(fakes), len(reals))  # the style of score grows with it
    alike = [logits[stratified_order(wanted, SEED)[:n]] for logits, wanted in zip(said, truth, strict=True)]
    columns = [
        {"accuracy": proportion_estimate(found), "inception_style": inception_score(logits)}
        for found, logits in ((fakes, said[0]), (fakes, alike[0]), (reals, alike[1]))
    ]
    return judge, tuple(rows), columns


def _small(data: ImageData) -> ImageData:
    """What the judge looks at: at most 32 pixels a side."""
    channels, height, width = data.shape
    shape = (channels, min(height, _JUDGE_SIDE), min(width, _JUDGE_SIDE))
    return data if shape == data.shape else replace(data, images=fitted(data.images, shape))


def _warnings(real: ImageSet, fake: ImageSet) -> tuple[str, ...]:
    found = []
    least = min(len(real), len(fake))
    if least < ENOUGH:
        found.append(
            f"only {least} images on one side: error bars are wide and rare images unseen; {ENOUGH} or more are better"
        )
    if len(real) != len(fake):
        found.append(
            f"{len(real):,} real and {len(fake):,} fake images: numbers that depend on n (distance, precision, recall, "
            "density, coverage, vendi) compare with other measurements only at the same two numbers"
        )
    if real.data.shape != fake.data.shape:
        found.append(
            f"real images are {_shape(real)}, fakes {_shape(fake)}: the extractor resizes both, and what differs by "
            "resizing counts as a difference; --resize brings both to one size first"
        )
    labels = common_labels(real, fake)
    if labels is not None:
        shares = [part.bincount(minlength=len(real.data.classes)) / len(part) for part in (real.data.labels, labels)]
        gap = int((shares[0] - shares[1]).abs().argmax())
        here, there = float(shares[0][gap]), float(shares[1][gap])
        if abs(here - there) > UNEVEN:
            found.append(
                f"the classes have other shares: {real.data.classes[gap]} is {here:.0%} of REAL and {there:.0%} of "
                "FAKE; that counts as a difference"
            )
    kinds = [", ".join(sorted(part.encodings)) for part in (real, fake)]
    if all(kinds) and (kinds[0] != kinds[1] or "," in kinds[0]):
        found.append(
            f"encodings differ (REAL: {kinds[0]}; FAKE: {kinds[1]}): traces of compression count as a difference; "
            "store both alike, best as PNG"
        )
    known = set(real.pixels)
    copies = sum(pixels in known for pixels in fake.pixels)
    if copies:
        found.append(
            f"{copies:,} of {len(fake):,} fakes are identical to a real image, pixel by pixel: a distance near 0 is "
            "then no merit"
        )
    for what, part in (("REAL", real), ("FAKE", fake)):
        repeated = len(part) - len(set(part.pixels))
        if repeated:
            found.append(f"{repeated:,} of {len(part):,} images of {what} repeat another one of it")
    return (*found, *real.notes, *fake.notes)


def _few(n: int, d: int, labels: Tensor | None, real: ImageSet, wanted: Sequence[str]) -> list[str]:
    """What is said of distances of ``n`` images of ``d`` features, and of classes with one fake image."""
    found = []
    if "distance" in wanted and (few := few_for_features(n, d, "images on either side")):
        found.append(few)
    if labels is not None and any(name in wanted for name in ("distance", "kid", "cmmd")):
        counts = Counter(labels.tolist())
        alone = [real.data.classes[label] for label, count in sorted(counts.items()) if count == 1]
        if alone:
            found.append(
                f"one fake image of {class_list(alone)}: distance, kid and cmmd are taken as if the classes of the "
                "fakes had been drawn by chance"
            )
    return found


def _shape(images: ImageSet) -> str:
    channels, height, width = images.data.shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"
