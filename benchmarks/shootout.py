"""Every method on one model: each at its own best setting, found on search seeds and reported on others.

    python benchmarks/shootout.py runs/mnist --data ../shared/data/mnist --weak runs/mnist@step1000 \\
        --classifier runs/mnist-classifier --out runs/shootout

Two comparisons, both at equal rows per image (a method of three rows per step takes fewer steps):

    best       the setting of each method whose distance, freed of the bias of few images, was lowest in the search
    matched    the setting of each method whose effective scale, 1 + <x0_guided - D_c, D_c - D_u> / |D_c - D_u|^2
               averaged over steps and samples, is that of cfg at its best; left out where the method cannot reach it

Results are appended to OUT/results.jsonl; what is there already is not measured again. shootout_report.py makes the
tables and pictures of the documentation of them.

`--chosen docs/methods/measured.json` takes each method's best setting from an earlier search in place of a new one, and
`--n-matched 0` leaves the second comparison out.
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
from fairlead.guide.expression import to_guidance
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import cached_classifier
from fairlead.measure.references import shared_out
from fairlead.measure.score import Score
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.models.resources import load_resources
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.sampling import Precision, Sampling
from fairlead.sample.trace import Trace

SHOWN = ("distance", "distance_debiased", "accuracy", "diversity", "saturation")
Values = tuple[float, ...]
METHODS: dict[str, tuple[str, Values]] = {
    "none": ("none", ()),
    "cfg": ("cfg({})", (1.05, 1.1, 1.15, 1.25, 1.5)),
    "interval": ("cfg({}).during(sigma=(0.5, 10))", (1.1, 1.25, 1.5, 2)),
    "ramp up": ("cfg(ramp(1, {}))", (1.1, 1.25, 1.5, 2)),
    "ramp down": ("cfg(ramp({}, 1))", (1.1, 1.25, 1.5, 2)),
    "auto": ("auto({}, weak=WEAK)", (1.1, 1.25, 1.5, 2)),
    "cfg + auto": ("cfg(1.05) + auto({}, weak=WEAK)", (1.1, 1.25, 1.5)),
    "pag": ("pag({})", (0.1, 0.25, 0.5, 1)),
    "cfg + pag": ("cfg(1.1) + pag({})", (0.05, 0.1, 0.25)),
    "seg": ("seg({})", (0.1, 0.25, 0.5, 1)),
    "slg": ("slg({})", (0.05, 0.1, 0.25, 0.5)),
    "icg": ("icg({})", (1.05, 1.1, 1.25, 1.5)),
    "cads + cfg": ("cfg(1.25) + cads({})", (0.05, 0.1, 0.25)),
    "bands, coarse": ("bands([{}, 1])", (1.1, 1.25, 1.5, 2)),
    "bands, fine": ("bands([1, {}])", (1.1, 1.25, 1.5, 2)),
    "perp_neg": ('perp_neg({}, "eight")', (1.05, 1.1, 1.25)),
    "classifier": ("classifier({}, CLASSIFIER)", (0.1, 0.25, 0.5, 1)),
    "classifier, low noise": ("classifier({}, CLASSIFIER).during(sigma=(0, 3))", (0.5, 1, 2)),
    "energy, label": ("energy(label(CLASSIFIER), {}, through=False)", (0.5, 1, 2)),
    "apg": ("apg(cfg({}))", (1.1, 1.25, 1.5, 2)),
    "cfgpp": ("cfgpp({})", (0.05, 0.1, 0.2, 0.4)),
    "tcfg": ("tcfg(cfg({}))", (1.1, 1.25, 1.5, 2)),
    "mambo": ("mambo(cfg({}))", (1.1, 1.25, 1.5, 2)),
    "zero_star": ("zero_star(cfg({}))", (1.05, 1.1, 1.25, 1.5)),
    "sag": ("sag({})", (0.1, 0.25, 0.5, 1)),
    "adaptive": ("adaptive(cfg({}), 0.99)", (1.05, 1.1, 1.25, 1.5)),
    "cached": ("cached(cfg({}), every=2)", (1.05, 1.1, 1.25)),
    "rescale": ("cfg({}) | rescale(0.7)", (1.1, 1.25, 1.5, 2)),
    "threshold": ("cfg({}) | threshold(0.995)", (1.1, 1.25, 1.5, 2)),
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
    """Of a method of two rows per step; its rows per image are the budget of all."""
    search: int = 500
    """Images a setting while searching, seeds from 1,000,000."""
    n: int = 2000
    """Images a setting in the report, seeds from 0."""
    n_matched: int = 1000
    """The same, of the matched comparison; 0 for none."""
    chosen: Path | None = None
    """The searched settings that an earlier report wrote, to choose from without a search of this model."""
    precision: Precision = "bf16"
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
    effective: float | None = None


def short(guidance: str, weak: str, classifier: str) -> str:
    """With W for the weak snapshot and C for the classifier."""
    return guidance.replace(json.dumps(weak), "W").replace(json.dumps(classifier), "C")


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
        lines = self.file.read_text().split("\n") if self.file.exists() else []
        self.results = [Result(**json.loads(line)) for line in lines if line]
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
        sampling = Sampling(self.options.sampler, steps, precision=self.options.precision)
        return Plan.of(self.model, conds, guidance, sampling, seeds=range(seed, seed + n), resources=mine)

    def steps(self, text: str) -> int:
        """As many steps as cost what plain cfg costs in ``options.steps``."""
        budget = 2 * self.options.steps
        probe = self.plan(text, 8, 0, self.options.steps).run()
        return max(4, round(self.options.steps * budget / (probe.cost.rows / 8)))

    def effective(self, text: str) -> float:
        """The effective scale of the finished x0, averaged over samples and the steps in which it is known."""
        trace = Trace.of(self.plan(text, 24, 2_000_000, self.options.steps), compare=True)
        return float(trace.step["effective_finished"].nanmean())

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
            found = {name: d for name, d in score.compare(self.baseline).items() if name in SHOWN}
            assert all(d.paired for d in found.values()), found
            difference = {name: [d.value, d.error] for name, d in found.items()}
        result = Result(
            phase, method, text, steps, run.cost.rows / n, 1000 * run.seconds / n,
            {name: [score.metrics[name].value, score.metrics[name].error] for name in SHOWN}, difference, **more,
        )  # fmt: skip
        self.results.append(result)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(json.dumps(asdict(result)), flush=True)
        return result

    def best(self, method: str) -> str:
        """The setting of this method whose distance was smallest in the search, this one or that of ``chosen``."""
        texts = [self.text(method, value) for value in METHODS[method][1] or (0.0,)]
        if self.options.chosen is None:
            found = [self.measure("search", method, text, self.options.search, 1_000_000) for text in texts]
            distances = [result.metrics["distance_debiased"][0] for result in found]
        else:
            pages = json.loads(self.options.chosen.read_text()).values()
            rows = [row for page in pages for row in page.get("rows", ())]
            earlier = {row["guidance"]: row["metrics"]["distance_debiased"][0] for row in rows}
            distances = [earlier[short(text, self.options.weak, self.options.classifier)] for text in texts]
        return texts[distances.index(min(distances))]

    def matched(self, method: str, target: float) -> str | None:
        """The expression of this method whose effective scale is ``target``, by bisection; None if out of its range."""
        values = METHODS[method][1]
        low, high = 1.0 if min(values, default=0) >= 1 else 0.0, max(values, default=0) * 2
        if method == "cfgpp":
            high = min(high, 1.0)
        if not values or self.effective(self.text(method, high)) < target:
            return None
        for _ in range(6):
            middle = (low + high) / 2
            low, high = (middle, high) if self.effective(self.text(method, middle)) < target else (low, middle)
        return self.text(method, round(high, 3))


def main(options: Options) -> None:
    torch.manual_seed(0)
    shootout = Shootout(options)
    names: Sequence[str] = options.only or tuple(METHODS)
    floors = {str(n): shootout.evaluator.floor(n).as_dict() for n in (options.n, options.n_matched) if n}
    (options.out / "floor.json").write_text(json.dumps(floors, indent=1))
    best = {name: shootout.best(name) for name in dict.fromkeys(("cfg", *names))}
    _, shootout.baseline = shootout.score(best["cfg"], options.n, 0, options.steps)
    for name, text in best.items():
        shootout.measure("best", name, text, options.n, 0)
    if not options.n_matched:
        return
    target = shootout.effective(best["cfg"])
    print(f"effective scale of {best['cfg']}: {target:.3f}")
    _, shootout.baseline = shootout.score(best["cfg"], options.n_matched, 0, options.steps)
    for name in best:
        alike = shootout.matched(name, target) if name != "cfg" else best["cfg"]
        if alike is None:
            print(f"{name}: cannot reach it")
        else:
            shootout.measure("matched", name, alike, options.n_matched, 0, effective=shootout.effective(alike))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
