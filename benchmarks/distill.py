"""A student of cfg over a range of scales against its teacher: distance, accuracy and rows at five scales, paired over
seeds; and few steps, of that student and of students that are taught so many, against the teacher's twenty.

Where few steps begin is searched (``--trials``): sampler, noise levels and scale, by optuna on seeds of their own. Few
steps lose variety, which a lower scale gives back.

    python -m benchmarks.distill runs/mnist --data ../shared/data/mnist --out runs/distill-mnist

The students are trained where they are missing, with their time; ``--steps`` are their optimiser steps. Labels and
seeds are the same for all. Every line of a student ends with the differences to its teacher's distance and accuracy at
the same scale, with their paired standard errors, or with those to the teacher's 20 steps at ``--few-scale``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import optuna
import tyro

from fairlead.core.progress import bars
from fairlead.measure.references import evaluator_for, shared_out
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.report.trainings.distilling import distill
from fairlead.sample.run import sample

SEED, SEARCH_SEED = 600_000, 700_000


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    run: Annotated[str, tyro.conf.Positional]
    """A training run, or RUN@step500."""
    out: Path = Path("runs/distill-mnist")
    data: str | None = None
    """Where the images are, if not where they were in training."""
    range: str = "scale=1:3"
    """Of the student."""
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    few: tuple[int, ...] = (4, 2, 1)
    """Steps of the students that are taught so many."""
    solvers: tuple[str, ...] = ("dpmpp_2m_sde", "dpmpp_2m", "dpmpp_3m")
    """Samplers of the student of all scales in few steps."""
    solver_steps: tuple[int, ...] = (8, 6, 5, 4)
    """Of each of these samplers."""
    searched: tuple[int, ...] = (4,)
    """Numbers of steps for which sampler, noise levels and scale are searched."""
    trials: int = 60
    """Of a search, each of ``search_n`` images; 0 searches nothing."""
    search_n: int = 1000
    few_scale: float = 1.2
    """Of the teacher's guidance that these are taught, such as the one that tune recommends."""
    steps: int | None = None
    """Optimiser steps of every student; a quarter of the teacher's, if not given."""
    n: int = 2000
    """Images of a setting."""
    sampler: str = "dpmpp_2m_sde"
    sampler_steps: int = 20
    batch_size: int = 128


class Compared:
    """The teacher, its students, and one measure for all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.teacher = load(options.run)
        self.evaluator = evaluator_for(options.run, options.data, model=self.teacher, n=[options.n])
        reference = self.evaluator.reference
        self.conds = shared_out(reference.classes, reference.labels, options.n)

    def student(self, name: str, guidance: str, range: str = "", steps_to: int | None = None) -> Model:
        began, out = time.perf_counter(), self.options.out / name
        done = distill(
            self.options.run, out, guidance=guidance, range=range, steps_to=steps_to, data=self.options.data,
            steps=self.options.steps, resume=True, progress=bars,
        )  # fmt: skip
        print(f"{name}: {done.step} steps, {time.perf_counter() - began:.0f} s", flush=True)
        return load(out)

    def searched(self, model: Model, steps: int) -> tuple[str, str, str]:
        """(guidance, sampler, grid) with the smallest distance on the seeds of the search; levels are between 0.03 and
        30, scales from the lowest of the range to the teacher's."""
        options = self.options
        assert model.scale_range is not None
        lowest, _ = model.scale_range

        def distance(trial: optuna.Trial) -> float:
            sampler = trial.suggest_categorical("sampler", options.solvers)
            places = sorted((trial.suggest_float(str(i), 0, 1) for i in range(steps - 1)), reverse=True)
            levels = [f"{0.03 * 1000**place:.3g}" for place in places]
            grid = f"sigmas({', '.join(levels)})"
            guidance = f"distilled({trial.suggest_float('scale', lowest, options.few_scale):.3g})"
            trial.set_user_attr("found", (guidance, sampler, grid))
            if len(set(levels)) < len(levels):
                return math.inf
            run = sample(
                model, self.conds[: options.search_n], guidance=guidance, seeds=SEARCH_SEED, sampler=sampler,
                steps=steps, grid=grid, batch_size=options.batch_size,
            )  # fmt: skip
            assert run.images is not None
            score = self.evaluator.score(run.images, run.condition.values["label"], run.x0, run.seeds)
            return score.metrics["distance"].value

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=options.trials // 3))
        study.optimize(distance, options.trials)
        guidance, sampler, grid = study.best_trial.user_attrs["found"]
        return guidance, sampler, grid

    def measured(
        self,
        model: Model,
        guidance: str,
        sampler: str,
        steps: int,
        beside: Score | None = None,
        grid: str = "trailing",
    ) -> Score:
        run = sample(
            model, self.conds, guidance=guidance, seeds=SEED, sampler=sampler, steps=steps, grid=grid,
            batch_size=self.options.batch_size,
        )  # fmt: skip
        assert run.images is not None
        score = self.evaluator.score(run.images, run.condition.values["label"], run.x0, run.seeds)
        shown = [f"{name} {score.metrics[name]}" for name in ("distance", "distance_debiased", "accuracy", "diversity")]
        if beside is not None:
            apart = score.compare(beside)
            shown += ["against the teacher:", *(f"{name} {apart[name]}" for name in ("distance", "accuracy"))]
        n = self.options.n
        print(
            f"{guidance:<16} {sampler} {steps:>2} {grid}  {run.cost.rows / n:g} rows, {1000 * run.seconds / n:.2f} ms "
            f"an image  {'  '.join(shown)}",
            flush=True,
        )
        return score


def main(options: Options) -> None:
    compared, sampler, steps = Compared(options), options.sampler, options.sampler_steps
    floor = compared.evaluator.floor(options.n)
    print(f"real images, N = {floor.n}: {floor.metrics['distance']}, accuracy {floor.metrics['accuracy']}")
    student = compared.student("range", "cfg({scale})", options.range)
    for scale in options.scales:
        print(f"\nscale {scale:g}: the teacher, then the student")
        own = compared.measured(compared.teacher, f"cfg({scale:g})", sampler, steps)
        compared.measured(student, f"distilled({scale:g})", sampler, steps, own)
    guidance = f"cfg({options.few_scale:g})"
    print(f"\n{guidance}: the teacher's {steps} steps, then the student in few, then students of few")
    own = compared.measured(compared.teacher, guidance, sampler, steps)
    for solver in options.solvers:
        for count in options.solver_steps:
            compared.measured(student, f"distilled({options.few_scale:g})", solver, count, own)
    for count in options.searched if options.trials else ():
        found, solver, grid = compared.searched(student, count)
        compared.measured(student, found, solver, count, own, grid)
    for count in options.few:
        few = compared.student(f"steps-{count}", guidance, steps_to=count)
        compared.measured(few, "none", "ddim", count, own)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
