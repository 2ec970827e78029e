"""What a doctor finds of a run: does its guidance do anything, does its schedule suit the objective, does a student
answer as its teacher?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.methods.distilled import with_scale
from fairlead.guide.pairs import LimitedTerm, Wrapper
from fairlead.guide.terms import Guidance, Term
from fairlead.measure.prediction_errors import LOG_SNR, CleanSamples
from fairlead.models.load import load
from fairlead.models.model import Model, Spec
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Sampling
from fairlead.sample.teacher import Teacher
from fairlead.sample.trace import Trace

Grade = Literal["PASS", "WARN", "FAIL"]
AMPLIFICATION = 1000.0
"""sigma / alpha from which an error of a thousandth in eps is an error of one in x0, half the data range."""
LEFTOVER = 0.05
"""Share of signal at the first time of a run from which starting at pure noise shows (2305.08891: 0.068 for Stable
Diffusion's schedule)."""
NOTHING = 1e-5
"""A guidance that adds less than this share of the conditional prediction adds rounding."""

STUDENT = 0.5
"""A student has learnt its lesson if it is closer to it than this share of what there was to learn."""


@dataclass(frozen=True)
class Finding:
    """One finding of the doctor: PASS, WARN or FAIL, with its numbers.

    Attributes:
        question: "condition", "null", "labels", "guidance", "schedule", "network", "weights" or, of a student,
            "teacher".
        level: PASS, WARN or FAIL.
        text: one sentence.
        numbers: what it rests on, JSON-ready.
    """

    question: str
    level: Grade
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.level}  {self.question}: {self.text}"


def judged_guidance(
    model: Model,
    guidance: Guidance,
    cond: Spec,
    probe: CleanSamples,
    sampling: Sampling,
    resources: Mapping[str, Any],
) -> Finding:
    if not guidance.terms and not guidance.finishers:
        return Finding("guidance", "PASS", "none was given; name one to find out whether it does anything")
    counts = [count for term in guidance.terms if (count := term.samples()) is not None]
    n = counts[0] if counts else 4
    brings = bool(guidance.replacing())
    classes = model.classes or next((r.classes for r in resources.values() if hasattr(r, "log_prob")), ())
    conds: list[Spec] = [cond] * n
    if cond is None and not brings:
        known = classes or [spec for spec in probe.specs[:4] if spec is not None]
        conds = [known[i % len(known)] for i in range(n)] if known else conds
    try:
        plan = Plan.of(model, conds, guidance, sampling, resources=resources)
        guidance, trace = plan.guidance, Trace.of(plan)
    except UsageError as error:
        return Finding("guidance", "FAIL", f"it cannot be used on this model: {error}")
    sizes = trace.step["condition"].nan_to_num(0).mean(1)
    numbers: dict[str, Any] = {
        "rows_a_sample": sum(trace.rows) / n,
        "strength": max([v for v in trace.mean("strength") if not math.isnan(v)], default=None),
        "largest_size": [_largest(trace.term["size"][k]) for k in range(len(trace.terms))],
    }
    if trace.broken is not None:
        return Finding("guidance", "FAIL", str(trace.broken), numbers)
    scale = float(sizes.max()) or 1.0
    idle: dict[str, str] = {}
    for k, term in enumerate(guidance.terms):
        largest = numbers["largest_size"][k]
        if largest is not None and largest <= NOTHING * scale and not trace.alters[k]:
            idle[str(term)] = _why_idle(term, k, trace, largest)
    numbers["idle"] = idle
    if idle:
        said = "; ".join(f"{text} does nothing: {why}" for text, why in idle.items())
        return Finding("guidance", "FAIL" if len(idle) == len(guidance.terms) else "WARN", said, numbers)
    if not guidance.terms:
        changed = _largest((trace.step["finished"] - trace.step["total"]).abs()) or 0.0
        if changed <= NOTHING * scale:
            return Finding("guidance", "WARN", f"{guidance}: the finishers change nothing on this model", numbers)
    effect = "stands in place of the conditional prediction"
    if numbers["strength"] is not None:
        effect = f"changes the conditional prediction by up to {numbers['strength']:.1%}"
    cost = f"{numbers['rows_a_sample']:g} network rows per sample in {sampling.steps} steps"
    return Finding("guidance", "PASS", f"{guidance} {effect}, at {cost}", numbers)


def _why_idle(term: Term, k: int, trace: Trace, largest: float) -> str:
    limits, inner = [], term
    while isinstance(inner, Wrapper):
        limits += [inner.limits] if isinstance(inner, LimitedTerm) else []
        inner = inner.term
    for limit in limits:
        levels: tuple[float, ...] = getattr(trace, limit.unit)
        if not any(map(limit.holds, levels)):
            return (
                f"its interval {limit.unit}=({limit.low:g}, {limit.high:g}) contains none of the {len(levels)} steps, "
                f"which start at {limit.unit} from {levels[0]:.3g} to {levels[-1]:.3g}"
            )
    off = float(getattr(inner, "off", 0.0))
    if bool((trace.term["scale"][k] == off).all()):
        return f"its scale is {off:g} at every step, which is off"
    return f"the predictions that it compares are the same (largest difference {largest:.1e})"


def judged_schedule(model: Model, times: Tensor, grid: str) -> Finding:
    """Whether the schedule suits the objective, and its start the noise that a run on ``times`` starts with."""
    schedule, objective = model.schedule, model.objective
    name = schedule.config()["name"]
    alpha, sigma = (value.tolist() for value in schedule.alpha_sigma(times[:-1]))
    shares = [a / math.hypot(a, s) for a, s in zip(alpha, sigma, strict=True)]
    network_times = schedule.network_time(times[:-1]).tolist()
    numbers = {
        "objective": objective,
        "schedule": name,
        "alpha_at_start": alpha[0],
        "sigma_over_alpha_at_start": sigma[0] / alpha[0] if alpha[0] else "inf",
        "signal_at_start": shares[0],
        "network_time": [network_times[0], network_times[-1]],
    }
    if objective == "eps" and sigma[0] >= AMPLIFICATION * alpha[0]:
        factor = "without end" if alpha[0] == 0 else f"{sigma[0] / alpha[0]:,.0f} times"
        text = (
            f"an eps network starts at alpha = {alpha[0]:.2g} on {name!r}, which amplifies its errors {factor} in x0; "
            "train with objective 'v', or on a schedule with more signal left"
        )
        return Finding("schedule", "WARN", text, numbers)
    if shares[0] >= LEFTOVER:
        why, advice = f"schedule {name!r} ends before pure noise", "take a schedule that ends in noise"
        if float(times[0]) < 1:
            why, advice = f"grid {grid!r} starts at t = {float(times[0]):.3f}", "take grid trailing"
        text = (
            f"{why}: training saw {shares[0]:.1%} signal there, a run starts with none, which shows as a wrong overall "
            f"brightness (2305.08891); {advice}"
        )
        return Finding("schedule", "WARN", text, numbers)
    text = (
        f"{objective} on {name!r}: {shares[0]:.2%} signal at the start of grid {grid!r}, and the network gets times "
        f"from {network_times[0]:.0f} to {network_times[-1]:.0f}, inside of its training"
    )
    return Finding("schedule", "PASS", text, numbers)


@torch.no_grad()
def judged_student(model: Model, probe: CleanSamples) -> Finding | None:
    """How far a student is from its teacher, by noise level, beside what the guidance or the fewer steps change: the
    distance of the teacher's own answer. None for a model that is no student."""
    lesson = model.metadata.get("distilled")
    if not lesson:
        return None
    span, steps, each = model.scale_range, lesson.get("steps", 0), lesson.get("each", 1)
    try:
        taught = load(lesson["teacher"], lesson["weights"], model.device)
        teacher = Teacher.of(taught, lesson["guidance"], span, steps, each)
    except UsageError as error:
        return Finding("teacher", "WARN", f"not judged: its teacher cannot be asked ({error})")
    if taught.metadata.get("weights_hash") != lesson["hash"]:
        text = f"not judged: {lesson['teacher']} has other weights now than when the student was taught"
        return Finding("teacher", "WARN", text)
    own, theirs = (each.encode(probe.specs).to(model.device) for each in (model, taught))
    x0, generator = probe.x0.to(model.device), torch.Generator().manual_seed(0)
    scales: list[float | None] = [None] if span is None else [span[0], (span[0] + span[1]) / 2, span[1]]
    times = model.schedule.t_of_log_snr(torch.tensor(LOG_SNR, dtype=torch.float64))
    times = teacher.times(times[(times > 0) & (times < 1)]).unique()  # type: ignore[no-untyped-call]
    apart, moved = [], []
    for t in times:
        alpha, sigma = (expand_like(value, x0) for value in model.schedule.alpha_sigma(t))
        x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator).to(x0)
        plain = taught.denoiser(x_t, t, theirs).x0
        errors, changes = [], []
        for scale in scales:
            wanted = teacher.answer(x_t, t.expand(len(x0)), theirs if scale is None else with_scale(theirs, scale))
            run = GuidedDenoiser.of(model, None if scale is None else f"distilled({scale})", own)
            size = float(wanted.square().mean()) or 1.0
            errors.append(float((run(x_t, t, own).x0 - wanted).square().mean()) / size)
            changes.append(float((plain - wanted).square().mean()) / size)
        apart.append(math.sqrt(sum(errors) / len(errors)))
        moved.append(math.sqrt(sum(changes) / len(changes)))
    levels = model.schedule.log_snr(times).tolist()
    numbers = {"log_snr": levels, "relative_error": apart, "relative_change": moved, "scales": scales}
    listed = ", ".join(f"{error:.1%} at {level:.0f}" for error, level in zip(apart, levels, strict=True))
    text = (
        f"its predictions differ from what it was taught by {listed} (of their size, by log-SNR), and those of its "
        f"teacher alone by up to {max(moved):.1%}"
    )
    learnt = sum(error**2 for error in apart) < STUDENT**2 * sum(change**2 for change in moved)
    if learnt or max(apart) < NOTHING:
        return Finding("teacher", "PASS", text, numbers)
    return Finding("teacher", "WARN", f"{text}: it has learnt little of it, train longer", numbers)


def _largest(values: Tensor) -> float | None:
    known = values[values.isfinite()]
    return float(known.max()) if len(known) else None
