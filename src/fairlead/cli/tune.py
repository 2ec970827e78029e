"""``fairlead tune``"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder, is_folder
from fairlead.core.progress import Bar, working
from fairlead.core.registry import names
from fairlead.core.signals import unbroken

if TYPE_CHECKING:
    from fairlead.measure.evaluate import Evaluator
    from fairlead.models.model import Model
    from fairlead.tune.sweep import Shared
    from fairlead.tune.sweep import Sweep as Measuring
    from fairlead.tune.tuning import Tuned

METRICS = ("distance_debiased", "accuracy", "confidence", "saturation")
"""Of every model; agreement comes to them where a model is told more than a label."""


@dataclass(frozen=True)
class Tune:
    """Find the guidance for this model: search a range on common noise, report what is on the front on fresh noise.

    One open number is found by a grid that is refined only where settings cannot be told apart, with an interval of the
    best place; several by halving (pip install 'fairlead[tune]'). Recommended is the best setting that satisfies the
    constraints, and of those that cannot be told from it the cheapest. The same command goes on where it was stopped.

    Example: fairlead tune runs/digits --budget 10000 --constraint "accuracy >= 0.99" --out runs/digits/tune
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, a checkpoint folder, or a diffusers pipeline (with --data)."""
    out: Path
    """Folder for everything measured; the answer is also written to RUN/tuned.json, for `sample --guidance tuned`,
    beside those for other objectives, constraints, samplers, ..."""
    guidance: str = "cfg({scale})"
    """An expression with the numbers to be found in braces: cfg({scale}).during(sigma=({low}, {high}))."""
    range: tuple[str, ...] = ()
    """NAME=LOW:HIGH for every open number; scale=1:8 if it is not given."""
    budget: int = 10000
    """Images of the search."""
    objective: str = "distance_debiased"
    """distance_debiased (without the bias of few images), accuracy, confidence, saturation, or for text models of
    scenes agreement (with all that the prompt says) or agreement_ink, ...; distance_debiased and saturation are to be
    low, the others high."""
    constraint: tuple[str, ...] = ()
    """What a recommended setting must satisfy: "accuracy >= 0.99", "agreement >= 0.9", "distance_debiased <= 3",
    "rows_per_step <= 1.5"."""
    report: int = 1000
    """Images of each reported setting, on seeds that the search has not seen; 0 for no report."""
    sampler: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    seed: int = 0
    """First seed of the search; the report begins at 1,000,000 more."""
    batch_size: int = 64
    """Images denoised together, and stored together."""
    precision: str = "fp32"
    """fp32 or bf16."""
    data: str | None = None
    """Where the images are, if not where they were in training."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        check_folder(self.out, files=["tuned.json"])
        with Hold(self.out), _going_on(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.cli.options import evaluator_for
        from fairlead.measure.agreement import AGREEMENT
        from fairlead.measure.metrics import check_distance, maximised
        from fairlead.models.load import load
        from fairlead.report.tune import front_lines, summary
        from fairlead.tune.measurer import Measurer
        from fairlead.tune.objective import Objective
        from fairlead.tune.store import SweepFolder
        from fairlead.tune.sweep import Shared
        from fairlead.tune.template import Template
        from fairlead.tune.tuning import (
            REPORT_SEED,
            check_search,
            parse_constraints,
            read_answers,
            save,
            tune,
        )

        check_distance(self.objective, f"--objective {self.objective!r}")
        if self.objective not in (*METRICS, *AGREEMENT):
            raise UsageError(
                f"--objective {self.objective!r}: expected one of {', '.join((*METRICS, next(iter(AGREEMENT))))}"
            )
        if self.budget < 1 or self.report < 0:
            raise UsageError(f"--budget and --report: expected numbers of images, got {self.budget} and {self.report}")
        template = Template.of(self.guidance, self.range)
        check_search(template, self.budget)
        constraints = parse_constraints(self.constraint, self.steps, (*METRICS, *AGREEMENT))
        metric = self.objective
        objective = Objective(metric, maximised(metric))
        beside = self._kept()
        with working(f"loading {self.model}"):
            model = load(self.model, device=self.device)
        if not model.conditional:
            raise UsageError("tune measures how well images follow their condition, and this model is unconditional")
        template = template.named(model.named)
        shared = Shared(
            self.budget, self.seed, (), self.grid, self.batch_size,
            self.precision,  # type: ignore[arg-type]  # planning refuses others
        )  # fmt: skip
        wanted = [name for name in (self.objective, *(rule.metric for rule in constraints)) if name in AGREEMENT]
        if wanted and model.told == "label":
            raise UsageError(
                f"{wanted[0]}: this model is told a label only, whose agreement is accuracy; write e.g. accuracy >= 0.9"
            )
        places = [self.out / "tuned.json", *([] if beside is None else [beside / "tuned.json"])]
        for path in (*places, self.out / "report" / "tuned.json"):
            if path.is_file():
                read_answers(path)  # a damaged one is refused before the search, not after it
        if self.report:
            SweepFolder(self.out / "report").check(self._sweep(model, load).described())
        evaluator = evaluator_for(self.model, self.data, (), model, (self.report,) if self.report else ())
        check_judged(wanted, evaluator)
        question = self._question(model, evaluator, shared)
        with Bar(self.budget, "image") as bar:
            measurer = Measurer(
                model,
                evaluator,
                template,
                shared,
                self.sampler,
                self.steps,
                self.out / "searched" / question,
                bar.update,
            )
            tuned = tune(
                measurer, evaluator.moments, template, budget=self.budget, objective=objective,
                constraints=constraints, seed=self.seed,
            )  # fmt: skip
        print("\n".join([summary(tuned, template, metric), "", *front_lines(tuned), ""]))
        about: dict[str, Any] = {
            "model": self.model,
            "sampler": self.sampler,
            "steps": self.steps,
            "grid": self.grid,
            "precision": self.precision,
            "objective": metric,
            "constraints": list(self.constraint),
            "template": template.text,
            "ranges": {name: [knob.low, knob.high] for name, knob in template.knobs.items()},
            "seeds": [self.seed, REPORT_SEED + self.seed],
            "weights": model.metadata.get("weights_hash"),
            **evaluator.described(),
            "command": f"fairlead {shlex.join(sys.argv[1:])}",
        }
        with unbroken():
            for path in places:
                save(path, tuned, about)
        if self.report:
            self._report(tuned, evaluator, model, load, about)
        found = shlex.quote(tuned.guidance)
        if beside is not None:
            answers = read_answers(places[-1])
            found = "tuned" if len(answers) == 1 else f"tuned:{answers[0]['key']}"
        cond = "all" if model.classes else shlex.quote(str(model.examples[0]))
        print(
            f"take it: fairlead sample {self.model} --guidance {found} --sampler {shlex.quote(self.sampler)} "
            f"--steps {self.steps} --cond {cond} --out samples"
        )

    def _kept(self) -> Path | None:
        """The folder where the answer is kept for ``--guidance tuned``: the model's own; None where it cannot be."""
        from fairlead.models.load import is_pipeline
        from fairlead.tune.tuning import folder_of

        if is_pipeline(self.model) and not is_folder(self.model):
            return None
        folder = folder_of(self.model)
        try:
            check_folder(folder, files=["tuned.json"])
        except UsageError:
            only = self.out / "tuned.json"
            print(f"{folder} cannot be written, so the answer is kept in {only} only", file=sys.stderr)
            return None
        return folder

    def _question(self, model: Model, evaluator: Evaluator, shared: Shared) -> str:
        """A short hash of everything but the setting and the seed that decides a batch."""
        import hashlib
        import json

        from fairlead.tune.asked import by_name

        asked = [
            str(model.metadata.get("weights_hash") or self.model),
            self.sampler,
            self.steps,
            shared.grid,
            shared.precision,
            evaluator.described(),
            *by_name(model),
        ]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]

    def _sweep(self, model: Model, load: Callable[..., Model], guidances: Sequence[str] = ("none",)) -> Measuring:
        """Of the settings that are reported; with none of them yet, it refuses what could not be."""
        from fairlead.tune.setting import all_settings
        from fairlead.tune.sweep import Shared
        from fairlead.tune.sweep import Sweep as Measuring
        from fairlead.tune.tuning import REPORT_SEED

        shared = Shared(
            self.report, REPORT_SEED + self.seed, (), self.grid, self.batch_size,
            self.precision,  # type: ignore[arg-type]
        )  # fmt: skip
        loaded = [model]  # the first time it is there already

        def again(name: str) -> Model:
            return loaded.pop() if loaded else load(name, device=self.device)

        return Measuring(all_settings([self.model], guidances, [self.sampler], [self.steps]), shared, again, "--report")

    def _report(
        self, tuned: Tuned, evaluator: Evaluator, model: Model, load: Callable[..., Model], about: Mapping[str, Any]
    ) -> None:
        from fairlead.cli.report import write_report
        from fairlead.cli.sweep import measure_with_progress
        from fairlead.tune.store import SweepFolder
        from fairlead.tune.tuning import save

        folder = SweepFolder(self.out / "report")
        measure_with_progress(self._sweep(model, load, tuned.reported()), folder, evaluator)
        save(folder.folder / "tuned.json", tuned, about)
        path, _ = write_report(folder.folder)
        print(f"report: {path}")


@contextmanager
def _going_on(out: Path) -> Iterator[None]:
    """An interruption says what is kept, where something is."""
    try:
        yield
    except KeyboardInterrupt:
        if any(out.glob("searched/*/*.safetensors")):
            print(f"finished batches are in {out}; the same command goes on", file=sys.stderr)
        raise


def check_judged(wanted: Sequence[str], evaluator: Evaluator) -> None:
    """Raise UsageError for a metric of agreement that the evaluator does not measure."""
    from fairlead.measure.agreement import metric_of

    known = [metric_of(name) for name in evaluator.attributes.real] if evaluator.attributes is not None else []
    for name in wanted:
        if name not in known:
            has = f"known here: {', '.join(known)}" if known else "its attributes must be known, as those of scenes are"
            raise UsageError(f"{name}: cannot be judged on data {evaluator.reference.name!r} ({has})")
