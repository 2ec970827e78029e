"""Our recipe against the lesson's on digits: distance, accuracy and cost of an image, from one run.

    python -m benchmarks.lesson --out runs/lesson
    python -m benchmarks.lesson --data ../shared/data/mnist --n 200 --lesson-scales 1.5 \
        --one-row 6 5 4 3 --students 4 2 1 --out runs/lesson-mnist

Both networks are trained here (ours by the recipe "digits" or "mnist", as the images are 8x8 or 28x28; theirs by
"lesson-mnist" with the same wall time unless --lesson-steps says otherwise), sampled with the same seeds and scored
under one protocol: theirs with 1,000 DDPM steps and two separate calls per step, ours with 20 and fewer steps. With
--one-row also by a student of ours at its best scale, which needs no second row, and with --students by students of few
steps. The scale of each is its own best. What is trained in --out already is not trained again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import cached_classifier
from fairlead.measure.references import shared_out
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.nets.build import net_config
from fairlead.report.trainings.distilling import distill
from fairlead.sample.run import sample
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.config import RECIPES, TrainConfig
from fairlead.train.loop import Training


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    out: Path = Path("runs/lesson")
    data: str = "digits"
    """digits, mnist, or a folder of either."""
    lesson_steps: int | None = None
    """Training steps of the lesson's recipe; as many as fit into the time that ours took, if not given."""
    n: int = 359
    """Images a setting."""
    seed: int = 0
    lesson_scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    scales: tuple[float, ...] = (1.0, 1.25, 1.5)
    steps: tuple[int, ...] = (20, 10, 8, 5)
    one_row: tuple[int, ...] = ()
    """Steps in which a student of ours samples, at one row each."""
    grids: tuple[str, ...] = ()
    """Grids in which that student samples too, each in its own number of steps: "sigmas(3.83, 1.58, 0.0986)" has 4."""
    students: tuple[int, ...] = ()
    """Steps of students of ours that are taught so many."""
    sampler: str = "dpmpp_2m_sde"
    one_row_sampler: str = "dpmpp_3m"


def trained(recipe: str, data: ImageData, out: Path, steps: int | None = None) -> tuple[Model, float, int]:
    """(model, seconds of training in all runs, steps)."""
    settings = dict(RECIPES[recipe].train)
    config = TrainConfig(net_config(RECIPES[recipe].net, data.shape[0], data.shape[1], len(data.classes)), **settings)
    config = replace(config, steps=steps or config.steps)
    taken = Taken(out)
    with taken:
        for _ in Training(data, config, out, resume=True).run():
            pass
    return load(out, weights="raw" if config.ema == 0 else "ema"), taken.seconds, config.steps


class Taken:
    """The seconds that a training took, over all runs of this command: in its folder."""

    def __init__(self, out: Path) -> None:
        self.place = out / "seconds.txt"
        self.seconds = float(self.place.read_text()) if self.place.exists() else 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.place.write_text(f"{self.seconds:.1f}")


def begun(out: Path) -> int | None:
    """The steps of a training that an earlier run of this command began."""
    return int(find_checkpoint(out).about["train"]["steps"]) if list(out.glob("step-*")) else None


def speed(recipe: str, data: ImageData) -> float:
    """Seconds a training step takes."""
    settings = {**RECIPES[recipe].train, "steps": 30}
    net = net_config(RECIPES[recipe].net, data.shape[0], data.shape[1], len(data.classes))
    times = []
    for _ in Training(data, TrainConfig(net, **settings), None).run():
        times.append(time.perf_counter())
    return (times[-1] - times[9]) / (len(times) - 10)


def taught(options: Options, data: ImageData, name: str, guidance: str, steps_to: int | None = None) -> Model:
    """A student of ours."""
    out = options.out / name
    taken = Taken(out)
    with taken:
        distill(options.out / "ours", out, guidance=guidance, steps_to=steps_to, data=data, resume=True)
    print(f"{name}: {taken.seconds:.0f} s")
    return load(out)


def main(options: Options) -> None:
    train, test = load_data(options.data), load_data(options.data, "test")
    evaluator = Evaluator(train, test, cached_classifier(train, "judge"), cached_classifier(train, "features"))
    floor = evaluator.floor(options.n)
    conds = shared_out(train.classes, train.labels, options.n)
    recipe = "digits" if train.shape[1] < 16 else "mnist"
    ours, seconds, steps = trained(recipe, train, options.out / "ours")
    print(f"ours, recipe {recipe}: {steps} steps, {seconds:.0f} s")
    lesson_steps = options.lesson_steps or begun(options.out / "lesson")
    lesson_steps = lesson_steps or max(100, int(seconds / speed("lesson-mnist", train)))
    lesson, seconds, steps = trained("lesson-mnist", train, options.out / "lesson", lesson_steps)
    print(f"lesson: {steps} steps, {seconds:.0f} s")
    print(f"real images, N = {floor.n}: raw distance {floor.metrics['distance']}, accuracy {floor.metrics['accuracy']}")

    def measured(model: Model, scale: float | None, name: str, **how: object) -> tuple[Score, float]:
        guidance = "none" if scale is None else f"cfg({scale:g})"
        run = sample(model, conds, guidance=guidance, seeds=options.seed, **how)  # type: ignore[arg-type]
        assert run.images is not None
        score = evaluator.score(run.images, run.condition.values["label"], run.x0, run.seeds)
        each = 1000 * run.seconds / options.n
        print(
            f"{name:<28} {guidance:<9} raw distance {score.metrics['distance']}  "
            f"accuracy {score.metrics['accuracy']}  "
            f"{run.cost.rows / options.n:5.0f} rows  {each:8.2f} ms per image",
            flush=True,
        )
        return score, each

    theirs = [
        measured(lesson, s, "lesson, DDPM 1000", sampler="ddpm", steps=1000, grid="leading", batching="sequential")
        for s in options.lesson_scales
    ]
    their_score, their_ms = min(theirs, key=lambda pair: pair[0].metrics["distance"].value)
    scales = {s: measured(ours, s, f"ours, {options.sampler} 20", sampler=options.sampler) for s in options.scales}
    best = min(scales, key=lambda s: scales[s][0].metrics["distance"].value)
    print(f"\nours at cfg({best:g}) against the lesson's best, paired over seeds where both are scored alike:")
    found = {
        f"ours, {options.sampler} {k}": measured(
            ours, best, f"ours, {options.sampler} {k}", sampler=options.sampler, steps=k
        )
        for k in options.steps
    }
    guidance = f"cfg({best:g})"
    if options.one_row or options.grids:
        student = taught(options, train, "student", guidance)
        for k in options.one_row:
            name = f"student, {options.one_row_sampler} {k}"
            found[name] = measured(student, None, name, sampler=options.one_row_sampler, steps=k)
        for grid in options.grids:
            name = f"student, {grid}"
            steps = grid.count(",") + 2
            found[name] = measured(student, None, name, sampler=options.one_row_sampler, steps=steps, grid=grid)
    for k in options.students:
        student = taught(options, train, f"student-{k}", guidance, k)
        found[f"student of {k}, ddim {k}"] = measured(student, None, f"student of {k}, ddim {k}", steps=k)
    for name, (score, each) in found.items():
        difference = score.compare(their_score)["distance"]
        print(f"  {name:<28} {their_ms / each:6.0f} times less time an image; raw distance minus theirs: {difference}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
