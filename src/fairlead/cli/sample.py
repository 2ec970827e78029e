"""``fairlead sample``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fairlead.core.errors import UsageError
from fairlead.core.registry import names

if TYPE_CHECKING:
    from fairlead.sample.run import Plan, Run


@dataclass(frozen=True)
class Sample:
    """Sample images from a trained model, with guidance.

    Every image is a lossless PNG that carries in its metadata everything needed to make it again.

    Example: fairlead sample runs/digits --cond seven 3 --n 8 --guidance "cfg(3)" --out sevens
    """

    model: Annotated[str, tyro.conf.Positional]
    """A training run, RUN@step500, or a checkpoint folder."""
    out: Path
    """Folder for the images; must not hold a run yet."""
    cond: tuple[str, ...] = ()
    """Class names or indices; "all" for every class; nothing for unconditional samples."""
    n: int = 8
    """Images for each condition."""
    guidance: str = "none"
    """An expression: cfg(3), cfg(ramp(1, 7)).during(sigma=(0.3, 2)), compose({"seven": 4, "one": -2}) | clip(), ..."""
    sampler: Annotated[
        str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")
    ] = "ddim"
    steps: int = 20
    """Steps of the sampler."""
    grid: Annotated[str, tyro.conf.arg(help=f"Time grid: {', '.join(names('grid'))}.")] = "trailing"
    seed: int = 0
    """Seed of the first image; the next ones have the next seeds. The same seed gives the same noise for any class."""
    batch_size: int = 64
    """Images denoised together; does not change them."""
    precision: str = "fp32"
    """fp32 or bf16."""
    weights: str = "ema"
    """ema (averaged) or raw (as trained)."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""

    def run(self) -> None:
        from fairlead.cli.options import load_model
        from fairlead.report.grids import image_grid
        from fairlead.sample.run import Plan

        if self.n < 1:
            raise UsageError(f"--n: expected at least 1 image, got {self.n}")
        if (self.out / "run.json").exists():
            raise UsageError(f"{self.out} already holds a run; choose another --out")
        model = load_model(self.model, self.weights, self.device)
        wanted = model.classes if self.cond == ("all",) else self.cond or (None,)
        conds = [cond for cond in wanted for _ in range(self.n)]
        plan = Plan.of(
            model,
            conds,
            self.guidance,
            seeds=[self.seed + i for _ in wanted for i in range(self.n)],
            sampler=self.sampler,
            steps=self.steps,
            grid=self.grid,
            batch_size=self.batch_size,
            precision="bf16" if self.precision == "bf16" else self.precision,  # type: ignore[arg-type]
        )
        run = sample_with_progress(plan)
        paths = run.save(self.out)
        assert run.images is not None
        rows = run.images.reshape(len(wanted), self.n, *run.images.shape[1:])
        picture = image_grid(
            rows,
            row_labels=["null" if cond is None else str(cond) for cond in wanted],
            col_labels=[str(self.seed + i) for i in range(self.n)],
            title=f"{plan.guidance}, {plan.sampler}, {self.steps} steps",
        )
        (self.out / "grid.png").write_bytes(picture)
        each = 1000 * run.seconds / len(paths)
        print(
            f"{len(paths)} images in {self.out} "
            f"({run.cost.rows / len(paths):g} network rows and {each:.1f} ms an image); "
            f"all of them at a glance: {self.out / 'grid.png'}"
        )


def sample_with_progress(plan: Plan) -> Run:
    """Carry out a plan behind a progress bar that counts steps over all batches."""
    import time

    import torch
    from tqdm import tqdm

    from fairlead.core.denoiser import counting

    finals = []
    began = time.perf_counter()
    with counting() as cost, tqdm(total=len(plan.batches) * plan.steps, unit="step", dynamic_ncols=True) as bar:
        for _, frame in plan.frames():
            bar.update()
            if frame.step == frame.steps - 1:
                finals.append(frame.x_t.float().cpu())
    return plan.finish(torch.cat(finals), cost, time.perf_counter() - began)
