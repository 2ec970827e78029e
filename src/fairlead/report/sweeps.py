"""``fl.sweep`` measures settings side by side, ``fl.report`` writes the page about what was measured.

Over 300 lines, as both verbs share the folder and what is said about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fairlead.core.arguments import shown
from fairlead.core.errors import UsageError, remark
from fairlead.core.files import replacing
from fairlead.core.hold import shared_hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, silent
from fairlead.guide.rewards.reward import Reward
from fairlead.guide.terms import Guidance, Term
from fairlead.measure.comparison import listed_prompts
from fairlead.measure.evaluator import Evaluator, PromptEvaluator
from fairlead.measure.judge import JudgeKind
from fairlead.measure.metrics import DEBIASED
from fairlead.measure.references import evaluator_for, prompt_evaluator_for
from fairlead.measure.rewards.image_reward import ImageReward
from fairlead.measure.score import Floor
from fairlead.measure.scoring import Scoring
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.report.page import Section
from fairlead.report.search_page import class_sections, search_sections
from fairlead.report.sweep_page import sweep_page, sweep_plot
from fairlead.report.swept_classes import check_by_class, read_by_class, write_by_class
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Precision
from fairlead.tune.answers import read_answers
from fairlead.tune.budget import Budget
from fairlead.tune.class_scales import ByClass
from fairlead.tune.front import sweep_front
from fairlead.tune.recommend import Choice, choice_for
from fairlead.tune.setting import Point, all_settings, expand
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Event, Shared, Sweep
from fairlead.tune.targets import Targets
from fairlead.tune.workers import Workers

DEFAULT_SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True, eq=False)
class SweepReport:
    """What was measured, and the page about it.

    Attributes:
        points: a measured setting each, in the order of the table.
        choice: what is recommended; its ``text`` says it in a sentence.
        path: of report.html.
        by_class: which scale suits each class, where that was asked for.
    """

    points: list[Point]
    choice: Choice
    path: Path
    by_class: ByClass | None = None


def sweep(
    model: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    guidance: str | Guidance | Term | Sequence[str | Guidance | Term] = "cfg({scale})",
    scales: Sequence[float] | None = None,
    n: int = 500,
    seed: int = 0,
    cond: str | Sequence[str] = (),
    sampler: str | Sampler | Sequence[str | Sampler] = "ddim",
    steps: int | Sequence[int] = 20,
    grid: str = "trailing",
    batch_size: int = 64,
    precision: Precision = "fp32",
    budget: str | None = None,
    keep_images: bool = False,
    by_class: bool = False,
    data: str | None = None,
    prompts: str | Path | Sequence[str] | None = None,
    features: str | None = None,
    clip: str | None = None,
    judge: JudgeKind = "quick",
    reward: Reward | str | None = None,
    device: str = "auto",
    progress: Progress = silent,
    on_event: Callable[[Event], object] = lambda event: None,
    command: str = "",
) -> SweepReport | None:
    """Measure every model with every guidance, sampler and number of steps from the same noise, and write the report.

    Finished batches are stored in ``out``: the same call goes on where an interrupted one was, and one with more
    settings adds to what is there. Several processes of a launch share the work.

    Args:
        model: paths of training runs, ``RUN@step500``, checkpoint folders or diffusers pipelines (with ``data`` or
            prompts). Real images are those of the first.
        out: folder for the results; a sweep that is there goes on if it has the same n, seed, conditions, ...
        guidance: expressions; ``{scale}`` is replaced by each of ``scales``.
        scales: 0 is unconditional, 1 conditional without guidance; default 0, 1, 1.25, 1.5, 2, 3, 5.
        n: images per setting, over all conditions; at least 3 of each.
        seed: of the first image; the same seeds for every setting.
        cond: classes, taken in turn and compared with real images of these; empty for every class. Of a model that
            reads text: prompts, as those of ``prompts``; empty for what held-out images say of themselves.
        sampler, steps, grid, batch_size, precision: as for ``sample``.
        budget: what this call may spend: "20000 images", "4e6 rows" or "30 minutes".
        keep_images: keep all images of every setting, not only the examples.
        by_class: say which scale has the smallest distance in each class, with an interval, or that n is too small.
        data: where the images are, if not where they were in training; with prompts any real images, for the distance.
        prompts: the path of a file of prompts, one a line, or a list of them, taken in turn: no real images are needed
            and no judge is trained. Measured are the cosine of image and prompt, diversity, saturation, cost, and with
            ``data`` the distance.
        features: of distance and diversity, as for ``fl.measure``; by default those of a classifier of the images, with
            prompts those of what reads them.
        clip: what reads the prompts, ``clip:PATH`` or other features that embed text; by default ``features`` where
            they do, else ``clip``.
        judge: which judge says whether an image shows its class: "quick", trained in half a minute, or "thorough", for
            photographs, trained in half an hour of one core.
        reward: a further column: its mean over the images, as particles take it ('judged("seven")'); a function needs a
            name of ``fl.register``.
        on_event: called with what :meth:`fairlead.tune.sweep_run.Sweep.measure` yields.
        command: said in the report as what made it.

    Returns:
        None in other processes than the main one of a launch.

    Raises:
        UsageError: for anything that cannot be sampled or scored, before any network call; if ``out`` holds another
            kind of sweep.
    """
    out = Path(out)
    models = [path_of(one, "sweep") for one in _several(model)]
    guidances = [str(one) for one in _several(guidance)]
    asked, conds = read_asked("sweep", prompts, clip, _several(cond)), _several(cond)
    with shared_hold(out):
        if scales is None:
            scales = DEFAULT_SCALES if any("{scale}" in text for text in guidances) else ()
        settings = all_settings(models, expand(guidances, scales), [str(s) for s in _several(sampler)], _several(steps))
        spend = None if budget is None else Budget.parse(budget)
        check_folder(out)
        workers = Workers.launched(device)
        shared = Shared(n, seed, tuple(conds), grid, batch_size, precision, asked)
        measuring = Sweep(settings, shared, partial(load, device=workers.device))
        check_by_class(by_class, measuring)
        folder = SweepFolder(out)
        folder.check(measuring.described())
        evaluator: Scoring | None = None
        if workers.main:
            valued = None if reward is None else ImageReward.of(reward, measuring.first, kept=True)
            evaluator = _evaluator(measuring, models[0], data, features, clip, judge, workers.device, progress)
            evaluator = evaluator.rewarding(valued)
            first = measuring.models[models[0]]
            for name, metadata in measuring.models.items():
                if isinstance(evaluator, Evaluator) and metadata.get("data_fingerprint") != first.get(
                    "data_fingerprint"
                ):
                    remark(
                        f"{name} was trained on other images than {models[0]}; both are measured against those of "
                        f"{models[0]}"
                    )
        carry_out(measuring, folder, evaluator, on_event, spend, keep_images, workers, command)
        write_by_class(folder, evaluator, by_class, progress)
        return report(out) if workers.main else None


def _evaluator(
    measuring: Sweep,
    model: str,
    data: str | None,
    features: str | None,
    clip: str | None,
    judge: JudgeKind,
    device: str,
    progress: Progress,
) -> Scoring:
    shared, first = measuring.shared, measuring.first
    if not shared.prompts:
        if clip is not None:
            raise UsageError("sweep: clip reads prompts, and none are given; pass prompts, or leave it out")
        chosen, n = measuring.labels, (shared.n,)
        return evaluator_for(model, data, chosen, first, n, progress, features=features, device=device, judged=judge)
    if judge != "quick":
        raise UsageError(f"sweep: judge {judge!r}: with prompts no judge looks at images; leave it out")
    return by_prompts(first, shared.prompts, (shared.n,), features, clip, data, device, progress)


def by_prompts(
    model: Model,
    prompts: Sequence[str],
    n: Sequence[int],
    features: str | None,
    clip: str | None,
    data: str | None,
    device: str,
    progress: Progress,
) -> PromptEvaluator:
    """As ``prompt_evaluator_for``; what is too little at ``n`` images per setting is remarked."""
    made = prompt_evaluator_for(
        model, prompts, features=features, clip=clip, data=data, n=n, device=device, progress=progress
    )
    for note in [note for count in n for note in Targets.of_prompts(made, count).notes]:
        remark(note)
    return made


def read_asked(verb: str, prompts: Any, clip: str | None, conds: Sequence[Any] = ()) -> tuple[str, ...]:
    """The prompts of a file, or those that are given; none where ``prompts`` is None.

    Raises:
        UsageError: for conditions beside it, something that reads prompts where there are none, a file that cannot be
            read, a prompt that is no text.
    """
    if prompts is None:
        if clip is not None and not conds:
            raise UsageError(f"{verb}: clip reads prompts, and none are given; pass prompts, or leave it out")
        return ()
    if conds:
        raise UsageError(f"{verb}: prompts and conditions are both given, {conds[0]!r} first; pass one of them")
    if isinstance(prompts, str | Path):
        return tuple(listed_prompts(Path(prompts)))
    given = _several(prompts)
    for one in given:
        if not isinstance(one, str) or not one.strip():
            raise UsageError(f"{verb}: expected prompts as text, or the path of a file of them, got {shown(one)}")
    if not given:
        raise UsageError(f"{verb}: prompts are an empty list; give one, or leave it out")
    return tuple(one.strip() for one in given)


def report(sweep: str | Path, extra: Sequence[Section] = ()) -> SweepReport:
    """Write SWEEP/report.html from the results of a sweep: one file, pictures inside, nothing to load; where there is a
    trade-off over a scale to draw, also SWEEP/tradeoff.png.

    Where SWEEP/tuned.json says what a search found, its latest answer is what is recommended, and the sections of the
    search come too.

    Args:
        sweep: the folder.
        extra: sections between the pictures of the sweep and its table.

    Raises:
        UsageError: if there is no sweep, nothing is measured yet, a file is damaged, or nothing can be written.
    """
    stored = SweepFolder(sweep)
    folder = stored.folder
    about, points = stored.read()
    check_folder(folder, "copy the sweep to a folder that can be written", files=["report.html", "tradeoff.png"])
    answers = read_answers(folder / "tuned.json") if (folder / "tuned.json").is_file() else []
    floor = Floor.from_dict(about["floor"])
    choice = choice_for(points, answers, floor)
    path = folder / "report.html"
    try:
        by_class = read_by_class(folder)
        sections = (*search_sections(answers), *class_sections(by_class), *extra)
        far = all(DEBIASED in point.score.metrics for point in points)
        beaten, reference = sweep_front(stored, points) if far else None, stored.reference
        features = 0 if reference is None else reference.d
        sweep_page(path, about, points, choice, sections, beaten, features)
        figure = sweep_plot(points, floor, choice.point)
        if figure is not None:
            with replacing(folder / "tradeoff.png", durable=False) as partial_file:
                figure.savefig(partial_file, format="png", dpi=110)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the sweep itself is whole") from error
    return SweepReport(points, choice, path, by_class)


def carry_out(
    measuring: Sweep,
    folder: SweepFolder,
    evaluator: Scoring | None,
    on_event: Callable[[Event], object],
    budget: Budget | None = None,
    keep_images: bool = False,
    workers: Workers | None = None,
    command: str = "",
) -> None:
    """Run a sweep to its end; the main process calls ``on_event``, and says after an interruption what is kept."""
    workers = workers or Workers()
    try:
        for event in measuring.measure(
            folder, evaluator, command=command, budget=budget, keep_images=keep_images, workers=workers
        ):
            if workers.main:
                on_event(event)
    except KeyboardInterrupt:
        if workers.main and folder.started():
            remark(f"finished batches are in {folder.folder}; the same command continues")
        raise


def path_of(model: Any, verb: str) -> str:
    """``model`` as text.

    Raises:
        UsageError: if it is no path.
    """
    if not isinstance(model, str | Path):
        raise UsageError(
            f"{verb}: expected the path of a training run or pipeline, got {type(model).__name__}; results are stored "
            "under it"
        )
    return str(model)


def _several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]
