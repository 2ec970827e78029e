"""Sampler and number of steps, at a low and at a high scale."""

from __future__ import annotations

import torch

import fairlead as fl
from benchmarks.studies.models import BASE
from benchmarks.studies.plots import lines
from benchmarks.studies.runner import Bench, Block, Case, Study, protocol, scores, table
from fairlead.measure.metrics import Estimate, mean_estimate
from fairlead.models.model import Model

SCALES = (1.25, 5.0)
SAMPLERS = ("ddim", "dpmpp_2m", "dpmpp_3m")
STEPS = (5, 10, 20, 50)
SOLVERS = ("ddim", "dpmpp_2m", "dpmpp_3m", "heun")
FINE = 200
IMAGES = 50


def solved(model: Model, w: float, sampler: str, steps: int) -> torch.Tensor:
    labels = [i % len(model.classes) for i in range(IMAGES)]
    return fl.sample(model, labels, guidance=f"cfg({w:g})", sampler=sampler, steps=steps, batch_size=IMAGES).x0


def errors(model: Model) -> dict[tuple[float, str, int], Estimate]:
    """How far a solver is from the exact solution of the same noise: root mean square over pixels, mean over images."""
    found = {}
    for w in SCALES:
        exact = solved(model, w, "heun", FINE // 2)
        for sampler in SOLVERS:
            for steps in STEPS:
                off = solved(model, w, sampler, steps) - exact
                found[w, sampler, steps] = mean_estimate(off.flatten(1).square().mean(1).sqrt())
    return found


def run(bench: Bench) -> list[Block]:
    def case(w: float, sampler: str, steps: int) -> Case:
        return Case(BASE, f"cfg({w:g})", sampler, steps, f"{sampler}, {steps} steps")

    cases = [case(w, sampler, steps) for w in SCALES for sampler in SAMPLERS for steps in STEPS]
    found = bench.measure("steps", cases)
    off = errors(bench.load(BASE, bench.trainings[0]))
    distance = {
        f"debiased Fréchet distance at scale {w:g}": {
            sampler: [(s, found.estimate(case(w, sampler, s), "distance_debiased")) for s in STEPS]
            for sampler in SAMPLERS
        }
        for w in SCALES
    }
    solver = {
        f"distance from the exact solution at scale {w:g}": {
            sampler: [(s, off[w, sampler, s]) for s in STEPS] for sampler in SOLVERS
        }
        for w in SCALES
    }
    real = dict.fromkeys(distance, found.floor.metrics["distance_debiased"].value)
    rows = [[sampler, *(str(off[w, sampler, s]) for w in SCALES for s in STEPS)] for sampler in SOLVERS]
    parts: list[Block] = [
        lines("steps", distance, "steps", "distance over the number of steps, by sampler and scale", dashed=real),
        protocol(found),
    ]
    for w in SCALES:
        row = [case(w, sampler, s) for sampler in SAMPLERS for s in STEPS]
        against = {one: case(w, one.sampler, STEPS[-1]) for one in row}
        parts += [f"### Scale {w:g}", scores(found, row, against)]
    parts += [
        "### How far from the exact solution",
        lines("steps-solver", solver, "steps", "error of the solver over the number of steps", log_y=True),
        f"Root mean square over pixels (data from -1 to 1) between a sample and the one of {FINE // 2} steps of Heun "
        f"from the same noise; mean over {IMAGES} images of the first training ± standard error. Heun takes two "
        "evaluations per step.",
        table(["solver", *(f"scale {w:g}, {s} steps" for w in SCALES for s in STEPS)], rows),
    ]
    return parts


STUDY = Study(
    "steps",
    "How many steps, and which sampler, at a low and at a high scale?",
    "a high scale amplifies the error of coarse steps, so that DDIM below 20 steps gives artefacts there; a "
    "higher-order solver (DPM-Solver) is more robust.",
    run,
)
