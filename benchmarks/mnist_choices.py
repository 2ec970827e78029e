"""Which choices matter on MNIST? Trains short variants of one recipe and scores them; one JSON line a result.

    python benchmarks/mnist_choices.py --data ../shared/data/mnist --out runs/choices --run runs/mnist
    python benchmarks/mnist_choices.py --data ../shared/data/mnist --out runs/choices --only v "v, min-SNR"
    python benchmarks/mnist_choices.py --data ../shared/data/mnist --out runs/choices --seconds 240 --only x0

Training choices are compared at about equal wall time and equal seeds; sampling choices on one model, from the same
noise.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, stratified_order
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import cached_classifier
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.nets.build import net_config
from fairlead.sample.run import sample
from fairlead.sample.sampling import Precision
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training

SHOWN = ("distance", "accuracy", "saturation")
COSINE: dict[str, Any] = {"name": "vp_cosine"}
WIDE: dict[str, Any] = {"multipliers": (1, 4), "narrow": False}
"""The network of the first recipe: all variants but those that name another."""
X0: dict[str, Any] = {"objective": "x0", "weighting": "capped_v", "optimizer": "muon", "batch_size": 32}
TRAINING: dict[str, dict[str, Any]] = {
    "v": {},
    "flow": {"objective": "flow", "schedule": {"name": "flow"}},
    "flow, shift 2": {"objective": "flow", "schedule": {"name": "flow", "shift": 2.0}},
    "x0": {"objective": "x0"},
    "eps": {"objective": "eps"},
    "v, min-SNR": {"weighting": "min_snr"},
    "v, linear schedule": {"schedule": {"name": "vp_linear"}},
    "v, half the rate": {"lr": 1e-3},
    "v, twice the rate": {"lr": 4e-3},
    "v, batches of 32": {"batch_size": 32, "steps": 2000},
    "v, batches of 128": {"batch_size": 128, "steps": 600},
    "v, narrow and deep": {"net": {"channels": 32, "multipliers": (1, 4)}, "steps": 1500},
    "v, wide at 14x14": {"net": {"channels": 64, "multipliers": (1, 2)}, "steps": 1100},
    "v, patches of 4": {"net": {"patch": 4, "channels": 128, "multipliers": (1,), "blocks": 2}, "steps": 1700},
    "v, muon": {"optimizer": "muon", "batch_size": 32},
    "x0, muon": {**X0},
    "x0, muon, narrow (1, 2)": {**X0, "net": {"multipliers": (1, 2), "narrow": True}},
    "x0, muon, narrow (1, 3)": {**X0, "net": {"multipliers": (1, 3), "narrow": True}},
    "x0, muon, narrow (1, 3), uniform": {**X0, "weighting": "uniform", "net": {"multipliers": (1, 3), "narrow": True}},
    "x0, muon, narrow (1, 3), batches of 48": {**X0, "batch_size": 48, "net": {"multipliers": (1, 3), "narrow": True}},
    "x0, muon, (1, 3)": {**X0, "net": {"multipliers": (1, 3)}},
    "x0, muon, 48 channels": {**X0, "net": {"channels": 48, "multipliers": (1, 2)}},
    "x0, muon, 64 channels": {**X0, "net": {"channels": 64, "multipliers": (1, 2)}},
    "x0, muon, patches of 4": {**X0, "net": {"patch": 4, "channels": 128, "multipliers": (1,), "blocks": 2}},
    "x0, muon, batches of 16": {**X0, "batch_size": 16},
    "x0, muon, twice the rate": {**X0, "lr": 4e-3},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "ddim trailing": {},
    "ddim log_snr": {"grid": "log_snr"},
    "ddim karras": {"grid": "karras"},
    "ddim leading": {"grid": "leading"},
    "ddim eta 1": {"sampler": "ddim(eta=1)"},
    "ddpm": {"sampler": "ddpm"},
    "heun 10": {"sampler": "heun", "steps": 10},
    "dpmpp_2m": {"sampler": "dpmpp_2m"},
    "dpmpp_2m 40": {"sampler": "dpmpp_2m", "steps": 40},
    "dpmpp_2m log_snr": {"sampler": "dpmpp_2m", "grid": "log_snr"},
    "dpmpp_2m_sde": {"sampler": "dpmpp_2m_sde"},
    "clip": {"finish": " | clip()"},
    "threshold": {"finish": " | threshold(0.995)"},
    "ddim trailing, fp32": {"precision": "fp32"},
}


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    data: str
    """MNIST: a parquet folder, or "mnist" for the hub's."""
    out: Path = Path("runs/choices")
    steps: int = 1500
    """Steps of 64 images; variants of other networks and batch sizes have their own, for about the same wall time."""
    seconds: float = 0.0
    """Give every variant as many steps as take this long, by the time of its first ones; 0: ``steps``."""
    n: int = 1000
    scales: tuple[float, ...] = (1.0, 1.25)
    precision: Precision = "bf16"
    """Of sampling."""
    only: tuple[str, ...] = ()
    """Variants of training to run."""
    run: Path | None = None
    """A trained model to try the variants of sampling on."""


def score(evaluator: Evaluator, model: Model, n: int, scale: float, finish: str = "", **options: Any) -> dict[str, Any]:
    """Sample n images, classes in the reference's proportions, seeds from 0, and measure them."""
    labels = evaluator.reference.labels
    conds = labels[stratified_order(labels, seed=0)[:n]].tolist()
    guidance = f"cfg({scale:g}){finish}" if scale != 1 or finish else None
    run = sample(model, conds, guidance=guidance, **options)
    assert run.images is not None
    metrics = evaluator.score(run.images, run.condition.values["label"], run.x0, run.seeds).metrics
    return {
        "scale": scale,
        "n": n,
        **{name: str(metrics[name]) for name in SHOWN},
        "ms_per_image": round(1000 * run.seconds / n, 2),
        "rows_per_image": run.cost.rows / n,
    }


def fitted(train: ImageData, config: TrainConfig, seconds: float) -> TrainConfig:
    """With as many steps as take about ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        stamps = [time.perf_counter() for _ in Training(train, replace(config, steps=24), folder).run()]
    a_step = statistics.median(after - before for before, after in pairwise(stamps[3:]))
    return replace(config, steps=max(1, round(seconds / a_step)))


def main(options: Options) -> None:
    train, test = load_data(options.data), load_data(options.data, "test")
    quick: dict[str, Any] = {"sampler": "dpmpp_2m_sde", "precision": options.precision}
    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / "results.jsonl").open("a")

    def record(**row: Any) -> None:
        print(json.dumps(row), flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    judge, features = cached_classifier(train, "judge"), cached_classifier(train, "features")
    evaluator = Evaluator(train, test, judge, features)
    floor = evaluator.floor(options.n)
    record(real=True, n=floor.n, **{name: str(floor.metrics[name]) for name in SHOWN})
    for name, changes in TRAINING.items():
        if name not in options.only:
            continue
        changes = dict(changes)
        net = net_config("28x28", 1, 28, 10, **{**WIDE, **changes.pop("net", {})})
        config = TrainConfig(
            net, **{"schedule": COSINE, "ema": 0.995, "batch_size": 64, "steps": options.steps, **changes}
        )
        if options.seconds:
            config = fitted(train, config, options.seconds)
        folder = options.out / name.replace(" ", "-").replace(",", "")
        began, loss = time.perf_counter(), 0.0
        for step in Training(train, config, folder, resume=True).run():
            loss = step.loss
        record(train=name, steps=config.steps, seconds=round(time.perf_counter() - began, 1), loss=round(loss, 4))
        model = load(folder)
        for scale in options.scales:
            record(train=name, **score(evaluator, model, options.n, scale, **quick))
        if config.objective == "eps":
            for scale in options.scales:
                record(train=f"{name} | clip()", **score(evaluator, model, options.n, scale, " | clip()", **quick))
    if options.run is not None:
        model = load(options.run)
        for name, arguments in SAMPLING.items():
            how = {"precision": options.precision, **arguments}
            for scale in options.scales:
                record(sampling=name, **score(evaluator, model, options.n, scale, **how))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
