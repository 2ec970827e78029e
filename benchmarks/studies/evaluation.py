"""The lesson's full evaluation: class grid, sweep of the scale, class interpolation, averaged against raw weights."""

from __future__ import annotations

from typing import Any

from benchmarks.studies.models import BASE, Variant
from benchmarks.studies.plots import over_scale
from benchmarks.studies.runner import Bench, Block, Case, Found, Picture, Study, protocol, scores, table
from fairlead.report.interpolations import interpolate
from fairlead.report.pictures import class_grid

SCALES = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
CONSTANT = Variant("constant rate", train={"decay": "constant"})
PAIRS = (("seven", "one"), ("three", "eight"), ("four", "nine"), ("zero", "six"))
FRAMES = 9
STRIPS = 24
GRID_SEED = 10_000
HOW: dict[str, Any] = {"sampler": "dpmpp_2m", "steps": 10, "batch_size": 100}
STRIP: dict[str, Any] = {"guidance": "cfg(1.25)", "seed": GRID_SEED, **HOW}


def raw(variant: Variant) -> Variant:
    return Variant(f"{variant.name}, raw", variant.train, variant.net, weights="raw", of=variant.name)


def run(bench: Bench) -> list[Block]:
    sweep = [Case(BASE, f"cfg({w:g})") for w in SCALES]
    averaged = [Case(v, f"cfg({w:g})", label=f"{v.name}, scale {w:g}") for v in (BASE, CONSTANT) for w in (1, 2)]
    against = {
        Case(raw(v), f"cfg({w:g})", label=f"{v.name}, raw weights, scale {w:g}"): one
        for one, (v, w) in zip(averaged, [(v, w) for v in (BASE, CONSTANT) for w in (1, 2)], strict=True)
    }
    found = bench.measure("evaluation", [*sweep, *averaged, *against])
    model = bench.load(BASE, bench.trainings[0])
    grid = class_grid(model, "cfg(1.25)", rows=10, seed=GRID_SEED, title="cfg(1.25), not chosen", **HOW)
    pairs = [weight for both in zip(averaged, against, strict=True) for weight in both]
    return [
        Picture("evaluation-grid.png", grid, "ten samples of every class, a column per class"),
        protocol(found),
        "### The scale",
        over_scale("evaluation", found, sweep, "distance, accuracy and diversity over the scale"),
        scores(found, sweep, dict.fromkeys(sweep, sweep[0])),
        "Accuracy by class:",
        by_class(found, sweep, model.classes),
        "### Averaged and raw weights",
        scores(found, pairs, against, cost=False),
        "`base` lets the learning rate fall to 0 (cosine), `constant rate` does not. The average has decay 0.999.",
        "### From one class to another",
        *interpolations(bench),
    ]


def by_class(found: Found, cases: list[Case], classes: tuple[str, ...]) -> str:
    """Over all trainings together."""
    rows = []
    for case in cases:
        row = [f"`{case.guidance}`"]
        for label in range(len(classes)):
            samples = [found.samples(case, training) for training in found.trainings]
            hits = [hit for one in samples for hit in one.values["accuracy"][one.labels == label].tolist()]
            row.append(f"{100 * sum(hits) / len(hits):.0f} %")
        rows.append(row)
    return table(["setting", *classes], rows)


def interpolations(bench: Bench) -> list[Block]:
    model, evaluator = bench.load(BASE, bench.trainings[0]), bench.evaluator(BASE)
    rows: list[list[str]] = []
    pictures: list[Block] = []
    for a, b in PAIRS:
        found = interpolate(model, a, b, n=STRIPS, frames=FRAMES, **STRIP)
        shares = found.recognised(evaluator.judge)
        middle = FRAMES // 2
        rows.append([
            f"{a} to {b}",
            str(found.smoothness(evaluator.extractor)),
            str(found.smoothness()),
            *(f"{100 * shares[name][middle].value:.0f} %" for name in (a, b, "another")),
        ])  # fmt: skip
        few = interpolate(model, a, b, n=4, frames=FRAMES, **STRIP)
        pictures.append(Picture(f"evaluation-{a}-{b}.png", few.strip(), f"four strips from {a} to {b}"))
    return [
        f"`fairlead interpolate RUN --cond seven one --n {STRIPS} --frames {FRAMES} --guidance 'cfg(1.25)' "
        f"--sampler dpmpp_2m --steps 10 --seed {GRID_SEED} --out STRIP`, the first training. Smoothness is the largest "
        f"change from a frame to the next over the mean one: 1 is even, {FRAMES - 1} is one jump; ± one standard error "
        f"over {STRIPS} seeds. The last columns are what the judge sees in the middle frame.",
        table(["ends", "smoothness, features", "pixels", "first", "second", "another"], rows),
        *pictures,
    ]


STUDY = Study(
    "evaluation",
    "A full evaluation: grid, scale, interpolation, averaged weights",
    "a sweep at scales 1 to 10 shows which classes guidance helps most; interpolation of class embeddings shows "
    "whether the embedding space is smooth; the averaged weights give noticeably cleaner samples than the raw ones.",
    run,
)
