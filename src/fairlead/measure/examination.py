"""Plain answers about a model and its guidance, with the numbers behind them: does the output depend on the condition,
was the null token trained, does this guidance do anything, does the schedule suit the objective, is the network whole.

Predictions are compared at fixed noise levels on real images where the checkpoint's data can be loaded, else on samples
of the model itself. An answer is PASS, WARN (a flaw worth knowing) or FAIL (it cannot do what was asked).
Over 300 lines, as there are eight questions.
"""

from __future__ import annotations

import json as json_text
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.places import check_file
from fairlead.core.progress import Progress, silent
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.guide.expression import to_guidance
from fairlead.guide.terms import Guidance, Term
from fairlead.measure.prediction_errors import CleanSamples, PredictionErrors, compare_predictions, surely_above
from fairlead.measure.run_findings import Finding, judged_guidance, judged_schedule, judged_student
from fairlead.models.load import Weights, as_model, is_pipeline, load
from fairlead.models.model import Given, Model
from fairlead.models.resources import load_resources
from fairlead.nets.build import build_net
from fairlead.nets.embeddings import LabelEmbedding
from fairlead.sample.grids import make_grid
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Sampling
from fairlead.train.checkpoint import Checkpoint, find_checkpoint

WEAK = 0.01
"""A label that changes predictions by less than this share of their size (root mean square) is hardly used."""

UNASKED = "the other questions were not asked"


def doctor(
    model: Model | str | Path,
    guidance: Guidance | Term | str | None = None,
    *,
    cond: Given = None,
    data: ImageData | str | None = None,
    sampler: Sampler | str = "ddim",
    steps: int = 20,
    grid: str = "trailing",
    resources: Mapping[str, Any] | None = None,
    json: str | Path | None = None,
    weights: Weights | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> list[Finding]:
    """Examine a model and a guidance: is the null trained, does the condition matter, does the guidance do anything?

    Args:
        guidance: whether it does anything is found by sampling four images with it.
        cond: the condition of that run; by default the first classes, one each, or none where the guidance brings its
            own.
        data: real images of the model's shape and classes, or what ``load_data`` takes, of which the test split; by
            default those of the checkpoint's training, and where these cannot be loaded samples of the model.
        sampler, steps, grid: of the run that the guidance and the schedule are judged for.
        json: file for the findings with all their numbers.
        weights, device: of a model that is given by its path, as for ``load``.

    Returns:
        An answer to every question; only those about network and schedule where the network is broken.

    Raises:
        UsageError: for an expression, sampler, grid, data or resource that cannot be used; a guidance that the model
            cannot take is a finding.
    """
    sampling = Sampling(sampler, steps, grid)
    if json is not None:
        check_file(Path(json), "choose another --json")
    spec = str(model) if isinstance(model, str | Path) else None
    with progress(f"loading {model}"):
        model = as_model(model, weights, device)
    if isinstance(data, str):
        size = model.image_shape[-1] if spec is not None and is_pipeline(spec) else None
        data = load_data(data, split="test", size=size)
    with progress("examining"):
        findings = _examined(model, to_guidance(guidance), cond, data, sampling, resources)
    if json is not None:
        try:
            with replacing(Path(json)) as partial:
                partial.write_text(json_text.dumps([vars(finding) for finding in findings], indent=1))
        except OSError as error:
            raise UsageError(f"cannot write {json}: {error}") from error
    return findings


def _examined(
    model: Model,
    guidance: Guidance,
    cond: Given,
    data: ImageData | None,
    sampling: Sampling,
    resources: Mapping[str, Any] | None,
) -> list[Finding]:
    loaded = load_resources(guidance.resources(), model, resources)
    times = make_grid(sampling.grid, model.schedule, sampling.steps)
    cond = model.named(cond)
    if model.conditional:
        model.encode([cond])
    network = _network_of(model)
    schedule = judged_schedule(model, times, sampling.grid)
    broken = _not_finite(network)
    if broken:
        text = f"{len(broken)} weights or buffers are not finite, first {broken[0]}; {UNASKED}"
        return [Finding("network", "FAIL", text, {"broken": broken}), schedule]
    checkpoint = _checkpoint_of(model)
    probe = CleanSamples.of(model, data, checkpoint)
    seen = compare_predictions(model, probe)
    whole = _network(network, seen)
    if whole.level == "FAIL":
        return [whole, schedule]
    condition, student = _condition(model, seen, probe), judged_student(model, probe)
    return [
        condition,
        _null(model, network, checkpoint, seen, probe, used=condition.level != "FAIL"),
        _labels(model, network, checkpoint),
        judged_guidance(model, guidance, cond, probe, sampling, loaded),
        schedule,
        whole,
        _weights(model, checkpoint, seen, probe),
        *([] if student is None else [student]),
    ]


def _condition(model: Model, seen: PredictionErrors, probe: CleanSamples) -> Finding:
    if not model.conditional:
        return Finding("condition", "PASS", "the model is unconditional: there is no condition to depend on")
    if len(model.classes) == 1 and model.condition_kind == "label":
        return Finding("condition", "PASS", "the model has one class: there is no other label to compare with")
    if not probe.contrasts:
        text = (
            f"not judged: {probe.source} all have one {model.condition_kind}; pass --data with others to compare with"
        )
        return Finding("condition", "WARN", text)
    shares = [math.sqrt(change) for change in seen.change]
    at = max(range(len(shares)), key=lambda i: shares[i])
    noise = max(math.sqrt(max(seen.batch)), 8 * torch.finfo(torch.float32).eps)
    numbers = {"log_snr": seen.log_snr, "relative_change": shares, "rounding": noise}
    said = (
        f"another {model.condition_kind} changes the prediction by {shares[at]:.2%} of its size at log-SNR "
        f"{seen.log_snr[at]:.0f}"
    )
    if shares[at] <= 10 * noise:
        apart = f"another {model.condition_kind} changes it by {shares[at]:.1e}, rounding by {noise:.1e}"
        text = f"the output ignores the condition: {apart}"
        return Finding("condition", "FAIL", text, numbers)
    if shares[at] < WEAK:
        return Finding("condition", "WARN", f"{said} at most; the condition is hardly used, train longer", numbers)
    return Finding("condition", "PASS", f"{said} (rounding {noise:.1e})", numbers)


def _null(
    model: Model,
    network: nn.Module | None,
    checkpoint: Checkpoint | None,
    seen: PredictionErrors,
    probe: CleanSamples,
    used: bool,
) -> Finding:
    if not model.conditional:
        return Finding("null", "PASS", "the model is unconditional: it has no null token, and needs none")
    chances = _dropped(model, model.metadata if checkpoint is None else checkpoint.about["train"])
    never = [name for name, chance in chances.items() if chance == 0]
    tokens = {name: layer.null for name, layer in _embeddings(network).items()}
    initial = [name for name, token in tokens.items() if not bool(token.any())]
    numbers: dict[str, Any] = {
        "drop": chances,
        "null_size": {name: float(token.norm()) for name, token in tokens.items()},
        "loss_conditional": float(seen.conditional.mean()),
        "loss_null": float(seen.null.mean()),
        "loss_wrong_label": float(seen.wrong.mean()),
    }
    reasons = []
    if never:
        what = "the condition" if len(never) == len(chances) else " and ".join(map(repr, never))
        reasons.append(f"{what} was never dropped in training (drop 0)")
    if initial:
        reasons.append(f"the null parameter of {initial[0]!r} is still its initial zero")
    if reasons:
        return Finding(
            "null", "FAIL", f"{' and '.join(reasons)}: cfg would compare with noise; train with drop 0.1", numbers
        )
    known = ""
    if chances:
        said = [f"{chance:g}" if len(chances) == 1 else f"{chance:g} ({name})" for name, chance in chances.items()]
        known = f"dropped with probability {', '.join(said)} in training; "
    if not used:
        return Finding("null", "PASS", f"{known}not judged by its predictions, they ignore the condition", numbers)
    losses = (
        f"denoising loss {numbers['loss_conditional']:.4f} with the {model.condition_kind}, {numbers['loss_null']:.4f} "
        "without, "
        f"{numbers['loss_wrong_label']:.4f} with a wrong one ({probe.source})"
    )
    if len(model.classes) != 1 and probe.contrasts and surely_above(seen.null, seen.wrong):
        text = (
            f"null predicts worse than a wrong {model.condition_kind} does: {losses}; drop the condition more often in "
            "training"
        )
        return Finding("null", "WARN", text, numbers)
    if surely_above(seen.conditional, seen.null):
        return Finding(
            "null", "WARN", f"the {model.condition_kind} makes predictions worse: {losses}; train longer", numbers
        )
    return Finding(
        "null",
        "PASS",
        f"{known}it behaves like a mixture of the {'classes' if model.classes else 'conditions'}: {losses}",
        numbers,
    )


def _dropped(model: Model, train: Mapping[str, Any]) -> dict[str, float]:
    """The probability with which each condition was dropped, by itself or with all others; {}: not known."""
    if train.get("drop") is None:
        return {}
    own, together = train.get("drops") or {}, train.get("drop_all") or 0.0
    names = model.conditions or ("label",)
    alone = {name: own.get(name, train["drop"]) for name in names}
    return {name: drop if not together else 1 - (1 - drop) * (1 - together) for name, drop in alone.items()}


def _labels(model: Model, network: nn.Module | None, checkpoint: Checkpoint | None) -> Finding:
    tables = {name: layer.table for name, layer in _embeddings(network).items()}
    if not tables:
        what = "no table of label embeddings" if model.conditional else "the model is unconditional: no labels"
        return Finding("labels", "PASS", f"{what} to look at")
    fresh = _fresh_tables(checkpoint)
    for name, table in tables.items():
        same = [(i, j) for i in range(len(table)) for j in range(i + 1, len(table)) if torch.equal(table[i], table[j])]
        if same:
            pairs = [[_class(model, i), _class(model, j)] for i, j in same]
            text = f"classes {pairs[0][0]!r} and {pairs[0][1]!r} have one embedding: the model cannot tell them apart"
            return Finding("labels", "FAIL", text, {"duplicates": pairs})
        if name in fresh:
            untrained = [_class(model, i) for i in range(len(table)) if _parallel(table[i].cpu(), fresh[name][i])]
            if untrained:
                text = (
                    f"{len(untrained)} of {len(table)} classes were never trained, their embeddings are the initial "
                    f"ones: {', '.join(untrained[:5])}; the data has no images of them"
                )
                return Finding("labels", "FAIL", text, {"untrained": untrained})
    rows = sum(map(len, tables.values()))
    checked = "differ from each other" + (" and from their initial values" if fresh else "")
    return Finding("labels", "PASS", f"all {rows} label embeddings {checked}", {"rows": rows})


def _network(network: nn.Module | None, seen: PredictionErrors) -> Finding:
    if not all(map(math.isfinite, (*seen.repeat, *seen.batch))):
        return Finding("network", "FAIL", f"its predictions are not finite, though its weights are; {UNASKED}")
    repeat, mixing = (math.sqrt(max(values)) for values in (seen.repeat, seen.batch))
    numbers = {"repeat": repeat, "batch": mixing}
    modules = [] if network is None else list(network.modules())
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    drops = [m for m in modules if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
    on = [type(m).__name__ for m in (*norms, *drops) if m.training]
    if on:
        text = f"it is in training mode, with {on[0]} active: calls differ; call .eval() first; {UNASKED}"
        return Finding("network", "FAIL", text, numbers)
    if repeat > 1e-3:
        text = f"two calls on the same input differ by {repeat:.1%}: dropout or noise is active inside; {UNASKED}"
        return Finding("network", "FAIL", text, numbers)
    if mixing > 1e-3:
        text = (
            f"a sample's prediction changes by {mixing:.1%} with the order of its batch, samples are mixed; {UNASKED}"
        )
        return Finding("network", "FAIL", text, numbers)
    if norms:
        text = (
            "it has batch normalisation, whose statistics mix noise levels and labels, and lag behind averaged weights"
        )
        return Finding("network", "WARN", text, numbers)
    what = "a closed form or a function" if network is None else "weights are finite, nothing random is active"
    return Finding("network", "PASS", f"{what}; the same input gives the same output", numbers)


def _weights(model: Model, checkpoint: Checkpoint | None, seen: PredictionErrors, probe: CleanSamples) -> Finding:
    if checkpoint is None or model.metadata.get("weights") != "ema" or not checkpoint.has("raw"):
        return Finding("weights", "PASS", "there is only one set of weights here, none to compare with")
    averaged, raw = checkpoint.tensors("ema"), checkpoint.tensors("raw")
    apart = math.sqrt(sum(float((averaged[k].double() - raw[k].double()).square().sum()) for k in raw))
    size = math.sqrt(sum(float(value.double().square().sum()) for value in raw.values())) or 1.0
    codec = (model.metadata.get("autoencoder") or {}).get("source")
    other = compare_predictions(load(checkpoint.folder, "raw", model.device, autoencoder=codec), probe)
    ours, theirs = float(seen.conditional.mean()), float(other.conditional.mean())
    numbers = {"distance": apart / size, "loss_averaged": ours, "loss_raw": theirs}
    said = f"averaged and raw weights are {apart / size:.1%} apart, denoising losses {ours:.4f} and {theirs:.4f}"
    if ours > 1.05 * theirs and surely_above(seen.conditional, other.conditional):
        text = f"{said}: the average lags behind, use --weights raw or train longer"
        return Finding("weights", "WARN", text, numbers)
    return Finding("weights", "PASS", said, numbers)


def _network_of(model: Model) -> nn.Module | None:
    network = getattr(model.denoiser, "network", None)
    return network if isinstance(network, nn.Module) else None


def _embeddings(network: nn.Module | None) -> dict[str, LabelEmbedding]:
    modules = {} if network is None else dict(network.named_modules())
    return {name: module for name, module in modules.items() if isinstance(module, LabelEmbedding)}


def _not_finite(network: nn.Module | None) -> list[str]:
    if network is None:
        return []
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return [name for name, value in tensors if not bool(value.isfinite().all())]


def _checkpoint_of(model: Model) -> Checkpoint | None:
    """The checkpoint the model was loaded from, if it is still there."""
    spec = model.metadata.get("checkpoint")
    if not isinstance(spec, str):
        return None
    try:
        checkpoint = find_checkpoint(spec)
    except UsageError:
        return None
    weights = model.metadata.get("weights")
    return checkpoint if checkpoint.about["files"].get(weights) == model.metadata.get("weights_hash") else None


def _fresh_tables(checkpoint: Checkpoint | None) -> dict[str, Tensor]:
    """The label embeddings as training began with them, from its seed; those that are not trained are left out."""
    if checkpoint is None or "seed" not in checkpoint.about["train"]:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checkpoint.about["train"]["seed"])
        network = build_net(checkpoint.about["net"])
    return {name: e.table.detach() for name, e in _embeddings(network).items() if e.table.requires_grad}


def _parallel(a: Tensor, b: Tensor) -> bool:
    """Whether a is b but for weight decay."""
    return bool(torch.allclose(a / a.norm(), b / b.norm(), rtol=0, atol=1e-5))


def _class(model: Model, index: int) -> str:
    return model.classes[index] if index < len(model.classes) else str(index)
