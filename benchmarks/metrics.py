"""What measures on features cost beside the libraries that compute the same: time, and memory beyond the features.

    python benchmarks/metrics.py                                      50,000 x 2048 and 10,000 x 2048, minutes
    python benchmarks/metrics.py --n 3000 --points 1000 --d 256       seconds

Every cell is a process of its own, ours and theirs in turn; times are CPU seconds and medians, a ratio is the median
of the ratios of neighbours. Peak memory is how far ru_maxrss rises while the measure runs. The last column is the
largest difference between the two results, over the size of theirs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from fairlead.measure.frechet import Moments, frechet_distance
from fairlead.measure.two_samples import kid, precision_recall

BATCH = 500  # images per call of torchmetrics' update
MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    only: str | None = None
    """moments, frechet, neighbours or kid; nothing for all."""
    n: int = 50_000
    """Samples for the Fréchet distance."""
    points: int = 10_000
    """Samples a side for precision and recall, and for the kernel distance."""
    d: int = 2048
    """Features a sample."""
    k: int = 5
    """Which neighbour gives the radius."""
    repeats: int = 3
    threads: int = 1
    cell: tyro.conf.Suppress[str | None] = None
    folder: tyro.conf.Suppress[str] = ""


def features(n: int, d: int, shift: float) -> Tensor:
    """Float32 [n, d], positive and correlated as a network's are: 64 directions, noise, a ReLU."""
    torch.manual_seed(0)
    directions = torch.randn(64, d) / 8
    x = torch.empty(n, d)
    torch.manual_seed(1 + int(10 * shift))
    for part in torch.split(x, BATCH):
        part.copy_(torch.relu(torch.randn(len(part), 64) @ directions + 0.3 * torch.randn(len(part), d) + shift))
    return x


def moments_cells(options: Options) -> dict[str, Callable[[], list[float]]]:
    """Mean and covariance of the features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    x = features(options.n, options.d, 0.1)

    class Identity(torch.nn.Module):
        num_features = options.d

        def forward(self, images: Tensor) -> Tensor:
            return images

    def ours() -> list[float]:
        covariance = Moments.of(x).covariance
        return [float(covariance.trace()), float(covariance.square().sum().sqrt())]

    def theirs() -> list[float]:
        metric = FrechetInceptionDistance(feature=Identity())
        for part in torch.split(x, BATCH):
            metric.update(part, real=False)
        n, total, outer = (getattr(metric, f"fake_features_{name}") for name in ("num_samples", "sum", "cov_sum"))
        covariance = (outer - torch.outer(total, total) / n) / (n - 1)
        return [float(covariance.trace()), float(covariance.square().sum().sqrt())]

    return {"ours": ours, "theirs": theirs}


def frechet_cells(options: Options) -> dict[str, Callable[[], list[float]]]:
    """The distance from the same moments."""
    from torchmetrics.image.fid import _compute_fid

    real, fake = (Moments(**torch.load(Path(options.folder) / f"{side}.pt")) for side in ("real", "fake"))

    def theirs() -> list[float]:
        return [float(_compute_fid(real.mean, real.covariance, fake.mean, fake.covariance))]

    return {"ours": lambda: [frechet_distance(real=real, fake=fake)], "theirs": theirs}


def neighbours_cells(options: Options) -> dict[str, Callable[[], list[float]]]:
    """Precision, recall, density and coverage."""
    from prdc import compute_prdc

    real, fake = features(options.points, options.d, 0.0), features(options.points, options.d, 0.1)
    names = ("precision", "recall", "density", "coverage")

    def ours() -> list[float]:
        found = precision_recall(real, fake, options.k)
        return [getattr(found, name).value for name in names]

    def theirs() -> list[float]:
        found = compute_prdc(real.numpy(), fake.numpy(), options.k)
        return [float(found[name]) for name in names]

    return {"ours": ours, "theirs": theirs}


def kid_cells(options: Options) -> dict[str, Callable[[], list[float]]]:
    """The kernel distance over all pairs; theirs without an error bar, in the dtype it is given."""
    from torchmetrics.image.kid import poly_mmd

    real, fake = features(options.points, options.d, 0.0), features(options.points, options.d, 0.1)
    return {
        "ours": lambda: [kid(real, fake).value],
        "theirs": lambda: [float(poly_mmd(real.double(), fake.double()))],
    }


CELLS: dict[str, Callable[[Options], dict[str, Callable[[], list[float]]]]] = {
    "moments": moments_cells,
    "frechet": frechet_cells,
    "neighbours": neighbours_cells,
    "kid": kid_cells,
}
THEIRS = {"moments": "torchmetrics", "frechet": "torchmetrics", "neighbours": "prdc", "kid": "torchmetrics"}


def peak() -> float:
    """The most memory this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def run_cell(options: Options) -> None:
    """One measure, once; prints seconds, MiB and what came out."""
    table, side = str(options.cell).split("-")
    if table == "prepare":
        for name, shift in (("real", 0.0), ("fake", 0.1)):
            moments = Moments.of(features(options.n, options.d, shift))
            torch.save(vars(moments), Path(options.folder) / f"{name}.pt")
        return
    action = CELLS[table](options)[side]
    before, began = peak(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # prdc prints
        values = action()
    print(json.dumps({"seconds": time.process_time() - began, "mib": peak() - before, "values": values}))


def spawn(options: Options, cell: str, folder: str) -> dict[str, Any]:
    """Run a cell in a process of its own. This one must stay small: a child's peak starts at its parent's."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    chosen = json.dumps(asdict(options) | {"cell": cell, "folder": folder})
    arguments = [sys.executable, "-W", "ignore", __file__, chosen]
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


def row(options: Options, table: str, folder: str) -> None:
    pairs = [[spawn(options, f"{table}-{side}", folder) for side in ("ours", "theirs")] for _ in range(options.repeats)]
    seconds = [statistics.median(pair[side]["seconds"] for pair in pairs) for side in (0, 1)]
    mib = [max(pair[side]["mib"] for pair in pairs) for side in (0, 1)]
    ratio = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs)
    ours, theirs = (pairs[0][side]["values"] for side in (0, 1))
    off = max(abs(a - b) / abs(b or 1.0) for a, b in zip(ours, theirs, strict=True))
    n = options.points if table in ("neighbours", "kid") else options.n
    print(
        f"| {table} | {n} x {options.d} | {THEIRS[table]} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.2f} "
        f"| {mib[0]:.0f} | {mib[1]:.0f} | {off:.1e} |",
        flush=True,
    )


def main(options: Options) -> None:
    print(
        f"torch {torch.__version__}, {options.threads} threads of {os.cpu_count()} cores, {options.repeats} repeats\n"
    )
    print("| measure | features | theirs | our s | their s | ours / theirs | our MiB | their MiB | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.only in (None, "frechet"):
            spawn(options, "prepare-moments", folder)
        for table in CELLS:
            if options.only in (None, table):
                row(options, table, folder)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        chosen = Options(**json.loads(sys.argv[1]))
        torch.set_num_threads(chosen.threads)
        run_cell(chosen)
    else:
        main(tyro.cli(Options, description=__doc__))
