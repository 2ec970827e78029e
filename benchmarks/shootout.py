"""Every method on one model: each at its own best setting, found on search seeds and reported on others.

    python benchmarks/shootout.py runs/mnist --data ../shared/data/mnist --weak runs/mnist@step500 \\
        --classifier runs/mnist-classifier --out runs/shootout

Two comparisons, both at equal rows an image (a method of three rows a step takes fewer steps):

    best       the setting of lowest distance of each method
    matched    the setting of each method whose guidance moves x0 as far as cfg at its best does: root mean square of
               x0_guided - x0_cond over pixels and steps

Results are appended to OUT/results.jsonl; what is there already is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from fairlead.data.hub import load_data
from fairlead.data.images import ImageData
from fairlead.guide.algebra import COND
from fairlead.guide.executor import Observation
from fairlead.guide.expression import to_guidance
from fairlead.measure.evaluate import Evaluator
from fairlead.measure.judge import cached_classifier
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.models.resources import load_resources
from fairlead.sample.run import Plan, Run
from fairlead.tune.sweep import shared_out

SHOWN = ("distance", "accuracy", "diversity", "saturation")
Values = tuple[float, ...]
METHODS: dict[str, tuple[str, Values]] = {
    "none": ("none", ()),
    "cfg": ("cfg({})", (1.1, 1.25, 1.4, 1.6, 2)),
    "interval": ("cfg({}).during(sigma=(0.5, 10))", (1.25, 1.5, 2, 3)),
    "ramp up": ("cfg(ramp(1, {}))", (1.25, 1.5, 2, 3)),
    "ramp down": ("cfg(ramp({}, 1))", (1.25, 1.5, 2, 3)),
    "auto": ("auto({}, weak=WEAK)", (1.25, 1.5, 2, 3)),
    "cfg + auto": ("cfg(1.2) + auto({}, weak=WEAK)", (1.25, 1.5, 2)),
    "pag": ("pag({})", (0.25, 0.5, 1, 2)),
    "cfg + pag": ("cfg(1.2) + pag({})", (0.1, 0.25, 0.5)),
    "seg": ("seg({})", (0.25, 0.5, 1, 2)),
    "slg": ("slg({})", (0.1, 0.25, 0.5, 1)),
    "icg": ("icg({})", (1.1, 1.25, 1.5, 2)),
    "cads + cfg": ("cfg(1.4) + cads({})", (0.05, 0.1, 0.25)),
    "bands, coarse": ("bands([{}, 1])", (1.25, 1.5, 2, 3)),
    "bands, fine": ("bands([1, {}])", (1.25, 1.5, 2, 3)),
    "perp_neg": ('perp_neg({}, "eight")', (1.1, 1.25, 1.5)),
    "classifier": ("classifier({}, CLASSIFIER)", (0.1, 0.25, 0.5, 1)),
    "apg": ("apg(cfg({}))", (1.25, 1.5, 2, 3)),
    "cfgpp": ("cfgpp({})", (0.05, 0.1, 0.2, 0.4)),
    "tcfg": ("tcfg(cfg({}))", (1.25, 1.5, 2, 3)),
    "mambo": ("mambo(cfg({}))", (1.25, 1.5, 2, 3)),
    "zero_star": ("zero_star(cfg({}))", (1.1, 1.25, 1.5)),
    "sag": ("sag({})", (0.1, 0.25, 0.5, 1)),
    "adaptive": ("adaptive(cfg({}), 0.99)", (1.25, 1.4, 1.6)),
    "cached": ("cached(cfg({}), 2)", (1.25, 1.4, 1.6)),
    "rescale": ("cfg({}) | rescale(0.7)", (1.25, 1.5, 2, 3)),
    "threshold": ("cfg({}) | threshold(0.995)", (1.25, 1.5, 2, 3)),
}


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    model: tyro.conf.Positional[str]
    data: str
    weak: str
    classifier: str
    out: Path
    sampler: str = "dpmpp_2m_sde"
    steps: int = 20
    """Of a method of two rows a step; its rows an image are the budget of all."""
    search: int = 500
    """Images a setting while searching, seeds from 1,000,000."""
    n: int = 2000
    """Images a setting in the report, seeds from 0."""
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One setting, measured."""

    phase: str
    method: str
    guidance: str
    steps: int
    rows: float
    ms: float
    metrics: dict[str, list[float]]
    difference: dict[str, list[float]] | None = None
    moved: float | None = None


class Shootout:
    """The model, what the guidances name, and the results so far."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.train: ImageData = load_data(options.data)
        judge, features = (cached_classifier(self.train, role) for role in ("judge", "features"))
        self.evaluator = Evaluator(self.train, load_data(options.data, "test"), judge, features)
        self.model: Model = load(options.model)
        self.file = options.out / "results.jsonl"
        options.out.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.results = [Result(**json.loads(line)) for line in lines]
        texts = [self.text(name, value) for name in METHODS for value in METHODS[name][1] or (0.0,)]
        wanted = dict.fromkeys(r for text in texts for r in to_guidance(text).resources())
        self.resources = load_resources(tuple(wanted), self.model)
        self.baseline: Score | None = None

    def text(self, method: str, value: float) -> str:
        template = METHODS[method][0].replace("WEAK", json.dumps(self.options.weak))
        return template.replace("CLASSIFIER", json.dumps(self.options.classifier)).replace("{}", f"{value:g}")

    def plan(self, text: str, n: int, seed: int, steps: int) -> Plan:
        guidance = to_guidance(text)
        mine = {resource.name: self.resources[resource.name] for resource in guidance.resources()}
        conds = shared_out(self.model.classes, self.train.labels, n)
        options: dict[str, Any] = {"sampler": self.options.sampler, "steps": steps, "precision": "bf16"}
        return Plan.of(self.model, conds, guidance, seeds=range(seed, seed + n), resources=mine, **options)

    def steps(self, text: str) -> int:
        """As many steps as cost what plain cfg costs in ``options.steps``."""
        budget = 2 * self.options.steps
        probe = self.plan(text, 8, 0, self.options.steps).run()
        return max(4, round(self.options.steps * budget / (probe.cost.rows / 8)))

    def moved(self, text: str) -> float:
        """Root mean square of x0_guided - x0_cond over pixels, samples and steps."""
        squares: list[float] = []

        def observe(_: slice, seen: Observation) -> None:
            if seen.seen.has(COND):
                squares.append(float((seen.guided - seen.seen.x0(COND)).square().mean()))

        for _ in self.plan(text, 32, 0, self.options.steps).frames(observe):
            pass
        return float((sum(squares) / max(1, len(squares))) ** 0.5)

    def score(self, text: str, n: int, seed: int, steps: int) -> tuple[Run, Score]:
        run = self.plan(text, n, seed, steps).run()
        assert run.images is not None
        return run, self.evaluator.score(run.images, run.condition.values["label"], run.x0, run.seeds)

    def measure(self, phase: str, method: str, text: str, n: int, seed: int, **more: Any) -> Result:
        """From the file if it is there, else sampled and scored."""
        for result in self.results:
            if (result.phase, result.guidance) == (phase, text):
                return result
        steps = self.steps(text)
        run, score = self.score(text, n, seed, steps)
        difference = None
        if self.baseline is not None and phase != "search":
            difference = {k: [d.value, d.error] for k, d in score.compare(self.baseline).items() if k in SHOWN}
        result = Result(
            phase, method, text, steps, run.cost.rows / n, 1000 * run.seconds / n,
            {name: [score.metrics[name].value, score.metrics[name].error] for name in SHOWN}, difference, **more,
        )  # fmt: skip
        self.results.append(result)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(json.dumps(asdict(result)), flush=True)
        return result

    def matched(self, method: str, target: float) -> str | None:
        """The expression of this method that moves x0 by ``target``, by bisection; None if none in its range does."""
        values = METHODS[method][1]
        low, high = 1.0 if min(values, default=0) >= 1 else 0.0, max(values, default=0) * 2
        if not values or self.moved(self.text(method, high)) < target:
            return None
        for _ in range(6):
            middle = (low + high) / 2
            low, high = (middle, high) if self.moved(self.text(method, middle)) < target else (low, middle)
        return self.text(method, round(high, 3))


def main(options: Options) -> None:
    torch.manual_seed(0)
    shootout = Shootout(options)
    names: Sequence[str] = options.only or tuple(METHODS)
    print(f"real images, N = {options.n}: {shootout.evaluator.floor(options.n).metrics}")
    best: dict[str, str] = {}
    for name in dict.fromkeys(("cfg", *names)):
        texts = [shootout.text(name, value) for value in METHODS[name][1] or (0.0,)]
        found = [shootout.measure("search", name, text, options.search, 1_000_000) for text in texts]
        best[name] = min(found, key=lambda result: result.metrics["distance"][0]).guidance
    _, shootout.baseline = shootout.score(best["cfg"], options.n, 0, options.steps)
    for name, text in best.items():
        shootout.measure("best", name, text, options.n, 0)
    target = shootout.moved(best["cfg"])
    for name in best:
        alike = shootout.matched(name, target) if name != "cfg" else best["cfg"]
        if alike is not None:
            shootout.measure("matched", name, alike, options.n, 0, moved=shootout.moved(alike))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
