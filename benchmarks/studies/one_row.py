"""Guidance that costs no second row, or leaves it as soon as it can."""

from __future__ import annotations

from benchmarks.studies.models import BASE, Variant
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores

HEADED = Variant("internal", {"internal": 0.5}, {"internal": True})
"""With a head in its middle, trained for as many steps."""
PAST = (
    *("none", "none | history(0.25)", "none | history(0.5)", "none | higs(0.5)", "none | higs()"),
    *("cfg(1.25)", "cfg(1.25) | history(0.5)", "cfg(1.25) | higs(0.5)"),
)
HEAD = ("none", "internal(1.5)", "internal(2)", "cfg(1.25)", "cfg(1.25) + internal(1.5)")
FEEDBACK = ("none", "cfg(1.25)", "fbg(0.9)", "fbg(0.7)", "fbg(0.999, temperature=0.1, offset=-15)")


def run(bench: Bench) -> list[Block]:
    past = {sampler: [Case(BASE, text, sampler, 10, f"`{text}`") for text in PAST] for sampler in ("ddim", "dpmpp_2m")}
    plain = [Case(BASE, text, "dpmpp_2m", 10, f"recipe, `{text}`") for text in ("none", "cfg(1.25)")]
    head = [Case(HEADED, text, "dpmpp_2m", 10, f"head, `{text}`") for text in HEAD]
    feedback = [Case(BASE, text, "ddim(eta=1)", 20, f"`{text}`") for text in FEEDBACK]
    found = bench.measure("one_row", [*past["ddim"], *past["dpmpp_2m"], *plain, *head, *feedback])
    parts: list[Block] = [protocol(found)]
    for sampler, row in past.items():
        pairs = {case: next(one for one in row if one.guidance == case.guidance.split(" | ")[0]) for case in row}
        parts += [f"### Away from the run's own past, {sampler} with 10 steps", scores(found, row, pairs)]
    parts += [
        "### Away from a head in the middle, dpmpp_2m with 10 steps",
        scores(found, [*plain, *head], {plain[1]: plain[0], head[0]: plain[0], **dict.fromkeys(head[1:], head[0])}),
        scores(found, [plain[1], *head[1:4]], {plain[1]: head[3], head[1]: head[3], head[2]: head[3]}, cost=False),
        "### A scale from the sample's own posterior, ddim(eta=1) with 20 steps",
        scores(found, feedback, dict.fromkeys(feedback, feedback[1])),
    ]
    return parts


STUDY = Study(
    "one_row",
    "What can guidance do without the second row?",
    "each guided step evaluates the network twice; they show no way around that.",
    run,
)
