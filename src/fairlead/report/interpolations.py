"""``fl.interpolate``, from one condition to another: the same noise, mixed conditions, and how evenly images change.

Frame i of m has the embedding ((m - 1 - i) a + i b) / (m - 1), value by value, for every floating name of the condition
that ``Model.embed`` returns: class vectors [n, dim] as well as sequences [n, tokens, dim].

Straight lines (lerp), not great circles (slerp). Slerp suits noise, whose length is what makes it probable. A condition
has no such density about the origin: a network reads its embedding through a linear layer, which maps a straight line
onto a straight line whatever the origin is, while a shift of all embeddings by one vector (the network can take it back
in a bias) changes every great circle. Swapping the ends turns the strip round, and the ends are the plain conditions.

Smoothness is the largest change from a frame to the next over the mean one, in units of features: 1 is perfectly even,
m - 1 is one jump. It grows with m, so it compares at equal m only.

Over 300 lines: the verb, its result and the mixing of conditions.

Over 300 lines, as sampling, measuring and drawing share the frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import is_count, plain, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance, Term
from fairlead.measure.extractors import Extractor
from fairlead.measure.judge import Classifier
from fairlead.measure.metrics import Estimate, mean_estimate, proportion_estimate
from fairlead.measure.references import evaluator_for
from fairlead.models.load import Weights
from fairlead.models.model import Given, LabelEncoder, Model, Spec
from fairlead.report.image_grid import image_grid
from fairlead.report.text_table import in_columns
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Precision, Sampling
from fairlead.tune.answers import loaded_with


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The result of an interpolation: a strip of images for each seed, and how evenly they change.

    Attributes:
        ends: what the first and the last frame are conditioned on, by name.
        frames: how many there are.
        run: seed by seed, frame by frame; n x frames samples.
        evenness: :meth:`smoothness` in the features of the real images; None where these were not asked for.
        shares: :meth:`recognised` between two classes of the judge; empty where that was not asked for.
    """

    ends: tuple[Spec, Spec]
    frames: int
    run: Run
    evenness: Estimate | None = None
    shares: Mapping[str, Sequence[Estimate]] = field(default_factory=dict)

    __repr__ = brief

    def __str__(self) -> str:
        """A line per frame: the share of the second end, and what the judge sees; then how evenly the images change."""
        columns = [(f"share of {self.ends[1]}", [f"{weight:.3g}" for weight in self.weights])]
        for name, row in self.shares.items():
            columns.append((f"seen as {name}", [f"{100 * share.value:.0f} %" for share in row]))
        known = [] if self.evenness is None else [f"{self.evenness} in features"]
        known += [] if self.run.images is None else [f"{self.smoothness()} in pixels"]
        even = f"largest change over the mean one, {self.frames} frames, {self.n} seeds: {', '.join(known)}"
        return "\n".join([*in_columns(columns), f"{even} (1 is even, {self.frames - 1} is one jump)"])

    @property
    def n(self) -> int:
        return len(self.run.seeds) // self.frames

    @property
    def x0(self) -> Tensor:
        """[n, frames, *shape], in the model's space."""
        return self.run.x0.reshape(self.n, self.frames, *self.run.x0.shape[1:])

    @property
    def images(self) -> Tensor:
        """uint8 [n, frames, c, h, w].

        Raises:
            UsageError: if the model's samples are not images.
        """
        if self.run.images is None:
            raise UsageError("this model's samples are not images; use x0")
        return self.run.images.reshape(self.n, self.frames, *self.run.images.shape[1:])

    @property
    def weights(self) -> list[float]:
        """The share of the second end in each frame."""
        return [i / (self.frames - 1) for i in range(self.frames)]

    def changes(self, features: Classifier | Extractor | None = None) -> Tensor:
        """float64 [n, frames - 1]: the distance from each frame to the next, of features, or of pixels in [0, 1] as the
        root of their mean square."""
        if features is None:
            pixels = self.images.flatten(2).double() / 255
            return _steps(pixels / math.sqrt(pixels.shape[2]))
        found = features.features(self.images.flatten(0, 1)).double().reshape(self.n, self.frames, -1)
        return _steps(found)

    def smoothness(self, features: Classifier | Extractor | None = None) -> Estimate:
        """The largest change over the mean one, mean over the seeds; see :func:`unevenness`."""
        return mean_estimate(unevenness(self.changes(features)))

    def between_classes(self, judge: Classifier) -> bool:
        """Whether both ends are classes of the judge, by name or by index; a prompt is none."""
        classes = LabelEncoder(judge.data.classes)
        return all(classes.find(end) is not None for end in self.ends)

    def recognised(self, judge: Classifier) -> Mapping[str, list[Estimate]]:
        """For each frame the share of seeds in which the judge sees the first end, the second, and another class.

        Raises:
            UsageError: if an end is no class of the judge.
        """
        classes = judge.data.classes
        ends = [LabelEncoder(classes).index(end) for end in self.ends]
        seen = judge.logits(self.images.flatten(0, 1)).argmax(1).reshape(self.n, self.frames)
        hits = [seen == ends[0], seen == ends[1]]
        shares = {classes[ends[0]]: hits[0], classes[ends[1]]: hits[1], "another": ~(hits[0] | hits[1])}
        return {name: [proportion_estimate(column) for column in hit.T] for name, hit in shares.items()}

    def strip(self) -> bytes:
        """PNG: a row per seed, a column per frame."""
        first, last = (str(end) for end in self.ends)
        settings = self.run.settings
        return image_grid(
            self.images,
            row_labels=[str(seed) for seed in self.run.seeds[:: self.frames]],
            col_labels=[first, *(f"{100 * weight:.3g} %" for weight in self.weights[1:-1]), last],
            title=f"{first} to {last}, {settings['guidance']}, {settings['sampler']}, {settings['steps']} steps",
            provenance={"fairlead": json.dumps(self.run.provenance())},
        )

    def save(self, out: str | Path, about: Mapping[str, Any] | None = None) -> None:
        """Write OUT/strip.png and OUT/interpolation.json, with what else is to be said ``about`` it.

        Raises:
            UsageError: if nothing can be written there.
        """
        measured = {"features": self.evenness, "pixels": self.smoothness()}
        said = {
            "ends": list(self.ends),
            "weights": self.weights,
            **self.run.summary(),
            "smoothness": {name: [one.value, one.error] for name, one in measured.items() if one is not None},
            "recognised": {name: [share.value for share in row] for name, row in self.shares.items()},
            **(about or {}),
        }
        out, picture = Path(out), self.strip()
        try:
            with unbroken():
                with replacing(out / "strip.png", durable=False) as partial:
                    partial.write_bytes(picture)
                with replacing(out / "interpolation.json") as partial:
                    partial.write_text(json.dumps(said, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write to {out}: {error}") from error


def unevenness(changes: Tensor) -> Tensor:
    """float64 [n]: the largest of ``changes`` [n, m] >= 0 over their mean, in 1..m; 1 where nothing changes at all."""
    changes = changes.double()
    mean = changes.mean(1)
    return torch.where(mean > 0, changes.amax(1) / mean.clamp(min=1e-300), 1.0)


def _steps(frames: Tensor) -> Tensor:
    """[n, m - 1] of [n, m, d]."""
    lengths: Tensor = torch.linalg.vector_norm(frames[:, 1:] - frames[:, :-1], dim=2)
    return lengths


def interpolate(
    model: Model | str | Path,
    a: Given,
    b: Given,
    *,
    n: int = 4,
    frames: int = 9,
    guidance: Guidance | Term | str | None = None,
    seed: int = 0,
    sampler: Sampler | str = "ddim",
    steps: int = 20,
    grid: str = "trailing",
    batch_size: int = 64,
    precision: Precision = "fp32",
    weights: Weights | None = None,
    device: str | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> Interpolation:
    """Sample images between condition ``a`` and condition ``b``, ``frames`` of them from the noise of each seed.

    Args:
        n: seeds, ``seed`` and the next ones.
        frames: at least 3, both ends among them.
        guidance, sampler, steps, grid, batch_size, precision: as for ``sample``.
        weights, device: of a model that is given by its path, as for ``load``.
        data: where the images are that judge and features are trained on, if not where they were in training.
        out: folder for strip.png and interpolation.json; must not hold an interpolation yet.

    Returns:
        The strip; with ``data`` or ``out`` also measured by judge and features of the model's real images.

    Raises:
        UsageError: for a model without embeddings of its conditions; for ends that are null, equal, or differ in what
            is no embedding; for a guidance that has to know the class (another model, a classifier); and as ``sample``.
    """
    out, sampling = None if out is None else Path(out), Sampling(sampler, steps, grid, batch_size, precision)
    with nullcontext() if out is None else Hold(out):
        if out is not None:
            check_folder(out, fresh={"interpolation.json": "an interpolation", "strip.png": "strip.png"})
        with progress(f"loading {model}"):
            model, guidance, chosen = loaded_with(model, guidance, sampler, steps, weights, device)
        ends, plan = planned(model, a, b, n, frames, guidance, seed, sampling)
        found = Interpolation(ends, frames, plan.run())
        found = replace(found, run=replace(found.run, settings={**found.run.settings, **chosen}))
        if out is None and data is None:
            return found
        evaluator = evaluator_for(str(model.metadata.get("checkpoint", "")), data, progress=progress)
        shares = found.recognised(evaluator.judge) if found.between_classes(evaluator.judge) else {}
        found = replace(found, evenness=found.smoothness(evaluator.extractor), shares=shares)
        if out is not None:
            found.save(out, evaluator.described())
        return found


def planned(
    model: Model,
    a: Given,
    b: Given,
    n: int,
    frames: int,
    guidance: Guidance | Term | str | None,
    seed: int,
    sampling: Sampling,
) -> tuple[tuple[Spec, Spec], Plan]:
    """Both ends by name, and the plan that samples the way between them; see :func:`interpolate`."""
    n, frames, seed = plain(n), plain(frames), plain(seed)
    if not is_count(frames, 3):
        raise UsageError(f"interpolate: expected at least 3 frames, both ends among them, got {shown(frames)}")
    if not is_count(n):
        raise UsageError(f"interpolate: expected at least 1 seed, got {shown(n)}")
    if not is_count(seed, 0):
        raise UsageError(f"interpolate: expected seed to be an integer from 0, got {shown(seed)}")
    guidance = to_guidance(guidance)
    a, b = (model.named(end) for end in (a, b))
    foreign = [resource for resource in guidance.resources() if resource.kind != "image"]
    if foreign:
        raise UsageError(
            f"interpolate: {guidance} asks {foreign[0].name!r}, which does not know this model's embeddings; leave it "
            "out"
        )
    mixed = _mixed(model, a, b, frames)
    plan = Plan.of(
        replace(model, encode=_Encoder(model, mixed)),
        [name for _ in range(n) for name in mixed],
        guidance,
        sampling,
        seeds=[seed + i for i in range(n) for _ in range(frames)],
    )
    return (a, b), plan


@dataclass(frozen=True, eq=False)
class _Encoder:
    """Names of frames -> mixed embeddings; all else as the model has it, as embeddings too."""

    model: Model
    mixed: Mapping[str, Condition]

    def named(self, spec: Given) -> Spec:
        return spec if isinstance(spec, str) and spec in self.mixed else self.model.named(spec)

    def __call__(self, specs: Sequence[Spec]) -> Condition:
        assert self.model.embed is not None
        if not any(spec in self.mixed for spec in specs):
            return self.model.embed(self.model.encode(specs))
        return Condition.cat(self.mixed[str(spec)] if spec in self.mixed else self([spec]) for spec in specs)


def _mixed(model: Model, a: Spec, b: Spec, frames: int) -> dict[str, Condition]:
    """The condition of each frame, by a name that says what it is."""
    if model.embed is None:
        raise UsageError("interpolate: this model has no embeddings of its conditions to mix; it needs Model.embed")
    if a is None or b is None:
        raise UsageError("interpolate: expected two conditions; null has no embedding outside of the network")
    first, last = (model.embed(model.encode([end]).to(model.device)) for end in (a, b))
    if first.equals(last):
        raise UsageError(f"interpolate: {a!r} and {b!r} are the same condition; expected two")
    for name, value in first.values.items():
        other = last.values[name]
        if not torch.equal(first.keep[name], last.keep[name]):
            raise UsageError(
                f"interpolate: {name!r} is null in one of {a!r} and {b!r}, and null has no embedding outside of the "
                "network; give it in both or in neither"
            )
        if value.shape != other.shape or not (value.is_floating_point() or torch.equal(value, other)):
            raise UsageError(
                f"interpolate: {name!r} of {a!r} and {b!r} cannot be mixed; expected floating embeddings of one shape, "
                f"got {value.dtype} {list(value.shape)} and {other.dtype} {list(other.shape)}"
            )
    found = {}
    for i in range(frames):
        there, here = i / (frames - 1), (frames - 1 - i) / (frames - 1)
        values = {
            name: here * value + there * last.values[name] if value.is_floating_point() else value
            for name, value in first.values.items()
        }
        found[f"{here:.6g} {a} + {there:.6g} {b}"] = replace(first, values=values)
    return found
