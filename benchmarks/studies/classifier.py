"""Classifier guidance against classifier-free guidance."""

from __future__ import annotations

import time

import fairlead as fl
from benchmarks.studies.models import BASE, Variant
from benchmarks.studies.plots import dots
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores, table

UNCONDITIONAL = Variant("unconditional", train={"drop": 1.0})
CLASSIFIER = Variant("classifier", classifier=True)
WAYS = {
    "conditional alone": (BASE, "cfg({w})", (1.0,)),
    "classifier-free": (BASE, "cfg({w})", (1.1, 1.25, 1.5, 2.0, 5.0)),
    "unconditional + classifier": (
        UNCONDITIONAL, 'cfg(0) + classifier({w}, "{{classifier}}")', (1.0, 2.0, 4.0, 8.0, 32.0),
    ),
    "conditional + classifier": (BASE, 'classifier({w}, "{{classifier}}")', (0.25, 0.5, 1.0, 2.0, 4.0)),
    "unconditional + classifier at sigma < 3": (
        UNCONDITIONAL, 'cfg(0) + classifier({w}, "{{classifier}}").during(sigma=(0, 3))', (1.0, 2.0, 4.0),
    ),
    "conditional + classifier at sigma < 3": (
        BASE, 'classifier({w}, "{{classifier}}").during(sigma=(0, 3))', (0.5, 1.0, 2.0),
    ),
}  # fmt: skip


def case(name: str, variant: Variant, template: str, w: float) -> Case:
    return Case(variant, template.format(w=f"{w:g}"), label=f"{name}, {w:g}")


def seconds(bench: Bench, one: Case, images: int = 128) -> float:
    """Processor milliseconds an image."""
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
    free = found.lowest(ways["classifier-free"])
    best = [found.lowest(row) for row in ways.values()]
    times = [[one.name, f"{found.rows(one):g}", f"{seconds(bench, one):.1f}"] for one in best]
    return [
        dots("classifier", found, ways, "distance and accuracy of four ways to steer, by scale"),
        protocol(
            found,
            "Every training has its own unconditional model (the same network, condition always dropped) and its own "
            "classifier of noisy images (500 steps, a fifth of the time). The number after a way is its scale.",
        ),
        scores(found, every, dict.fromkeys(every, free), cost=False),
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
