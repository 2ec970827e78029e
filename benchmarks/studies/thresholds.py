"""What may be done about a prediction that a high scale drives out of the data's range."""

from __future__ import annotations

from benchmarks.studies.models import BASE
from benchmarks.studies.plots import dots
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores, table
from fairlead.measure.metrics import percent

SCALES = (5.0, 10.0, 20.0)
FINISHERS = {
    "nothing": "",
    "static clip": " | clip()",
    "dynamic, 0.995": " | threshold(0.995)",
    "dynamic, 0.9": " | threshold(0.9)",
    "rescale, 0.7": " | rescale(0.7)",
    "rescale, then clip": " | rescale(0.7) | clip()",
}


def run(bench: Bench) -> list[Block]:
    at = {w: [Case(BASE, f"cfg({w:g}){text}", "ddim", 20, name) for name, text in FINISHERS.items()] for w in SCALES}
    low = Case(BASE, "cfg(1.5)", "ddim", 20, "scale 1.5, nothing")
    found = bench.measure("thresholds", [low, *(case for row in at.values() for case in row)])
    groups = {"": [low], **{f"scale {w:g}": row for w, row in at.items()}}
    parts: list[Block] = [
        dots("thresholds", found, groups, "distance and accuracy of what finishes the prediction at a high scale"),
        protocol(found),
    ]
    for w, row in at.items():
        against = {**dict.fromkeys(row, row[0]), low: low}
        parts += [f"### Scale {w:g}", scores(found, [*row, low], against, cost=False)]
    every = [low, *(case for row in at.values() for case in row)]
    real = found.floor.metrics["saturation"]
    rows = [[case.guidance, percent(found.estimate(case, "saturation"))] for case in every]
    parts += [
        "### Share of pixels at or beyond the limits",
        "Before rounding to 8 bits; many pixels of real digits are at the lower limit.",
        table(
            ["setting", "saturated"], [[f"`{name}`", value] for name, value in rows] + [["real images", percent(real)]]
        ),
    ]
    return parts


STUDY = Study(
    "thresholds",
    "Does thresholding help at high scales?",
    "a high scale drives the prediction out of the data's range; static clipping loses what was beyond and saturates, "
    "dynamic thresholding keeps the direction and avoids the artefacts.",
    run,
)
