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
    "0.4 < t < 0.8": ".during(t=(0.4, 0.8))",
}
SCALES = (1.25, 1.5, 2.0, 3.0, 5.0)
SAME = (1.5, 3.0)


def case(w: float, where: str) -> Case:
    return Case(BASE, f"cfg({w:g}){WHERE[where]}")


def run(bench: Bench) -> list[Block]:
    best = bench.best("intervals/search", {where: [case(w, where) for w in SCALES] for where in WHERE})
    same = {w: [case(w, where) for where in WHERE] for w in SAME}
    cases = list(dict.fromkeys([*best.values(), *(one for row in same.values() for one in row)]))
    found = bench.measure("intervals/confirm", cases)
    chosen = list(best.values())
    groups = {"each at its best scale": chosen, **{f"scale {w:g}": row for w, row in same.items()}}
    parts: list[Block] = [
        dots("intervals", found, groups, "distance and accuracy with guidance at some noise levels only"),
        protocol(
            found,
            f"The best scale is that of the lowest distance among {', '.join(f'{w:g}' for w in SCALES)}, chosen on "
            f"{bench.n} other images of the first training. t is time, 1 is noise; `during(t=(0, 0.6))` skips the "
            "first 40 %.",
        ),
        "### Each at its best scale",
        scores(found, chosen, dict.fromkeys(chosen, best["everywhere"])),
    ]
    for w, row in same.items():
        parts += [f"### At scale {w:g}", scores(found, row, dict.fromkeys(row, row[0]))]
    return parts


STUDY = Study(
    "intervals",
    "Can guidance be skipped at high noise?",
    "skipping guidance in the first 40 % of the steps (high noise) saves 20 % of the computation with minimal loss: "
    "use it only where t < 0.6.",
    run,
)
