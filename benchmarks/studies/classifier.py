"""Classifier guidance against classifier-free guidance."""

from __future__ import annotations

import time

import fairlead as fl
from benchmarks.studies.models import BASE, Variant
from benchmarks.studies.plots import dots
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores, table

UNCONDITIONAL = Variant("unconditional", train={"drop": 1.0})
CLASSIFIER = Variant("classifier", classifier=True)
SCALES = (1.0, 1.25, 1.5, 2.0, 4.0)
"""Effective ones: that of ``cfg``, and of a classifier on an unconditional model."""
FREE = "classifier-free"
WAYS = {
    FREE: (BASE, "cfg({w})", SCALES),
    "unconditional + classifier": (UNCONDITIONAL, 'cfg(0) + classifier({w}, "{{classifier}}")', SCALES),
    "null token + classifier": (BASE, 'cfg(0) + classifier({w}, "{{classifier}}")', SCALES),
    "conditional + classifier": (BASE, 'classifier({w}, "{{classifier}}")', (0.25, 0.5, 1.0, 3.0)),
    "conditional + classifier at sigma < 3": (
        BASE, 'classifier({w}, "{{classifier}}").during(sigma=(0, 3))', (0.5, 1.0, 3.0),
    ),
}  # fmt: skip


def effective(case: Case) -> float:
    """The scale of ``cfg`` that would be the same on exact models; a conditional model counts the label once more."""
    way, _, w = case.label.rpartition(", ")
    return float(w) + way.startswith("conditional")


def case(name: str, variant: Variant, template: str, w: float) -> Case:
    return Case(variant, template.format(w=f"{w:g}"), label=f"{name}, {w:g}")


def seconds(bench: Bench, one: Case, images: int = 128) -> float:
    """Processor milliseconds per image."""
    model = bench.load(one.variant, bench.trainings[0])
    text = one.guidance.replace("{classifier}", str(bench.run(CLASSIFIER, bench.trainings[0])))
    labels = [i % len(model.classes) for i in range(images)]
    fl.sample(model, labels[:64], guidance=text, steps=1)
    began = time.process_time()
    fl.sample(model, labels, guidance=text, sampler=one.sampler, steps=one.steps, batch_size=128)
    return 1000 * (time.process_time() - began) / images


def run(bench: Bench) -> list[Block]:
    ways = {name: [case(name, variant, text, w) for w in values] for name, (variant, text, values) in WAYS.items()}
    every = [one for row in ways.values() for one in row]
    found = bench.measure("classifier", every)
    free = {effective(one): one for one in ways[FREE]}
    best = [found.lowest(row) for row in ways.values()]
    times = [[one.name, f"{found.rows(one):g}", f"{seconds(bench, one):.1f}"] for one in best]
    return [
        dots("classifier", found, ways, "distance and accuracy of five ways to steer, by scale"),
        protocol(
            found,
            "Every training has its own unconditional model (the same network, condition always dropped) and its own "
            "classifier of noisy images (500 steps). The number after a way is its scale; every way is compared with "
            "`cfg` at the scale that would be the same on exact models, 1 being the conditional model.",
        ),
        scores(found, every, {one: free[effective(one)] for one in every}, cost=False),
        "### Cost",
        "Processor time an image, 128 images at once, one thread; a row of the classifier has a backward pass too.",
        table(["setting", "rows", "ms"], times),
    ]


STUDY = Study(
    "classifier",
    "Classifier guidance or classifier-free guidance?",
    "classifier guidance needs a second network trained on noise, its gradient about doubles the cost of a step and "
    "can leave artefacts; classifier-free guidance is simpler and gives better samples and adherence.",
    run,
)
