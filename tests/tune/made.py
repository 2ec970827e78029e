"""Points, a model and an evaluator for tests of sweeps: made in milliseconds."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.schedule import VPCosine
from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.measure.evaluator import Evaluator
from fairlead.measure.judge import train_classifier
from fairlead.measure.metrics import Estimate
from fairlead.measure.score import Floor, Protocol, Score
from fairlead.models.model import LabelEncoder, Model, identity
from fairlead.tune.setting import Point, Setting

PROTOCOL = Protocol("f", "j", "r", 100, 60, 30, "l", "0..59")


def point(guidance: str, distance: float, accuracy: float, rows: float = 40, **setting: Any) -> Point:
    values = {
        "distance": distance + 1,
        "distance_debiased": distance,
        "accuracy": accuracy,
        "confidence": accuracy,
        "diversity": 9.0,
    }
    score = Score({name: Estimate(value, 0.01, 60) for name, value in values.items()}, PROTOCOL)
    examples = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    return Point(Setting(**{"checkpoint": "runs/a", **setting}, guidance=guidance), score, rows, 2.5, examples)


def floor(distance: float = 2.0) -> Floor:
    names = ("distance_debiased", "confidence", "diversity")
    metrics = {"distance": Estimate(distance, 0.1, 30), "accuracy": Estimate(0.997, 0.001, 30)}
    return Floor({**metrics, **{name: Estimate(1.0, 0.1, 30) for name in names}}, 30, 1, PROTOCOL, "30 held-out images")


def model(name: str = "runs/a", shape: tuple[int, ...] = (1, 8, 8)) -> Model:
    """Pictures of noise whose brightness is the class; another name is another strength."""
    strength = 0.2 + 0.1 * (sum(name.encode()) % 7)

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        label, keep = condition.values["label"], condition.keep["label"]
        level = torch.where(keep, (label + 1) / 3, 0.0).to(x)
        return 0.8 * x - strength * level.reshape(-1, *[1] * len(shape))

    return Model(
        NetworkDenoiser(network, VPCosine(), "eps"),
        VPCosine(),
        shape,
        LabelEncoder(("zero", "one", "two")),
        identity,
        ("zero", "one", "two"),
        metadata={"weights_hash": name, "step": 1, "data": "digits", "data_fingerprint": "x"},
    )


@cache
def evaluator() -> Evaluator:
    """Of three classes; the classifiers are hardly trained."""

    def few(split: str) -> ImageData:
        data = load_digits(split)
        return replace(data.subset(data.labels < 3), classes=("zero", "one", "two"))

    train = few("train")
    judge, features = (train_classifier(train, seed, 3, width=4, features=6) for seed in (1, 2))
    return Evaluator(train, few("test"), judge, features)


def table(folder: Path) -> list[dict[str, Any]]:
    """The lines of a sweep without what time they took, and the seal, which covers that too."""
    lines = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("ms_per_image", "seal")} for line in lines]


def files(folder: Path, pattern: str = "*") -> Sequence[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file())
