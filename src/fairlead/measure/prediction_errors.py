"""What a model predicts on a few clean samples under the right label, a wrong one and none, at fixed noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.core.arguments import shown
from fairlead.core.brief import brief
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.typed import check_arguments
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, stratified_order, to_float
from fairlead.data.names import Index, same_names
from fairlead.data.specs import data_specs
from fairlead.models.model import LabelEncoder, Model, Spec
from fairlead.sample.run import sample
from fairlead.train.checkpoint import Checkpoint

PROBES = 64
LOG_SNR = (-4.0, -2.0, 0.0, 2.0)
"""Noise levels at which predictions are compared: where a class still decides something."""
SURE = 3.0
"""Standard errors that a difference of losses must have to be named."""


@dataclass(frozen=True, eq=False)
class CleanSamples:
    """Clean samples [n, *shape] with their conditions and, for each, a condition of another sample that differs from it
    (all None: unconditional), and where they are from."""

    x0: Tensor
    specs: list[Spec]
    others: list[Spec]
    source: str

    __repr__ = brief

    @property
    def contrasts(self) -> bool:
        """Whether any two of the conditions differ."""
        return self.others != self.specs

    @classmethod
    def of(cls, model: Model, data: ImageData | None, checkpoint: Checkpoint | None) -> CleanSamples:
        """From ``data``, else from the data of the checkpoint, else drawn from the model.

        Raises:
            UsageError: if ``data`` does not fit the model.
        """
        if data is not None and not isinstance(data, ImageData):
            raise UsageError(f"data: expected images from fl.load_data(...), got {shown(data)}")
        found = data if data is not None or checkpoint is None else _data_of(checkpoint)
        fits = (
            found is not None
            and found.shape == model.image_shape
            and (not model.classes or same_names(found.classes, model.classes))
        )
        if data is not None and not fits:
            raise UsageError(
                f"data {data.name!r}: images {list(data.shape)} of {len(data.classes)} classes, the model has "
                f"{list(model.image_shape)} and {len(model.classes)}; pass the data it was trained on"
            )
        if found is not None and fits:
            index = stratified_order(found.labels, seed=0)[:PROBES]
            specs = (
                data_specs(model.conditions or ("label",), found, index) if model.conditional else _nothing(len(index))
            )
            source = f"{len(index)} images of {found.name} {found.split}"
            with torch.no_grad():
                x0 = model.to_space(to_float(found.images[index]))
            return cls(x0, specs, _others(model, specs), source)
        own = _nothing(PROBES)
        if model.classes:
            own = [model.named(Index(i % len(model.classes))) for i in range(PROBES)]
        elif model.examples:
            own = [model.examples[i % len(model.examples)] for i in range(PROBES)]
        steps = min(20, model.schedule.table_size or 20)
        run = sample(model, own, seeds=list(range(PROBES)), steps=steps)
        return cls(run.x0, own, _others(model, own), f"{PROBES} samples of the model itself")


@dataclass(frozen=True, eq=False)
class PredictionErrors:
    """Predictions at the noise levels.

    Attributes:
        conditional, wrong, null: mean squared errors of x0 under the label, the next label, none; float64 [levels, n].
        change: mean squared difference to the prediction under the next label, relative to the prediction's size.
        batch: the same to the prediction in a batch of another order: rounding, or samples that are mixed.
        repeat: the same to a second call: 0 unless something is random.
    """

    log_snr: list[float]
    conditional: Tensor
    wrong: Tensor
    null: Tensor
    change: list[float]
    batch: list[float]
    repeat: list[float]

    __repr__ = brief


@torch.no_grad()
def compare_predictions(model: Model, probe: CleanSamples) -> PredictionErrors:
    """Five calls at each noise level, of as many rows as there are probes."""
    n, device = len(probe.x0), model.device
    own, other, null = (model.encode(s).to(device) for s in (probe.specs, probe.others, _nothing(n)))
    reverse = torch.arange(n - 1, -1, -1, device=device)
    times = model.schedule.t_of_log_snr(torch.tensor(LOG_SNR, dtype=torch.float64))
    inside = [t for t in times if 0 < float(t) < 1] or [torch.tensor(0.5, dtype=torch.float64)]
    generator = torch.Generator().manual_seed(0)
    x0 = probe.x0.to(device)
    losses: dict[str, list[Tensor]] = {"conditional": [], "wrong": [], "null": []}
    apart: dict[str, list[float]] = {"change": [], "batch": [], "repeat": []}
    for t in inside:
        alpha, sigma = (expand_like(value, x0) for value in model.schedule.alpha_sigma(t))
        x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator).to(x0)
        right = model.denoiser(x_t, t, own).x0
        wrong = model.denoiser(x_t, t, other).x0
        turned = model.denoiser(x_t[reverse], t, own[reverse]).x0[reverse]
        again = model.denoiser(x_t, t, own).x0
        nothing = model.denoiser(x_t, t, null).x0
        for name, value in zip(losses, (right, wrong, nothing), strict=True):
            losses[name].append((value - x0).double().square().flatten(1).mean(1).cpu())
        size = float(right.double().square().mean()) or 1.0
        for name, value in zip(apart, (wrong, turned, again), strict=True):
            apart[name].append(float((value - right).double().square().mean()) / size)
    return PredictionErrors(
        model.schedule.log_snr(torch.stack(inside)).tolist(),
        torch.stack(losses["conditional"]),
        torch.stack(losses["wrong"]),
        torch.stack(losses["null"]),
        apart["change"],
        apart["batch"],
        apart["repeat"],
    )


def _nothing(n: int) -> list[Spec]:
    return [None] * n


def _others(model: Model, specs: Sequence[Spec]) -> list[Spec]:
    """The next class for labels; else the next different condition in the list, or its own where there is none."""
    if model.condition_kind == "label" and model.classes:
        classes = LabelEncoder(model.classes)
        return [model.named(Index((classes.index(spec) + 1) % len(model.classes))) for spec in specs]
    n = len(specs)
    return [
        next((specs[(i + k) % n] for k in range(1, n) if specs[(i + k) % n] != spec), spec)
        for i, spec in enumerate(specs)
    ]


def surely_above(a: Tensor, b: Tensor) -> bool:
    """Whether losses a [levels, n] are larger than b by more than their paired standard error allows, and by 0.1 %."""
    difference = (a - b).mean(0)
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) > max(SURE * error, 1e-3 * float(b.mean()))


def _data_of(checkpoint: Checkpoint) -> ImageData | None:
    """The test split of what it was trained on, where that is known and can be read."""
    given = dict(checkpoint.about["train"].get("data") or {})
    given.pop("limit", None)
    if "spec" not in given and checkpoint.about["data"]["name"] == "digits":
        given["spec"] = "digits"
    if "spec" not in given:
        return None
    try:
        check_arguments(load_data, {**given, "split": "test"}, "its data")
        return load_data(**given, split="test")
    except UsageError:
        return None
