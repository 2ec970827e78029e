"""Quality against diversity over the scale, and the search of the best one."""

from __future__ import annotations

import math

from benchmarks.studies.models import BASE
from benchmarks.studies.plots import over_scale
from benchmarks.studies.runner import Bench, Block, Case, Study, mean, protocol, scores, table
from fairlead.measure.metrics import percent
from fairlead.measure.two_samples import Neighbours
from fairlead.report.search_page import summary
from fairlead.tune.measurer import Measurer
from fairlead.tune.search import find_guidance
from fairlead.tune.sweep_run import Shared
from fairlead.tune.template import Template

SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0)
TUNE_SEED = 2_000_000
BUDGET = 10


def run(bench: Bench) -> list[Block]:
    cases = [Case(BASE, f"cfg({w:g})", "ddim", 20) for w in SCALES]
    found = bench.measure("tradeoff", cases)
    evaluator = bench.evaluator(BASE)
    real = Neighbours.of(evaluator.extractor.features(evaluator.reference.images))
    rows = []
    combined: dict[str, float] = {}
    for case in cases:
        near = [real.against(found.samples(case, training).features) for training in found.trainings]
        confidence, diversity = found.estimate(case, "confidence"), found.estimate(case, "diversity")
        combined[case.guidance] = math.sqrt(confidence.value * diversity.value)
        rows.append([
            f"`{case.guidance}`",
            percent(mean([one.precision for one in near])),
            percent(mean([one.recall for one in near])),
            percent(confidence),
            f"{combined[case.guidance]:.3f}",
        ])  # fmt: skip
    guided = {text: value for text, value in combined.items() if text != "cfg(0)"}
    parts: list[Block] = [
        over_scale("tradeoff", found, cases, "distance, accuracy and diversity over the scale"),
        protocol(found),
        scores(found, cases, dict.fromkeys(cases, cases[1])),
        "### Precision, recall, and the lesson's combined score",
        "Precision is the share of samples near a real image, recall the share of real images near a sample (5 "
        "neighbours, the same features). The lesson's score is the root of confidence times diversity; it is highest "
        f"at `{max(guided, key=lambda text: guided[text])}`.",
        table(["setting", "precision", "recall", "confidence", "lesson's score"], rows),
        "### The search",
        searched(bench),
    ]
    return parts


def searched(bench: Bench) -> str:
    """What ``fairlead tune`` finds for the first training."""
    template, training = Template.of("cfg({scale})"), bench.trainings[0]
    model, evaluator = bench.load(BASE, training), bench.evaluator(BASE)
    shared = Shared(n=BUDGET * bench.n, seed=TUNE_SEED, batch_size=128)
    measurer = Measurer(model, evaluator, template, shared, "ddim", 20, bench.out / "tradeoff" / "searched")
    found = find_guidance(measurer, evaluator.moments, template, budget=shared.n, seed=TUNE_SEED)
    return (
        f"`fairlead tune` on training {training}, range 1 to 8, {shared.n:,} images, seeds from {TUNE_SEED:,}: "
        f"{summary(found, template, 'distance_debiased')}"
    )


STUDY = Study(
    "tradeoff",
    "What does the scale trade, and which is best?",
    "a higher scale gains fidelity and loses diversity: precision rises, recall falls, the best FID is near 3 to 8, "
    "above 20 images saturate; the best scale can be searched for by confidence times diversity.",
    run,
)
