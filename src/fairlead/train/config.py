"""What a training run is made of, checked at the door, and the named recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from fairlead.core.errors import UsageError, unknown
from fairlead.core.prediction import Objective, check_pair
from fairlead.core.schedule import schedule_from_config

Weighting = Literal["uniform", "min_snr"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the bits of a training run, beside the data.

    Attributes:
        net: the network's configuration, from ``nets.build.net_config``.
        data: arguments of ``load_data`` that give the images again, so that a sweep can find them; {} if there are
            none.
        schedule: name and arguments of the noise schedule.
        objective: what the network is trained to output.
        weighting: of the squared error over noise levels. "uniform" on the objective's own output; "min_snr" is
            min(SNR, 5) in x0 units (2303.09556).
        steps: optimiser steps in all; the learning rate is planned over them.
        batch_size: samples a step, over all processes.
        lr: peak learning rate, after ``warmup`` steps from 0; cosine to 0 at the end.
        drop: probability that a sample's condition is replaced by null (per name and sample; 2207.12598).
        ema: decay of the weight average at the end; it warms up as (1 + k) / (10 + k).
        clip: largest norm of the gradient.
        precision: "bf16" autocasts the network; "auto" does so where the processor has bf16 matrix units.
        snapshot_every: keep the averaged weights of every so many steps (0: none), as weak models for autoguidance.
        checkpoint_every: steps between checkpoints that can be resumed (0: only the last).
    """

    net: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "vp_cosine"})
    objective: Objective = "v"
    weighting: Weighting = "uniform"
    steps: int = 2000
    batch_size: int = 128
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.0
    drop: float = 0.1
    ema: float = 0.999
    clip: float = 1.0
    precision: Precision = "auto"
    seed: int = 0
    snapshot_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        check_pair(self.objective, schedule_from_config(self.schedule))
        for name, choices in (("weighting", get_args(Weighting)), ("precision", get_args(Precision))):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        for name, low in (
            ("steps", 1), ("batch_size", 1), ("warmup", 0), ("snapshot_every", 0), ("checkpoint_every", 0), ("seed", 0)
        ):  # fmt: skip
            if getattr(self, name) < low:
                raise UsageError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for name, high in (("drop", 1.0), ("ema", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise UsageError(f"{name}: expected a number from 0 to {high:g}, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UsageError(f"weight_decay: expected 0 or more, got {self.weight_decay}")

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Recipe:
    """A preset of the command line: which network on which data, and how it is trained and sampled."""

    data: str
    net: str
    train: dict[str, Any]
    about: str


RECIPES: dict[str, Recipe] = {
    "digits": Recipe("digits", "8x8", {"steps": 1600, "batch_size": 64}, "8x8 digits; about a minute on two cores"),
    "mnist": Recipe("mnist", "28x28", {"steps": 4000, "batch_size": 64}, "28x28 digits; about 12 minutes on two cores"),
    "cifar10": Recipe("cifar10", "32x32", {"steps": 100_000, "lr": 5e-4, "ema": 0.9999}, "32x32 photographs; a GPU"),
    "lesson-mnist": Recipe(
        "mnist",
        "lesson-mnist",
        {"schedule": {"name": "vp_linear"}, "objective": "eps", "lr": 2e-4, "warmup": 0, "steps": 23_450, "ema": 0.0},
        "the lesson's MNIST recipe: 50 epochs of 128, linear schedule, eps, constant-size network",
    ),
    "lesson-cifar10": Recipe(
        "cifar10",
        "lesson-cifar10",
        {
            "schedule": {"name": "vp_cosine"}, "objective": "eps", "lr": 2e-4, "warmup": 1000, "steps": 19_500,
            "weight_decay": 1e-4, "drop": 0.15, "ema": 0.9999,
        },
        "the lesson's CIFAR-10 recipe: 50 epochs of 128, cosine schedule, eps; a GPU",
    ),
}  # fmt: skip
