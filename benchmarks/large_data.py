"""A set that is larger than the memory it may take: decoded, trained on, started again, its memory watched.

    python -m benchmarks.large_data --folder /tmp/large              # 200,000 images 64x64x3, 2.4 GB decoded
    python -m benchmarks.large_data --folder /tmp/large --n 20000    # a shorter one

Anonymous memory (RssAnon of /proc) is what the process itself holds; pages of mapped files are the kernel's, which
takes them back when others need them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

CLASSES = 10


@dataclass(frozen=True)
class LargeData:
    """Make the images, where they are not there yet, train on them and print what it took."""

    folder: Path
    """Where images, store and run go."""
    n: int = 200_000
    """Images."""
    side: int = 64
    """Pixels a side."""
    steps: int = 100
    """Optimiser steps."""
    batch_size: int = 64
    channels: int = 16

    def __post_init__(self) -> None:
        if self.n < CLASSES or self.steps < 1:
            raise SystemExit(f"expected at least {CLASSES} images and 1 step, got {self.n} and {self.steps}")

    def run(self) -> None:
        images = self.folder / f"images-{self.n}-{self.side}"
        began = time.perf_counter()
        with ProcessPoolExecutor() as pool:
            made = sum(
                pool.map(make, *zip(*((images, k, self.n, self.side) for k in range(0, self.n, 1000)), strict=True))
            )
        print(f"made {made:,} of {self.n:,} images in {time.perf_counter() - began:.0f} s", flush=True)
        for name in ("first start", "second start"):
            self._train(images, name)

    def _train(self, images: Path, name: str) -> None:
        """One training, its memory polled ten times a second."""
        command = [
            *(sys.executable, "-m", "fairlead", "train", "--data", str(images), "--steps", str(self.steps)),
            *("--batch-size", str(self.batch_size), "--channels", str(self.channels)),
            *("--out", str(self.folder / f"run-{time.time_ns()}")),
        ]
        began, first = time.perf_counter(), None
        environment = {**os.environ, "FAIRLEAD_CACHE": str(self.folder / "cache"), "PYTHONUNBUFFERED": "1"}
        said, most = self.folder / "header.txt", {"RssAnon": 0, "RssFile": 0}
        with open(said, "w") as header, subprocess.Popen(command, stdout=header, env=environment) as child:
            while child.poll() is None:
                for key, value in memory(child.pid).items():
                    most[key] = max(most[key], value)
                if first is None and "images 3x" in said.read_text():
                    first = time.perf_counter() - began
                time.sleep(0.1)
            if child.returncode:
                raise SystemExit(f"the training ended with {child.returncode}")
        print(
            f"{name}: {first or 0:.0f} s until the training began, {time.perf_counter() - began:.0f} s in all; at most "
            f"{most['RssAnon'] / 1e9:.2f} GB anonymous, {most['RssFile'] / 1e9:.2f} GB of mapped files",
            flush=True,
        )


def make(folder: Path, start: int, n: int, side: int) -> int:
    """Images ``start`` to ``start`` + 999 of a set, a folder a class; how many were not there yet."""
    rng, made = np.random.default_rng(start), 0
    for i in range(start, min(start + 1000, n)):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f"class {i % CLASSES}" / f"{i:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=85)
            made += 1
    return made


def memory(process: int) -> dict[str, int]:
    """RssAnon and RssFile of a process in bytes; {} if it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile") if name in fields}


if __name__ == "__main__":
    tyro.cli(LargeData).run()
