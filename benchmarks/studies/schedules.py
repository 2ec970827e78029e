"""A fixed scale against one that changes along the way."""

from __future__ import annotations

from benchmarks.studies.models import BASE
from benchmarks.studies.plots import dots
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores

FIXED = (1.1, 1.25, 1.5, 2.0)
HIGH = (1.5, 2.0, 3.0)
FAMILIES = {
    "fixed": [f"cfg({w:g})" for w in FIXED],
    "rising, linear": [f"cfg(ramp(1, {w:g}))" for w in HIGH],
    "rising, cosine": [f'cfg(ramp(1, {w:g}, "cosine"))' for w in HIGH],
    "rising, step": [f'cfg(ramp(1, {w:g}, "step"))' for w in HIGH],
    "falling, linear": [f"cfg(ramp({w:g}, 1))" for w in HIGH],
    "falling, step": [f'cfg(ramp({w:g}, 1, "step"))' for w in HIGH],
}
LESSONS = {
    "cfg(7)": ["cfg(ramp(1, 7))", 'cfg(ramp(1, 7, "cosine"))', 'cfg(ramp(1, 7, "step"))'],
    "cfg(12)": ['cfg(ramp(12, 5, "step"))', "cfg(ramp(12, 5))"],
}


def run(bench: Bench) -> list[Block]:
    shapes = {name: [Case(BASE, text) for text in texts] for name, texts in FAMILIES.items()}
    lessons = {text: [Case(BASE, text), *(Case(BASE, other) for other in others)] for text, others in LESSONS.items()}
    groups = {**shapes, **{f"the lessons' beside {text}": row for text, row in lessons.items()}}
    found = bench.measure("schedules", [case for row in groups.values() for case in row])
    best = found.lowest(shapes["fixed"])
    every = [case for row in shapes.values() for case in row]
    parts: list[Block] = [
        dots("schedules", found, groups, "distance and diversity of fixed and changing scales", "diversity"),
        protocol(found, "A ramp goes from its first number at pure noise to its second at the clean end."),
        f"### Fixed and changing scales, all against `{best.guidance}`",
        scores(found, every, dict.fromkeys(every, best)),
    ]
    for text, row in lessons.items():
        parts += [f"### The lessons' schedules beside `{text}`", scores(found, row, dict.fromkeys(row, row[0]))]
    return parts


STUDY = Study(
    "schedules",
    "Is a scale that changes along the way better than a fixed one?",
    "one lesson lets the scale rise from 1 at high noise to 7 at low noise (guidance means little in noise) and says "
    "this can improve results; another starts high (12) and ends low (5), and promises a better FID at equal "
    "adherence.",
    run,
)
