"""``fairlead demo``: the main job, end to end, on the handwritten digits that come with scikit-learn."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fairlead.cli.typed_options import as_given
from fairlead.core.errors import UsageError
from fairlead.core.hold import NAME, Hold
from fairlead.core.places import check_folder, is_folder
from fairlead.core.progress import bars

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.train.config import TrainConfig
    from fairlead.train.loop import Training

SCALES = (0.0, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
LEAST = 60
OWN = (
    *("model", "settings", "sweep.json", "sweep.jsonl", "reference.safetensors", "report.html", "tradeoff.png"),
    "examples.safetensors",  # of earlier versions
)
NEGATIVES = (None, "one", "nine", "three")


@dataclass(frozen=True)
class Demo:
    """Train on handwritten digits, sweep the guidance scale, measure, and write a report; a few minutes on two cores.

    Example: fairlead demo --out demo
    """

    out: Path = Path("demo")
    """Folder for the model, the sweep and report.html; an earlier demo in it is replaced, anything else refused."""
    seconds: float = 60.0
    """Time for training; fewer steps are planned on a slow machine, but at least 200."""
    n: int = 1077
    """Images measured at each scale."""
    seed: int = 0
    """Decides all random draws."""

    def run(self) -> None:
        self._check()
        with Hold(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.cli.sweep import SweepBar
        from fairlead.measure.references import evaluator_for
        from fairlead.models.load import load
        from fairlead.report.page import Png, Section
        from fairlead.report.pictures import class_grid, negative_rows
        from fairlead.report.sweep_page import sweep_findings
        from fairlead.report.sweeps import carry_out, report
        from fairlead.train.session import train_to_end
        from fairlead.tune.recommend import recommend_swept
        from fairlead.tune.setting import all_settings, expand
        from fairlead.tune.sweep_folder import SweepFolder
        from fairlead.tune.sweep_run import Shared, Sweep

        began = time.perf_counter()
        self._check()
        self._make_room()
        run = self.out / "model"
        training, data = self._training(run)
        print(
            f"1/3 training: {len(data):,} images {'x'.join(map(str, data.shape))} of handwritten digits, "
            f"{training.parameters:,} parameters, {training.config.steps} steps, "
            f"condition dropped with probability {training.config.drop:g}"
        )
        train_to_end(training)
        print(f"2/3 measuring {self.n} images at each of {len(SCALES)} scales, from the same noise")
        model = load(run)
        evaluator = evaluator_for(str(run), None, (), model, (self.n,), bars)
        settings = all_settings([str(run)], expand(["cfg({scale})"], SCALES), ["ddim"], [20])
        sweep, folder = Sweep(settings, Shared(n=self.n, seed=self.seed), load), SweepFolder(self.out)
        with SweepBar() as bar:
            carry_out(sweep, folder, evaluator, bar, command=as_given())
        points = folder.read()[1]
        print("3/3 drawing pictures")
        floor = evaluator.floor(self.n)
        choice = recommend_swept(points, floor)
        best, text = choice.point, sweep_findings(points, floor, choice)
        assert best is not None
        extra = (
            Section(
                f"Every class at {best.guidance}",
                [
                    Png(
                        class_grid(model, best.guidance, rows=8, seed=self.seed + 10_000),
                        "a grid of samples, one column per class",
                        "One column per class, each row from the same noise; seeds not used in the measurement.",
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
        path = report(self.out, extra).path
        print(f"\n{text}\n\nreport: {path}   (whole demo: {time.perf_counter() - began:.0f} s)")
        print(f'next: fairlead sample {run} --cond seven --guidance "{best.guidance}" --out {self.out / "sevens"}')
        needs = "" if find_spec("gradio") else "   (once: pip install 'fairlead[app]')"
        print(f"or in a browser: fairlead app {self.out}{needs}")

    def _check(self) -> None:
        """Numbers and the folder, before anything is trained or removed."""
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"--seconds: expected a positive number, got {self.seconds}")
        if self.n < LEAST:
            raise UsageError(f"--n: expected at least {LEAST} images, so that every class is measured; got {self.n}")
        if not 0 <= self.seed < 2**62:
            raise UsageError(f"--seed: expected an integer from 0 to 2**62, got {self.seed}")
        check_folder(self.out)
        if not is_folder(self.out):
            return
        others = sorted(path.name for path in self.out.iterdir() if path.name not in (*OWN, NAME))
        model = self.out / "model"
        foreign = model.exists() and not list(model.glob("step-*/model.json"))
        loose = (self.out / "settings").exists() and not (self.out / "sweep.json").exists()
        if others or foreign or loose:
            found = others[0] if others else "model" if foreign else "settings"
            raise UsageError(f"{self.out} holds {found!r}, which is not an earlier demo's; choose another --out")

    def _make_room(self) -> None:
        """Remove what an earlier demo wrote, and nothing else."""
        import shutil

        with Hold(self.out / "model"):  # nobody trains on in there
            pass
        for name in OWN:
            path = self.out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

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
        steps = min(config.steps, max(200, int(0.9 * self.seconds / per_step)))
        return Training(data, replace(config, steps=steps), run), data


def _seconds_per_step(data: ImageData, config: TrainConfig) -> float:
    """Median time of sixteen steps after four warm ones, of a training that is thrown away."""
    from fairlead.train.loop import Training

    training = Training(data, config, None)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        training.take_step()
        times.append(time.perf_counter() - began)
    return statistics.median(times[4:])
