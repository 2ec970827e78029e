"""A sweep: settings (checkpoint, guidance, sampler, steps) measured from the same seeds under one protocol.

The unit of work is one batch of one setting, and what it holds does not depend on who works on it or when: a sweep
that was killed, or is shared, gives the table of one undisturbed run. (Over 300 lines: it plans, samples and scores.)

    sweep = Sweep(all_settings(["runs/digits"], ["cfg(1)", "cfg(2)"], ["ddim"], [20]), Shared(n=500), load)
    events = list(sweep.measure(SweepFolder("out"), evaluator, command="..."))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fairlead
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.data.images import to_uint8
from fairlead.data.names import same_names
from fairlead.guide.expression import to_guidance
from fairlead.measure.metrics import FEWEST, OF_A_CLASS
from fairlead.measure.references import by_name, check_prompted, counts
from fairlead.measure.sample_metrics import shares_at_limits
from fairlead.measure.scoring import Scoring
from fairlead.models.model import Model, Spec
from fairlead.models.resources import identities
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Precision, Sampling
from fairlead.tune.budget import Budget, FinishedBatch, Outlook, Stopped, Work
from fairlead.tune.setting import Images, Point, Setting, baselines, key_of, setting_labels
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.targets import Targets, targets_for
from fairlead.tune.workers import Workers

EXAMPLES = 40
"""Images a setting that are kept for pictures."""
PROBE = 2
"""Images whose network rows are counted to estimate those of a setting."""


@dataclass(frozen=True)
class Shared:
    """What all settings of a sweep share.

    Attributes:
        n: images per setting, over all conditions.
        seed: first seed; sample i has seed + i under every setting (common random numbers).
        conds: classes; empty for every class. Each is taken as often as its share of the real images.
        prompts: what a model that reads text is asked for, in turn, without real images; empty for what held-out images
            say.
        grid, batch_size, precision: as for ``sample``.
    """

    n: int = 500
    seed: int = 0
    conds: tuple[str, ...] = ()
    grid: str = "trailing"
    batch_size: int = 64
    precision: Precision = "fp32"
    prompts: tuple[str, ...] = ()

    def sampling(self, sampler: str, steps: int) -> Sampling:
        return Sampling(sampler, steps, self.grid, self.batch_size, self.precision)


Event = Outlook | FinishedBatch | Point | Stopped


def _named(shared: Shared, model: Model) -> Shared:
    """Conditions by name; those of a model that reads text are prompts.

    Raises:
        UsageError: for what the model does not know, or prompts for a model that reads none.
    """
    prompts, conds = shared.prompts, shared.conds
    if conds and model.condition_kind != "label":
        if "text" not in model.conditions:
            raise UsageError(
                "sweep: this model is conditioned on more than a label, and samples the captions of held-out images; "
                f"leave the condition {conds[0]!r} out"
            )
        prompts, conds = conds, ()
    if prompts:
        check_prompted(model)
    named = [tuple(str(model.named(spec)) for spec in specs) for specs in (conds, prompts)]
    return replace(shared, conds=named[0], prompts=named[1])


def pictured(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` samples for pictures: the first of every class in the order of labels, the second, ..."""
    rank = torch.zeros_like(labels)
    for label in set(labels.tolist()):
        mine = labels == label
        rank[mine] = torch.arange(int(mine.sum()))
    return torch.argsort(rank * (int(labels.max()) + 1) + labels)[:count]


def _made(plan: Plan, batch: slice) -> Images:
    """Sample one batch of a plan and keep what scoring needs.

    Raises:
        UsageError: if samples are not finite, or the model's samples are not images.
    """
    began = time.perf_counter()
    with counting() as cost:
        for frame in plan.frames(batch):
            x0 = frame.x_t
    with torch.no_grad():
        decoded = plan.model.decode(x0.float().cpu())
    if decoded.ndim != 4:
        raise UsageError("a sweep measures images, and this model's samples are not images")
    return Images(to_uint8(decoded), shares_at_limits(decoded), cost.rows, time.perf_counter() - began)


class Sweep:
    """Settings that have been checked, and how to measure them.

    Args:
        settings: from ``all_settings``.
        shared: what they share.
        load: checkpoint -> model; called again for every checkpoint when its turn comes, so that one is in memory.
        called: the name by which the user gave ``shared.n``.

    Raises:
        UsageError: for anything that cannot be sampled, or not be scored because there are too few images; before any
            network call.
    """

    def __init__(
        self, settings: Sequence[Setting], shared: Shared, load: Callable[[str], Model], called: str = "n"
    ) -> None:
        self.shared, self._load = shared, load
        self._held: tuple[str, Model] | None = None
        self._resources: dict[tuple[str, str], Any] = {}
        self.models: dict[str, Mapping[str, Any]] = {}
        self.keys: dict[Setting, str] = {}
        first: Model | None = None
        for checkpoint in dict.fromkeys(setting.checkpoint for setting in settings):
            model = self._model(checkpoint)
            self._fits(checkpoint, model, first)
            first = first or model
            self.models[checkpoint] = dict(model.metadata)
            if model is first:
                self.shared = shared = _named(shared, model)
            some = shared.prompts or shared.conds or model.classes or model.examples or (None,)
            # to check everything early; the real ones follow the reference
            taken = [some[i % len(some)] for i in range(shared.n)]
            for setting in settings:
                if setting.checkpoint == checkpoint:
                    written = to_guidance(setting.guidance)
                    if (guidance := written.by_name(model.named)) != written:
                        setting = replace(setting, guidance=str(guidance))
                    weights = str(model.metadata.get("weights_hash") or checkpoint)
                    self.keys[setting] = key_of(weights, setting, identities(self._plan(setting, taken).resources))
        if first is None:
            raise UsageError("sweep: nothing to measure; give at least one setting")
        self.first = first
        """The model of the first checkpoint; all others have the same conditions and give images of the same shape."""
        self._asked: Targets | None = None
        self.labels: list[int] = []
        """Of the conditions that were chosen, to compare with real images of these; empty for all."""
        self._check_n(called)
        if shared.conds:
            self.labels = sorted(set(first.encode(shared.conds).values["label"].tolist()))
        twice = [setting for setting, key in self.keys.items() if list(self.keys.values()).count(key) > 1]
        if twice:
            checkpoints = " and ".join(dict.fromkeys(setting.checkpoint for setting in twice))
            raise UsageError(f"sweep: {checkpoints} are the same weights and would be measured twice; give each once")

    def _check_n(self, called: str) -> None:
        """Raise UsageError if n (by the name ``called``) is less than 3 of every condition, shared evenly.

        What classes that are rarer get is said by ``rare_said``.
        """
        kinds, n = 1, self.shared.n
        if self.first.condition_kind == "label" and not self.shared.prompts:
            some = list(self.shared.conds or self.first.classes or self.first.examples)
            kinds = len(counts(self.first.encode(some).values["label"])) if some else 1
        least = max(FEWEST, OF_A_CLASS * kinds)
        if n < least:
            over = "" if kinds == 1 else f" over {kinds} conditions"
            more = "" if kinds == 1 else f", {OF_A_CLASS} of every condition"
            raise UsageError(
                f"sweep: {called} = {n} images{over} are too few to score; expected at least {least}{more}"
            )

    def described(self) -> dict[str, Any]:
        """What a folder must share for this sweep to go on there."""
        found = asdict(self.shared)
        return found if self.shared.prompts else {name: what for name, what in found.items() if name != "prompts"}

    def measure(
        self,
        folder: SweepFolder,
        evaluator: Scoring | None,
        *,
        command: str = "",
        budget: Budget | None = None,
        keep_images: bool = False,
        workers: Workers | None = None,
    ) -> Iterator[Event]:
        """Do what is not stored in ``folder`` yet, as a stream of events: an :class:`Outlook`, then a
        :class:`FinishedBatch` for each batch, a ``Point`` for each setting scored, and
        :class:`Stopped` where the budget ends it.

        Args:
            evaluator: scores; only the main process needs one.
            command: kept with the results.
            budget: what this start may spend. The settings are measured in their order, each baseline before what is
                compared with it, and none is begun that the budget does not cover.
            keep_images: store all images of each setting.
            workers: this process among those that share the work.

        Raises:
            UsageError: if the folder holds another kind of sweep, another sweep works in it, or it cannot be written;
                if the budget covers nothing; at the first step whose samples are not finite.
        """
        check_folder(folder.folder, "choose another folder")
        workers = workers or Workers()
        with Hold(folder.folder) if workers.main else nullcontext():
            yield from self._events(folder, evaluator, command, budget, keep_images, workers)

    def _events(
        self,
        folder: SweepFolder,
        evaluator: Scoring | None,
        command: str,
        budget: Budget | None,
        keep_images: bool,
        workers: Workers,
    ) -> Iterator[Event]:
        began = time.perf_counter()
        conds: list[Spec] = workers.share(self._open(folder, evaluator, command) if workers.main else None)
        order = sorted(self.keys, key=lambda setting: setting not in baselines(list(self.keys)).values())
        order = [setting for c in self.models for setting in order if setting.checkpoint == c]  # a model at a time
        sizes = [part.stop - part.start for part in self._parts()]
        measured = folder.measured()
        todo: list[Setting] = workers.share([s for s in order if self.keys[s] not in measured])
        self._probe(folder, todo, conds, workers)
        rows = {setting: folder.rows(self.keys[setting]) or 0.0 for setting in todo}
        # what the main process sees before any other may write
        missing: dict[Setting, list[int]] = workers.share(
            {s: [i for i in range(len(sizes)) if not folder.has_batch(self.keys[s], i)] for s in todo}
        )

        def work(setting: Setting) -> Work:
            images = sum(sizes[i] for i in missing[setting])
            return Work(images, images * rows[setting])

        pieces = [work(setting) for setting in todo]
        covered = len(todo) if budget is None else budget.first(pieces)
        if todo and not covered:
            raise UsageError(f"the budget of {budget} is less than the first setting needs: {pieces[0]}")
        left, now = sum(pieces, Work()), sum(pieces[:covered], Work())
        floor, labels = folder.floor, dict(zip(self.keys, setting_labels(list(self.keys)), strict=True))
        assert floor is not None  # of every folder that is open
        yield Outlook(
            len(order), len(order) - len(todo), left, now, len(todo) - covered, labels, floor, budget, workers.count
        )

        mine = [(s, i) for s in todo[:covered] for i in missing[s]][workers.index :: workers.count]
        waiting: list[Setting] = []
        done, spent = Work(), 0.0
        for place, setting in enumerate(todo[:covered]):
            if budget is not None and budget.unit == "minutes" and place:
                pace = spent / done.rows if done.rows else 0.0
                late = time.perf_counter() - began + pace * pieces[place].rows / workers.count > 60 * budget.amount
                if workers.share(late):
                    covered = place
                    break
            waiting.append(setting)
            started = time.perf_counter()
            plan = self._plan(setting, conds) if any(s == setting for s, _ in mine) else None
            for index in (i for s, i in mine if s == setting):
                assert plan is not None
                made = _made(plan, self._parts()[index])
                folder.add_batch(self.keys[setting], index, made)
                done = done + Work(sizes[index], made.rows)
                yield FinishedBatch(setting, Work(sizes[index], made.rows))
            spent += time.perf_counter() - started
            if workers.main:
                yield from self._score(folder, evaluator, waiting, keep_images, skip=workers.count > 1)
        while workers.main and waiting:  # for the batches of the others
            time.sleep(0.1)
            yield from self._score(folder, evaluator, waiting, keep_images, skip=workers.count > 1)
        if covered < len(todo):
            yield Stopped(len(todo) - covered, sum(pieces[covered:], Work()))

    def _open(self, folder: SweepFolder, evaluator: Scoring | None, command: str) -> list[Spec]:
        """The condition of every sample; the folder then knows the sweep."""
        if evaluator is None:
            raise UsageError("sweep: the main process needs an evaluator")
        self._asked = asked = targets_for(self.first, evaluator, self.shared.n)
        shown = sorted(set(asked.labels.tolist()))
        prompts = [str(asked.conds[i]) for i in pictured(asked.labels, EXAMPLES).tolist()]
        floor = folder.floor or evaluator.floor(self.shared.n, asked.left_out)
        folder.open(
            self.described(),
            {
                **evaluator.described(),
                "fairlead": fairlead.__version__,
                **dict.fromkeys(by_name(self.first), True),
            },
            self.models,
            {key: setting for setting, key in self.keys.items()},
            [asked.names[label] for label in shown],
            [] if self.first.condition_kind == "label" else prompts,
            evaluator.moments,
            floor,
            command,
            asked.notes,
        )
        return list(asked.conds)

    def _probe(self, folder: SweepFolder, settings: Sequence[Setting], conds: Sequence[Spec], workers: Workers) -> None:
        """Count the network rows of a few images under each setting, once."""
        unknown: list[Setting] = workers.share([s for s in settings if folder.rows(self.keys[s]) is None])
        for setting in unknown[workers.index :: workers.count]:
            count = min(PROBE, self.shared.n)
            made = _made(self._plan(setting, conds), slice(0, count))
            folder.set_rows(self.keys[setting], made.rows / count)
        workers.wait()

    def _score(
        self,
        folder: SweepFolder,
        evaluator: Scoring | None,
        waiting: list[Setting],
        keep_images: bool,
        skip: bool,
    ) -> Iterator[Point]:
        """Score those that are waiting and take them off the list; ``skip`` those that others still work on."""
        assert evaluator is not None
        assert self._asked is not None
        n, count, asked = self.shared.n, len(self._parts()), self._asked
        for setting in list(waiting):
            key = self.keys[setting]
            if skip and not all(folder.has_batch(key, i) for i in range(count)):
                continue
            made = folder.batches(key, count)
            floor = folder.floor
            score = evaluator.score(
                made.images,
                asked.labels,
                None,
                range(self.shared.seed, self.shared.seed + n),
                block=min(n, floor.n if floor else n),
                saturation=made.saturation,
                asked=asked.attributes,
                left_out=asked.left_out,
                conds=asked.conds,
            )
            waiting.remove(setting)
            yield folder.add(key, score, made, made.images[pictured(asked.labels, EXAMPLES)], keep_images)

    def _parts(self) -> list[slice]:
        n, size = self.shared.n, self.shared.batch_size
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _model(self, checkpoint: str) -> Model:
        if self._held is None or self._held[0] != checkpoint:
            self._held, self._resources = None, {}
            self._held = checkpoint, self._load(checkpoint)
        return self._held[1]

    def _plan(self, setting: Setting, conds: Sequence[Spec]) -> Plan:
        model, shared = self._model(setting.checkpoint), self.shared
        guidance = to_guidance(setting.guidance)
        wanted = [(resource.kind, resource.name) for resource in guidance.resources()]
        plan = Plan.of(
            model,
            conds,
            guidance,
            shared.sampling(setting.sampler, setting.steps),
            seeds=range(shared.seed, shared.seed + shared.n),
            resources={name: self._resources[kind, name] for kind, name in wanted if (kind, name) in self._resources},
        )
        self._resources.update({(kind, name): plan.resources[name] for kind, name in wanted})
        return plan

    def _fits(self, checkpoint: str, model: Model, first: Model | None) -> None:
        if not model.conditional:
            raise UsageError("a sweep scores how well images follow their condition, and this model is unconditional")
        if len(model.image_shape) != 3:
            raise UsageError(f"a sweep measures images, and this model's samples are {list(model.image_shape)}")
        for what in ("conditions", "classes", "shape"):
            mine, theirs = getattr(model, what), getattr(first or model, what)
            if mine != theirs and not (what == "classes" and same_names(mine, theirs)):
                raise UsageError(
                    f"sweep: checkpoint {checkpoint!r} has {what} {list(mine)}, the first one {list(theirs)}; they "
                    "must agree, as all are measured against the same images"
                )
