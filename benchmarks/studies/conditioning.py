"""The three ways in which a class enters the U-Net."""

from __future__ import annotations

from benchmarks.studies.models import Variant
from benchmarks.studies.plots import over_scale
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores
from fairlead.train.checkpoint import find_checkpoint

SCALES = (0, 1, 1.25, 1.5, 2)
WAYS = {
    "adaptive": Variant("adaptive", of="base"),
    "add": Variant("add", net={"conditioning": "add"}),
    "concat": Variant("concat", net={"conditioning": "concat"}),
}


def run(bench: Bench) -> list[Block]:
    at = {w: [Case(variant, f"cfg({w})", label=name) for name, variant in WAYS.items()] for w in SCALES}
    cases = [case for row in at.values() for case in row]
    found = bench.measure("conditioning", cases)
    sizes = ", ".join(
        f"{name} {find_checkpoint(bench.run(variant, bench.trainings[0])).about['parameters']:,}"
        for name, variant in WAYS.items()
    )
    parts: list[Block] = [
        over_scale("conditioning", found, cases, "distance, accuracy and diversity over the scale, a line per way"),
        protocol(found, f"Parameters: {sizes}."),
    ]
    for w, row in at.items():
        parts.append(f"### Scale {w}")
        parts.append(scores(found, row, dict.fromkeys(row, row[0]), cost=False))
    return parts


STUDY = Study(
    "conditioning",
    "How should the class enter the network?",
    "adaptive normalisation is the most expressive and what the strongest models use; adding the class to the time "
    "embedding is simpler; a one-hot label beside the image is simple, inflexible and does not scale to many classes.",
    run,
)
