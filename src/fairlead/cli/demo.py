"""``fairlead demo``: the main job, end to end, on the handwritten digits that come with scikit-learn."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fairlead.core.errors import UsageError

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.train.config import TrainConfig
    from fairlead.train.loop import Training

SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
NEGATIVES = (None, "one", "nine", "three")


@dataclass(frozen=True)
class Demo:
    """Train on handwritten digits, sweep the guidance scale, measure, and write a report; a few minutes on two cores.

    Example: fairlead demo --out demo
    """

    out: Path = Path("demo")
    """Folder for the model, the sweep and report.html; must not exist yet, or hold an earlier demo to be replaced."""
    seconds: float = 60.0
    """Longest training; the number of steps is lowered on a slow machine."""
    n: int = 1077
    """Images measured at each scale."""
    seed: int = 0
    """Decides all random draws."""

    def run(self) -> None:
        from fairlead.cli.options import evaluator_for, load_model
        from fairlead.cli.report import write_report
        from fairlead.cli.sweep import measure_with_progress
        from fairlead.cli.train import train_with_progress
        from fairlead.report.page import Png, Section
        from fairlead.report.pictures import class_grid, negative_rows
        from fairlead.report.sweep import findings
        from fairlead.tune.sweep import SweepFolder, SweepSettings, expand

        began = time.perf_counter()
        self._make_room()
        run = self.out / "model"
        training, data = self._training(run)
        print(
            f"1/3 training: {len(data):,} images {'x'.join(map(str, data.shape))} of handwritten digits, "
            f"{training.parameters:,} parameters, {training.config.steps} steps, "
            f"condition dropped with probability {training.config.drop:g}"
        )
        train_with_progress(training)
        print(f"2/3 measuring {self.n} images at each of {len(SCALES)} scales, from the same noise")
        evaluator = evaluator_for(str(run), None)
        model = load_model(str(run))
        floor = evaluator.floor(self.n)
        folder = SweepFolder(self.out)
        settings = SweepSettings(n=self.n, seed=self.seed)
        folder.start(model, floor, settings, f"fairlead {shlex.join(sys.argv[1:])}")
        points = measure_with_progress(model, evaluator, floor, expand(["cfg({scale})"], SCALES), settings, folder)
        print("3/3 drawing pictures")
        best, text = findings(points, floor)
        extra = (
            Section(
                f"Every class at {best.guidance}",
                [
                    Png(
                        class_grid(model, best.guidance, rows=8, seed=self.seed + 10_000),
                        "a grid of samples, one column a class",
                        "One column a class, each row from the same noise; seeds not used in the measurement.",
                    )
                ],
            ),
            Section(
                "Negative conditions",
                [
                    Png(
                        negative_rows(model, "seven", NEGATIVES, scale=5.0, seed=self.seed + 10_000),
                        "rows of sevens, each moved away from another class",
                        "Sevens moved away from null, ones, nines and threes: cfg(5, negative=...), "
                        "from the same noise.",
                    )
                ],
            ),
        )
        path = write_report(self.out, extra)
        print(f"\n{text}\n\nreport: {path}   (whole demo: {time.perf_counter() - began:.0f} s)")
        print(f'next: fairlead sample {run} --cond seven --guidance "{best.guidance}" --out {self.out / "sevens"}')

    def _make_room(self) -> None:
        """An earlier demo is replaced; anything else in the way is refused."""
        import shutil

        if self.out.exists() and any(self.out.iterdir()):
            if not (self.out / "model").is_dir():
                raise UsageError(f"{self.out} exists and is not an earlier demo; choose another --out")
            shutil.rmtree(self.out)

    def _training(self, run: Path) -> tuple[Training, ImageData]:
        """The digits recipe, with as many steps as fit into ``seconds``, measured on a few steps first."""
        from fairlead.data.hub import load_data
        from fairlead.nets.build import net_config
        from fairlead.train.config import RECIPES, TrainConfig
        from fairlead.train.loop import Training

        recipe = RECIPES["digits"]
        data = load_data(recipe.data)
        net = net_config(recipe.net, *data.shape[:2], len(data.classes))
        config = TrainConfig(net, {"spec": recipe.data}, seed=self.seed, **recipe.train)
        per_step = _seconds_per_step(data, config)
        steps = min(config.steps, max(300, int(0.9 * self.seconds / per_step)))
        return Training(data, replace(config, steps=steps), run), data


def _seconds_per_step(data: ImageData, config: TrainConfig) -> float:
    """The fastest of eight steps after two warm ones, of a training that is thrown away."""
    from fairlead.train.loop import Training

    training = Training(data, config, None)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        training.take_step()
        times.append(time.perf_counter() - began)
    return min(times[2:])
