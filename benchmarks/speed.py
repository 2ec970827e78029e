"""How fast training and guided sampling are, as shares of what this machine can do, measured in one run.

    python -m benchmarks.speed                    one table; a few minutes on two cores, most of them compiling
    python -m benchmarks.speed --only training    no compiler needed

Training: multiplications and additions of the network's layers a second (forward and backward, counted by torch), over
those of one large matrix product in the same precision, measured in turns with the steps. Sampling: time over that of
the same network calls with nothing around them, equally compiled or not, again in turns. Ratios are medians over rounds
of neighbours. The network is the preset 32x32 for colour images; nothing is trained to the end.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import model_for, ratio_of, timed
from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser, autocast
from fairlead.core.schedule import VPCosine
from fairlead.data.images import ImageData
from fairlead.models.compiled import compiled
from fairlead.models.model import Model
from fairlead.nets.build import net_config
from fairlead.nets.compiling import no_compiler
from fairlead.sample.run import sample
from fairlead.train.config import TrainConfig
from fairlead.train.environment import resolve_precision, training_device
from fairlead.train.loop import Training
from fairlead.train.malloc import keep_freed_memory

CLASSES = tuple(str(i) for i in range(10))
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """Arguments of this benchmark."""

    only: Literal["training", "sampling"] | None = None
    channels: tuple[int, ...] = (32, 64)
    """Widths of the networks that are trained; samples are of the first."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """In which they are trained; samples are made in that which `auto` takes here."""
    batch_size: int = 128
    """Of training steps."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """What it multiplies is not counted."""
    compile_training: bool = False
    """Training steps compiled too: minutes more."""
    steps: int = 5
    """Of a sampling run of 64 images."""
    seconds: float = 12.0
    """For each line, beside warming up and compiling; at least three rounds."""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Row = tuple[str, float, float, str]
"""What, images a second, ratio, and over what."""


def in_turns(actions: Sequence[Callable[[], Any]], seconds: float) -> list[list[float]]:
    """Seconds of every action in every round, for about ``seconds`` and at least three rounds; two rounds of warming up
    before, in which compilers compile."""
    for _ in range(2):
        for action in actions:
            action()
    taken: list[list[float]] = []
    began = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - began < seconds:
        backwards = -1 if len(taken) % 2 else 1
        taken.append([timed(action) for action in actions[::backwards]][::backwards])
    return taken


def middle(taken: Sequence[Sequence[float]], of: int) -> float:
    return statistics.median(times[of] for times in taken)


def product(dtype: torch.dtype, device: torch.device, size: int = 2048) -> tuple[Callable[[], None], float]:
    """One large matrix product, and its operations."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)
        waited(device)

    return multiply, 2.0 * size**3


def waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def a_training(channels: int, precision: Any, options: Options, compile: bool = False) -> Training:
    images = torch.randint(0, 256, (2048, 3, 32, 32), dtype=torch.uint8)
    data = ImageData(images, torch.arange(2048) % 10, CLASSES, "random", "train", True)
    config = TrainConfig(
        net_config("32x32", 3, 32, 10, channels=channels),
        batch_size=options.batch_size,
        steps=1_000_000,
        precision=precision,
        optimizer=options.optimizer,
    )
    return Training(data, config, None, compile=compile)


def operations(training: Training) -> float:
    """Of the layers of the network in one step, forward and backward."""
    device = training.accelerator.device
    data = training.feed.of(training.step)
    with FlopCounterMode(display=False) as counter:
        output = training.task.output(training.network, data.inputs, training.config)
        training.task.loss(output, data.x0, data.labels, data.draw, training.config, training.schedule).backward()
    training.optimizer.zero_grad(set_to_none=True)
    waited(device)
    return float(counter.get_total_flops())


def trained(options: Options) -> list[Row]:
    rows: list[Row] = []
    for channels in options.channels:
        work = operations(a_training(channels, "fp32", options))
        for precision in options.precisions:
            for compile in (False, True) if options.compile_training else (False,):
                training = a_training(channels, precision, options, compile)
                for note in training.notes:
                    print(note)
                device = training.accelerator.device
                multiply, each = product(TYPES[precision], device)

                def step(training: Training = training, device: torch.device = device) -> None:
                    training.take_step()
                    waited(device)

                taken = in_turns((step, multiply), options.seconds)
                training.feed.close()
                share = ratio_of(taken, 1, 0) * work / each
                peak = each / middle(taken, 1) / 1e9
                name = f"training step, {channels} channels, {precision}{', compiled' * training.compiled}"
                rows.append((name, options.batch_size / middle(taken, 0), share, f"matrix peak, {peak:,.0f} GFLOP/s"))
    return rows


def bare(model: Model, n: int, calls: int, lower: torch.dtype | None) -> Callable[[], None]:
    """So many calls of the model's network for n samples, kept and null, with nothing around them."""
    assert isinstance(model.denoiser, NetworkDenoiser)
    network, device = model.denoiser.network, model.device
    x, time = torch.randn(2 * n, *model.shape, device=device), torch.full((2 * n,), 500.0, device=device)
    kept = Condition.of(label=torch.arange(n) % 10)
    both = Condition.cat([kept, kept.drop()]).to(device)

    def call() -> None:
        with torch.no_grad(), autocast(device, lower):
            for _ in range(calls):
                network(x, time, both)
        waited(device)

    return call


def sampled(options: Options) -> list[Row]:
    device = training_device()
    model = replace(model_for("32x32", 3, 32, VPCosine(), "v", channels=options.channels[0]), device=device)
    assert isinstance(model.denoiser, NetworkDenoiser)
    assert isinstance(model.denoiser.network, torch.nn.Module)
    model.denoiser.network.to(device)
    precision: Any = resolve_precision("auto", device)
    lower = torch.bfloat16 if precision == "bf16" else None
    specs: list[Any] = [model.classes[i % 10] for i in range(64)]

    def run(compile: bool) -> Callable[[], Any]:
        return lambda: sample(
            model, specs, guidance="cfg(3)", steps=options.steps, precision=precision, compile=compile
        )

    reason = no_compiler(model.device.type)
    if reason:
        print(f"compiled sampling is left out: {reason}")
    actions = [run(False), bare(model, 64, options.steps, lower)]
    if not reason:
        actions += [run(True), bare(compiled(model), 64, options.steps, lower)]
    taken = in_turns(actions, 2 * options.seconds)
    name = f"`cfg(3)`, {options.steps} steps of 64 images, {options.channels[0]} channels, {precision}"
    rows = [(name, 64 / middle(taken, 0), ratio_of(taken, 0, 1), "bare calls")]
    if not reason:
        rows.append((f"{name}, compiled", 64 / middle(taken, 2), ratio_of(taken, 2, 3), "bare compiled calls"))
        rows.append((f"{name}, compiled", 64 / middle(taken, 2), ratio_of(taken, 2, 0), "the same uncompiled"))
    return rows


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = [] if options.only == "sampling" else trained(options)
    rows += [] if options.only == "training" else sampled(options)
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "not known"
    print(f"torch {torch.__version__}, {options.threads} threads of {os.cpu_count()} cores, load {busy}\n")
    print("| measured | images a second | ratio | over |\n| --- | --- | --- | --- |")
    for what, speed, ratio, over in rows:
        print(f"| {what} | {speed:,.0f} | {ratio:.3f} | {over} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
