"""``fairlead sample``"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.cli.typed_options import GridText, SamplerText
from fairlead.core.errors import UsageError
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Bar, working
from fairlead.core.signals import unbroken

if TYPE_CHECKING:
    from fairlead.sample.particles import Particles
    from fairlead.sample.result import Run

GLANCE = 20
"""Most rows and columns of the picture that shows all images at a glance."""


@dataclass(frozen=True)
class Sample:
    """Sample images from a trained model, with guidance.

    Every image is a lossless PNG whose metadata has everything needed to make it again.

    Example: fairlead sample runs/digits --cond seven 3 --n 8 --guidance "cfg(3)" --out sevens
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the images; must not hold a run yet."""
    cond: tuple[str, ...] = ()
    """Class names or indices ("index 1" where the bare number could be a name), prompts, or several conditions by name,
    "label=seven; text=a red digit"; "all" for every class; nothing for unconditional samples."""
    n: int = 8
    """Images for each condition."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), compose({"seven": 4, "one": -2}) | clip(), ...;
    "tuned" for what fairlead tune found for this run."""
    particles: int | None = None
    """Particles per image, resampled by --reward or by fkc(...); needs a --sampler that draws noise, such as ddpm."""
    reward: str | None = None
    """Reward of the particles: '10 * judged("seven")', 'label("runs/clf")', 'similarity("a red seven")', or a sum."""
    every: int | None = None
    """Steps from one resampling of the particles to the next (default: 4); 0 chooses at the end only."""
    pick: str | None = None
    """Which particle becomes the image: draw (at random by weight, the default) or best."""
    sampler: SamplerText = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: GridText = "trailing"
    seed: int = 0
    """Seed of the first image; the next ones have the next seeds. The same seed gives the same noise for any class."""
    batch_size: int = 64
    """Images denoised together; does not change them beyond rounding."""
    precision: str = "fp32"
    """fp32 or bf16."""
    compile: bool = False
    """Compile the network first: worth it for many images; results differ by rounding."""
    weights: str = "ema"
    """ema (averaged), raw (as trained), or ema:0.08, the average of that width of a run with --ema power."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        if self.n < 1:
            raise UsageError(f"--n: expected at least 1 image, got {self.n}")
        for name in ("every", "pick"):
            if self.particles is None and getattr(self, name) is not None:
                raise UsageError(f"--{name} is an option of particles, and there are none; pass --particles 8")
        check_folder(self.out, fresh={"run.json": "a run"}, files=["grid.png"])
        with Hold(self.out):
            self._run()

    def _run(self) -> None:
        from fairlead.models.load import load
        from fairlead.models.model import LabelEncoder
        from fairlead.sample.run import Plan
        from fairlead.sample.sampling import Sampling
        from fairlead.tune.answers import tuned_guidance

        check_folder(self.out, fresh={"run.json": "a run"}, files=["grid.png"])
        with working(f"loading {self.model}"):
            model = load(self.model, self.weights, self.device)
        if self.cond == ("all",) and not model.classes:
            instead = f"give one, e.g. --cond {model.examples[0]!r}" if model.examples else "leave --cond out"
            raise UsageError(
                f"--cond all: this model {'has no classes' if model.examples else 'is unconditional'}; {instead}"
            )
        if self.cond == ("all",) and LabelEncoder(model.classes).find("all") is not None:
            raise UsageError("--cond all: a class is also called all; name each class, or write that one as 'index N'")
        wanted: Sequence[str | None] = model.classes if self.cond == ("all",) else self.cond or (None,)
        guidance, chosen = tuned_guidance(
            self.model, self.guidance, self.sampler, self.steps, model.metadata.get("weights_hash")
        )
        sampling = Sampling(
            self.sampler,
            self.steps,
            self.grid,
            self.batch_size,
            self.precision,  # type: ignore[arg-type]
            compile=self.compile,
        )
        plan = Plan.of(
            model,
            [cond for cond in wanted for _ in range(self.n)],
            guidance,
            sampling,
            seeds=[self.seed + i for _ in wanted for i in range(self.n)],
            particles=self._particles(),
            reward=self.reward,
        )
        with Bar(len(plan.batches) * self.steps, "step") as bar:
            run = plan.run(on_frame=lambda _: bar.update())
        run = replace(run, settings={**run.settings, **chosen})
        with unbroken():
            run.save(self.out)
            glance = self._save_grid(run, wanted)
        n = len(run.seeds)
        print(
            f"{n} images in {self.out} "
            f"({run.cost.rows / n:g} network rows and {1000 * run.seconds / n:.1f} ms per image); at a glance: {glance}"
        )

    def _particles(self) -> Particles | None:
        from fairlead.sample.particles import Particles

        if self.particles is None:
            return None
        given = {"every": self.every, "pick": self.pick}
        return Particles(self.particles, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def _save_grid(self, run: Run, wanted: Sequence[str | None]) -> Path:
        """OUT/grid.png: a column per condition, a row per seed, the first of each."""
        from fairlead.core.files import replacing
        from fairlead.report.image_grid import image_grid

        assert run.images is not None
        columns, rows = min(len(wanted), GLANCE), min(self.n, GLANCE)
        images = run.images.reshape(len(wanted), self.n, *run.images.shape[1:]).transpose(0, 1)[:rows, :columns]
        picture = image_grid(
            images,
            row_labels=[str(self.seed + i) for i in range(rows)],
            col_labels=["null" if cond is None else str(cond) for cond in run.conds[:: self.n][:columns]],
            title=f"{run.settings['guidance']}, {run.settings['sampler']}, {self.steps} steps",
            provenance={"fairlead": json.dumps(run.provenance())},
        )
        path = self.out / "grid.png"
        try:
            with replacing(path, durable=False) as partial:
                partial.write_bytes(picture)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}; the images themselves are saved") from error
        return path
