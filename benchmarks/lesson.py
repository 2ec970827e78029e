"""Our recipe against the lesson's on digits: distance, accuracy and cost of an image, from one run.

    python benchmarks/lesson.py --out runs/lesson
    python benchmarks/lesson.py --data mnist --n 2000 --lesson-scales 1.5 --students 4 2 1 --out runs/lesson-mnist

Both networks are trained here (ours by the recipe "digits" or "mnist", as the images are 8x8 or 28x28; theirs by
"lesson-mnist" with the same wall time unless --lesson-steps says otherwise), sampled with the same seeds and scored
under one protocol: theirs with 1,000 DDPM steps and two separate calls per step, ours with 20 and fewer steps, and with
--students by students of few steps that are distilled from ours at its best scale. The scale of each is its own best.
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
    students: tuple[int, ...] = ()
    """Steps of the students of ours, each a power of 2."""
    sampler: str = "dpmpp_2m_sde"


def trained(recipe: str, data: ImageData, out: Path, steps: int | None = None) -> tuple[Model, float, int]:
    """(model, seconds of training, steps); one that is there already is loaded."""
    settings = dict(RECIPES[recipe].train)
    config = TrainConfig(net_config(RECIPES[recipe].net, data.shape[0], data.shape[1], len(data.classes)), **settings)
    config = replace(config, steps=steps or config.steps)
    began = time.perf_counter()
    for _ in Training(data, config, out, resume=True).run():
        pass
    return load(out, weights="raw" if config.ema == 0 else "ema"), time.perf_counter() - began, config.steps


def speed(recipe: str, data: ImageData) -> float:
    """Seconds a training step takes."""
    settings = {**RECIPES[recipe].train, "steps": 30}
    net = net_config(RECIPES[recipe].net, data.shape[0], data.shape[1], len(data.classes))
    times = []
    for _ in Training(data, TrainConfig(net, **settings), None).run():
        times.append(time.perf_counter())
    return (times[-1] - times[9]) / (len(times) - 10)


def main(options: Options) -> None:
    train, test = load_data(options.data), load_data(options.data, "test")
    evaluator = Evaluator(train, test, cached_classifier(train, "judge"), cached_classifier(train, "features"))
    floor = evaluator.floor(options.n)
    conds = shared_out(train.classes, train.labels, options.n)
    recipe = "digits" if train.shape[1] < 16 else "mnist"
    ours, seconds, steps = trained(recipe, train, options.out / "ours")
    print(f"ours, recipe {recipe}: {steps} steps, {seconds:.0f} s")
    lesson_steps = options.lesson_steps or max(100, int(seconds / speed("lesson-mnist", train)))
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
    for k in options.students:
        out, began = options.out / f"student-{k}", time.perf_counter()
        distill(options.out / "ours", out, guidance=f"cfg({best:g})", steps_to=k, data=train, resume=True)
        print(f"student of {k} steps: {time.perf_counter() - began:.0f} s")
        found[f"student, ddim {k}"] = measured(load(out), None, f"student, ddim {k}", steps=k)
    for name, (score, each) in found.items():
        difference = score.compare(their_score)["distance"]
        print(f"  {name:<28} {their_ms / each:6.0f} times less time an image; raw distance minus theirs: {difference}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
