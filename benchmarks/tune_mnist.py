"""Does ``tune`` find the best scale of a dense sweep, and at which fraction of its images?

    python -m benchmarks.tune_mnist runs/mnist --data ../shared/data/mnist --out runs/tune-mnist

The dense sweep knows where to look (equal ratios from 1 to 2), the search does not (1 to 8); they share no seed. The
answer of the search is then measured on the sweep's seeds, beside the sweep's own best. What is stored is not made
again. It works for any run of ``fairlead train`` whose best scale lies between 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from fairlead.measure.metrics import Estimate
from fairlead.measure.references import evaluator_for
from fairlead.models.load import load
from fairlead.report.search_page import summary
from fairlead.sample.sampling import Precision
from fairlead.tune.measurements import DISTANCE, Batch, Measurement, together, z_of
from fairlead.tune.measurer import Measurer
from fairlead.tune.parabola import parabola
from fairlead.tune.recommend import Tuned
from fairlead.tune.search import find_guidance
from fairlead.tune.setting import Point, Setting, all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import Shared, Sweep
from fairlead.tune.template import Template

SWEEP_SEED = 5_000_000
LEVEL = 0.95
WINDOW = 7
"""Settings about the lowest of the sweep that its parabola is laid through."""


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    run: Annotated[str, tyro.conf.Positional]
    """A training run, or RUN@step500."""
    out: Path = Path("runs/tune-mnist")
    data: str | None = None
    """Where the images are, if not where they were in training."""
    scales: int = 13
    """Settings of the dense sweep."""
    n: int = 2000
    """Images of each."""
    budget: int = 2500
    """Images of the search."""
    sampler: str = "dpmpp_2m_sde"
    steps: int = 20
    batch_size: int = 128
    precision: Precision = "fp32"


class Compared:
    """A search and a sweep of one model."""

    def __init__(self, options: Options) -> None:
        self.options, self.model = options, load(options.run, device="cpu")
        self.evaluator = evaluator_for(options.run, options.data)
        self.folder = SweepFolder(options.out / "sweep")
        k = options.scales - 1
        self.scales = [float(f"{2 ** (i / k):.4g}") for i in range(k + 1)]

    def search(self) -> Tuned:
        options, template = self.options, Template.of("cfg({scale})")
        shared = Shared(n=options.budget, batch_size=options.batch_size, precision=options.precision)
        asked = (self.model.metadata["weights_hash"], options.sampler, options.steps, options.precision)
        folder = options.out / "searched" / "-".join(map(str, asked))
        measurer = Measurer(self.model, self.evaluator, template, shared, options.sampler, options.steps, folder)
        found = find_guidance(measurer, self.evaluator.moments, template, budget=options.budget)
        print(f"tune: {summary(found, template, DISTANCE)}", flush=True)
        return found

    def sweep(self, guidances: list[str]) -> dict[str, Measurement]:
        """Everything of the sweep's folder that these guidances ask for, as the search sees it."""
        options = self.options
        settings = all_settings([options.run], guidances, [options.sampler], [options.steps])
        shared = Shared(options.n, SWEEP_SEED, batch_size=options.batch_size, precision=options.precision)
        for event in Sweep(settings, shared, lambda run: self.model).measure(self.folder, self.evaluator):
            if isinstance(event, Point):
                shown = {name: str(event.score.metrics[name]) for name in (DISTANCE, "accuracy")}
                print(f"  {event.guidance}: {shown}", flush=True)
        return {setting.guidance: self.measured(setting) for setting in settings}

    def measured(self, setting: Setting) -> Measurement:
        samples = self.folder.samples(self.folder.key(setting))
        batch = Batch(samples.features, samples.values, labels=samples.labels)
        return Measurement((), range(len(samples.labels)), batch, samples.reference)


def vertex(scales: list[float], settings: list[Measurement]) -> tuple[float, float, float]:
    """(best, low, high) of the parabola about the lowest setting of a sweep, over the logarithm of the scale."""
    losses = together(settings, DISTANCE).values
    start = min(max(int(losses.argmin()) - WINDOW // 2, 0), max(len(scales) - WINDOW, 0))
    window = slice(start, start + WINDOW)
    found = parabola([math.log(w) for w in scales[window]], together(settings[window], DISTANCE), z_of(LEVEL))
    return math.exp(found.place), math.exp(max(found.low, -9.0)), math.exp(min(found.high, 9.0))


def alike(scales: list[float], settings: list[Measurement]) -> list[float]:
    """The scales whose distance is statistically indistinguishable from the lowest one, paired."""
    found = together(settings, DISTANCE)
    lowest = int(found.values.argmin())
    differences = [found.difference(i, lowest) for i in range(len(scales))]
    return [w for w, d in zip(scales, differences, strict=True) if d.value <= z_of(LEVEL) * d.error]


def main(options: Options) -> None:
    compared = Compared(options)
    tuned = compared.search()
    assert tuned.best is not None
    dense = [f"cfg({w:g})" for w in compared.scales]
    guidances = list(dict.fromkeys([*dense, tuned.guidance]))
    measured = compared.sweep(guidances)
    settings = [measured[guidance] for guidance in dense]
    losses = together(settings, DISTANCE)
    lowest = int(losses.values.argmin())
    best, low, high = vertex(compared.scales, settings)
    same = alike(compared.scales, settings)
    change = together([measured[tuned.guidance], settings[lowest]], DISTANCE).difference(0, 1)
    images = options.scales * options.n
    value, start, end = tuned.best
    print(
        f"sweep: {options.scales} scales x {options.n:,} images = {images:,}; lowest at {compared.scales[lowest]:g} "
        f"({losses.estimate(lowest)}), statistically indistinguishable from it: "
        f"{min(same):g} to {max(same):g}; parabola: best at {best:.3g}, "
        f"95 % interval {low:.3g} to {high:.3g}\n"
        f"tune: {tuned.images:,} images; best at {value:.3g}, 95 % interval {start:.3g} to {end:.3g}; recommended "
        f"{tuned.guidance}\n"
        f"on the sweep's seeds {tuned.guidance} is {_signed(change)} from the lowest of the sweep (paired)\n"
        f"images of tune: {100 * tuned.images / images:.1f} % of the sweep's"
    )


def _signed(value: Estimate) -> str:
    return f"{'+' if value.value > 0 else ''}{value}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options, description=__doc__))
