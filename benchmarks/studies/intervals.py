"""Guidance at some noise levels only."""

from __future__ import annotations

from benchmarks.studies.models import BASE
from benchmarks.studies.plots import dots
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores

WHERE = {
    "everywhere": "",
    "t < 0.8": ".during(t=(0, 0.8))",
    "t < 0.6": ".during(t=(0, 0.6))",
    "t < 0.4": ".during(t=(0, 0.4))",
    "t > 0.4": ".during(t=(0.4, 1))",
}
SCALES = (1.25, 1.5, 2.0, 3.0)


def case(w: float, where: str) -> Case:
    return Case(BASE, f"cfg({w:g}){WHERE[where]}", label=f"{w:g}, {where}")


def run(bench: Bench) -> list[Block]:
    at = {w: [case(w, where) for where in WHERE] for w in SCALES}
    found = bench.measure("intervals", [one for row in at.values() for one in row])
    parts: list[Block] = [
        dots(
            "intervals",
            found,
            {f"scale {w:g}": row for w, row in at.items()},
            "distance and diversity with guidance at some noise levels only, by scale",
            "diversity",
        ),
        protocol(found, "t is time, 1 is noise; t < 0.6 is `during(t=(0, 0.6))` and skips the first 40 %."),
    ]
    for w, row in at.items():
        parts += [f"### Scale {w:g}", scores(found, row, dict.fromkeys(row, row[0]))]
    best = found.lowest([row[0] for row in at.values()])
    rest = [one for row in at.values() for one in row[1:]]
    parts += [f"### All against `{best.guidance}` everywhere", scores(found, [best, *rest], dict.fromkeys(rest, best))]
    return parts


STUDY = Study(
    "intervals",
    "Can guidance be skipped at high noise?",
    "skipping guidance in the first 40 % of the steps (high noise) saves 20 % of the computation with minimal loss: "
    "use it only where t < 0.6.",
    run,
)
