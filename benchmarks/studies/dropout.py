"""Dropout probability 0.05, 0.1, 0.2 and 0.5."""

from __future__ import annotations

from benchmarks.studies.models import Variant
from benchmarks.studies.plots import over_scale
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores

SCALES = (0, 1, 1.25, 1.5, 2)
DROPS = (0.05, 0.1, 0.2, 0.5)
NAMES: dict[float, str] = {0: ": the unconditional model", 1: ": the conditional model"}


def variant(drop: float) -> Variant:
    return Variant("drop 0.1", of="base") if drop == 0.1 else Variant(f"drop {drop:g}", train={"drop": drop})


def run(bench: Bench) -> list[Block]:
    at = {w: [Case(variant(drop), f"cfg({w})", label=f"drop {drop:g}") for drop in DROPS] for w in SCALES}
    cases = [case for row in at.values() for case in row]
    found = bench.measure("dropout", cases)
    parts: list[Block] = [
        over_scale("dropout", found, cases, "distance, accuracy and diversity over the scale, a line per probability"),
        protocol(found),
    ]
    for w, row in at.items():
        parts.append(f"### Scale {w}{NAMES.get(w, '')}")
        parts.append(scores(found, row, dict.fromkeys(row, row[1]), cost=False))
    return parts


STUDY = Study(
    "dropout",
    "How often should the condition be dropped in training?",
    "at 5 % the unconditional model is poor and guidance has a poor baseline (avoid); 10 % is a good balance; 20 % "
    "makes the unconditional model better and the conditional one slightly weaker; 50 % is rarely best.",
    run,
)
