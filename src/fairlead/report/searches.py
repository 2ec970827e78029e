"""``fl.tune``: search a guidance on some seeds, measure what is on the front on others, and say which to take.

OUT/tuned.json       the answer: expression, interval, reasons, everything measured; see ``tune/answers.py``
    searched/        batches of the search, for starting again
    report/          a sweep of the reported settings, on seeds of its own, with the answers it is about

Over 300 lines, as everything is checked here before anything is sampled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError, remark
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.guide.rewards.reward import Reward
from fairlead.measure.agreement import AGREEMENT, metric_of
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import JudgeKind
from fairlead.measure.metrics import DEBIASED, check_distance, maximised
from fairlead.measure.references import by_name, check_prompted, evaluator_for
from fairlead.measure.rewards.image_reward import ImageReward
from fairlead.measure.scoring import Scoring
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.report.sweeps import SweepReport, by_prompts, carry_out, path_of, read_asked
from fairlead.report.sweeps import report as write_report
from fairlead.report.swept_classes import classes_of
from fairlead.sample.sampler import Sampler, parse_sampler
from fairlead.sample.sampling import Precision
from fairlead.train.hub_runs import is_hub_name
from fairlead.tune.answers import folder_of, read_answers, save_answer
from fairlead.tune.measurements import Goal
from fairlead.tune.measurer import Measurer
from fairlead.tune.recommend import Tuned
from fairlead.tune.search import check_search, find_guidance, parse_constraints
from fairlead.tune.setting import all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Event, Shared, Sweep
from fairlead.tune.template import Template

METRICS = (DEBIASED, "accuracy", "confidence", "saturation")
"""Of every model; agreement comes to them where a model is conditioned on more than a label."""
PROMPTED = ("cosine", "saturation")
"""Where prompts are given, beside the distance to real images, if there are any."""
PAIRED = (
    "settings are compared image by image, on the same {count} prompts and seeds; if prompts are used more than once, "
    "the interval covers other seeds under these prompts, not other prompts"
)
REPORT_SEED = 1_000_000
"""First seed of the report: far from those of the search."""


@dataclass(frozen=True, eq=False)
class SearchReport:
    """What a search found.

    Attributes:
        tuned: the recommendation and everything that was measured for it.
        template: what was searched.
        objective: the metric.
        name: what ``guidance`` takes to use the answer: "tuned", "tuned:KEY", or the expression itself.
        example: a condition of the model, to try it with; "all" for one with classes.
        report: the recommended setting, no guidance and others of the front, on fresh seeds; None while or where
            nothing is reported.
    """

    tuned: Tuned
    template: Template
    objective: str
    name: str
    example: str
    report: SweepReport | None = None

    @property
    def guidance(self) -> str:
        """The recommended expression."""
        return self.tuned.guidance


def tune(
    model: str | Path,
    out: str | Path,
    *,
    guidance: str = "cfg({scale})",
    range: str | Sequence[str] = (),
    budget: int = 10_000,
    objective: str | None = None,
    constraint: str | Sequence[str] = (),
    report: int = 1000,
    by_class: bool = False,
    sampler: str | Sampler = "ddim",
    steps: int = 20,
    grid: str = "trailing",
    seed: int = 0,
    batch_size: int = 64,
    precision: Precision = "fp32",
    data: str | None = None,
    prompts: str | Path | Sequence[str] | None = None,
    features: str | None = None,
    clip: str | None = None,
    judge: JudgeKind = "quick",
    reward: Reward | str | None = None,
    device: str = "auto",
    progress: Progress = silent,
    on_found: Callable[[SearchReport], object] = lambda found: None,
    on_event: Callable[[Event], object] = lambda event: None,
    command: str = "",
) -> SearchReport:
    """Find the guidance for a model: search a range on common noise, report what is on the front on fresh noise.

    One open number is found by a grid that is refined only where settings are statistically indistinguishable, with an
    interval of the best place; several by halving (needs optuna). The same call goes on where an interrupted one was.

    Args:
        model: path of a training run, ``RUN@step500``, a checkpoint folder, or a diffusers pipeline (with ``data`` or
            ``prompts``).
        out: folder for everything measured; the answer is also written to RUN/tuned.json, for ``guidance="tuned"``,
            beside those for other objectives, constraints, samplers, ...
        guidance: an expression with the numbers to be found in braces.
        range: ``NAME=LOW:HIGH`` for every open number; ``scale=1:8`` if it is not given.
        budget: images of the search.
        objective: distance_debiased and saturation are to be low, accuracy, confidence and (for models conditioned on
            more than a label, on scenes) agreement, agreement_ink, ... high; with prompts cosine is to be high. Default
            distance_debiased; with prompts but without ``data`` cosine.
        constraint: what a recommended setting must satisfy: "accuracy >= 0.99", "rows_per_step <= 1.5", ...
        report: images of each reported setting, on seeds that the search has not seen; 0 for no report.
        by_class: say which scale suits each class too, with an interval, or that the images do not tell them apart.
        sampler, steps, grid, batch_size, precision: as for ``sample``.
        seed: first seed of the search; the report begins at 1,000,000 more.
        data, prompts, features, clip, judge, reward: as for ``sweep``; with a reward, "reward" may be the objective,
            which is to be high, or bound by a constraint.
        on_found: called with the answer, before the report is measured.
        on_event: called with the events of the report's sweep.
        command: kept with the answer.

    Raises:
        UsageError: for anything that cannot be searched, before anything is sampled; if no setting satisfies the
            constraints.
    """
    spec, out = path_of(model, "tune"), Path(out)
    ranges, rules = ([given] if isinstance(given, str) else list(given) for given in (range, constraint))
    check_folder(out, files=["tuned.json"])
    with Hold(out), _kept_is_said(out):
        asked = read_asked("tune", prompts, clip)
        metrics = (*METRICS, *AGREEMENT) if not asked else PROMPTED if data is None else (DEBIASED, *PROMPTED)
        metrics = metrics if reward is None else (*metrics, "reward")
        objective = objective or metrics[0]
        check_distance(objective, f"objective {objective!r}")
        check_objective(objective, metrics)
        if budget < 1 or report < 0:
            raise UsageError(f"budget and report: expected numbers of images, got {budget} and {report}")
        template = Template.of(guidance, ranges)
        if by_class and (asked or len(template.knobs) > 1):
            why = "prompts are no classes" if asked else f"{len(template.knobs)} numbers are open, expected one"
            raise UsageError(f"tune: by class: {why}; leave it out")
        check_search(template, budget)
        constraints = parse_constraints(rules, steps, metrics)
        beside = _kept(spec, out)
        with progress(f"loading {spec}"):
            loaded = load(spec, device=device)
        if not loaded.conditional:
            raise UsageError("tune measures how well images follow their condition, and this model is unconditional")
        if len(loaded.image_shape) != 3:
            raise UsageError(f"tune measures images, and this model's samples are {list(loaded.image_shape)}")
        template = template.named(loaded.named)
        if asked:
            check_prompted(loaded)
            asked = tuple(str(loaded.named(prompt)) for prompt in asked)
        wanted = [name for name in (objective, *(rule.metric for rule in constraints)) if name in AGREEMENT]
        if wanted and loaded.condition_kind == "label":
            raise UsageError(
                f"{wanted[0]}: this model is conditioned on a label only, whose agreement is accuracy; write e.g. "
                "accuracy >= 0.9"
            )
        places = [out / "tuned.json", *([] if beside is None else [beside / "tuned.json"])]
        for path in (*places, out / "report" / "tuned.json"):
            if path.is_file():
                read_answers(path)  # a damaged one is refused before the search, not after it
        drawn = str(sampler if isinstance(sampler, Sampler) else parse_sampler(sampler))
        fresh = Shared(report, REPORT_SEED + seed, (), grid, batch_size, precision, asked)

        def reported(guidances: Sequence[str], ready: Model) -> Sweep:
            models = [ready]  # it is loaded already for the first use
            return Sweep(
                all_settings([spec], guidances, [drawn], [steps]),
                fresh,
                lambda name: models.pop() if models else load(name, device=device),
                "report",
            )

        if report:
            SweepFolder(out / "report").check(reported(["none"], loaded).described())
        valued = None if reward is None else ImageReward.of(reward, loaded, kept=True)
        sizes = (report,) if report else ()
        evaluator: Scoring
        if asked and judge != "quick":
            raise UsageError(f"tune: judge {judge!r}: with prompts no judge looks at images; leave it out")
        if asked:
            evaluator = by_prompts(loaded, asked, sizes, features, clip, data, device, progress)
        else:
            evaluator = evaluator_for(
                spec, data, (), loaded, sizes, progress, features=features, device=device, judged=judge
            )
            _check_judged(wanted, evaluator)
        evaluator = evaluator.rewarding(valued)
        classes = classes_of(evaluator) if by_class else None
        shared = Shared(budget, seed, (), grid, batch_size, precision, asked)
        with progress("", budget, "image") as advance:
            searched = out / "searched" / _question(spec, loaded, evaluator, shared, drawn, steps)
            measurer = Measurer(loaded, evaluator, template, shared, drawn, steps, searched, advance)
            tuned = find_guidance(
                measurer, evaluator.moments, template, budget=budget,
                objective=Goal(objective, maximised(objective)), constraints=constraints, seed=seed,
                classes=classes,
            )  # fmt: skip
        if asked:
            tuned = replace(tuned, notes=(*tuned.notes, PAIRED.format(count=len(set(asked)))))
        about: Mapping[str, Any] = {
            "model": spec,
            "sampler": drawn,
            "steps": steps,
            "grid": grid,
            "precision": precision,
            "objective": objective,
            "constraints": rules,
            "template": template.text,
            "ranges": {name: [knob.low, knob.high] for name, knob in template.knobs.items()},
            "seeds": [seed, REPORT_SEED + seed],
            "weights": loaded.metadata.get("weights_hash"),
            **evaluator.described(),
            "command": command,
        }
        with unbroken():
            for path in places:
                save_answer(path, tuned, about)
        name = tuned.guidance
        if beside is not None:
            answers = read_answers(places[-1])
            name = "tuned" if len(answers) == 1 else f"tuned:{answers[0]['key']}"
        example = asked[0] if asked else "all" if loaded.classes else str(loaded.examples[0])
        found = SearchReport(tuned, template, objective, name, example)
        on_found(found)
        if not report:
            return found
        folder = SweepFolder(out / "report")
        carry_out(reported(tuned.reported(), loaded), folder, evaluator, on_event, command=command)
        save_answer(folder.folder / "tuned.json", tuned, about)
        return SearchReport(tuned, template, objective, name, example, write_report(folder.folder))


@contextmanager
def _kept_is_said(out: Path) -> Iterator[None]:
    """An interruption says what is kept, where something is."""
    try:
        yield
    except KeyboardInterrupt:
        if any(out.glob("searched/*/*.safetensors")):
            remark(f"finished batches are in {out}; the same command continues")
        raise


def _kept(spec: str, out: Path) -> Path | None:
    """The folder where the answer is kept for ``guidance="tuned"``: the model's own; None where it cannot be."""
    if is_hub_name(spec):  # what is fetched from the hub is not written to
        return None
    folder = folder_of(spec)
    try:
        check_folder(folder, files=["tuned.json"])
    except UsageError:
        remark(f"{folder} cannot be written, so the answer is kept in {out / 'tuned.json'} only")
        return None
    return folder


def _question(spec: str, model: Model, evaluator: Scoring, shared: Shared, sampler: str, steps: int) -> str:
    """A short hash of everything but the setting and the seed that decides a batch."""
    weights = str(model.metadata.get("weights_hash") or spec)
    what = [weights, sampler, steps, shared.grid, shared.precision, evaluator.described(), *by_name(model)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def check_objective(objective: str, metrics: Sequence[str]) -> None:
    """Raise UsageError unless ``objective`` is one of ``metrics``, those that are measured."""
    if objective in metrics:
        return
    if objective == "reward":
        raise UsageError("objective 'reward': pass the reward too, e.g. --reward 'judged()'")
    if "cosine" in metrics:
        why = "prompts alone are given, and no judge is trained"
        why = "it needs real images; pass data" if objective == DEBIASED else why
        raise UsageError(f"objective {objective!r}: {why}; expected one of {', '.join(metrics)}")
    hint = "; the cosine needs prompts, pass a file of them" if objective == "cosine" else ""
    known = (*METRICS, next(iter(AGREEMENT)), *(["reward"] if "reward" in metrics else []))
    raise UsageError(f"objective {objective!r}: expected one of {', '.join(known)}{hint}")


def _check_judged(wanted: Sequence[str], evaluator: Evaluator) -> None:
    """Raise UsageError for a metric of agreement that the evaluator does not measure."""
    known = [metric_of(name) for name in evaluator.attributes.real] if evaluator.attributes is not None else []
    for name in wanted:
        if name not in known:
            has = f"known here: {', '.join(known)}" if known else "its attributes must be known, as those of scenes are"
            raise UsageError(f"{name}: cannot be judged on data {evaluator.reference.name!r} ({has})")
