"""A training small enough for a test: a narrow U-Net on the 8x8 digits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.nets.build import net_config
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.config import TrainConfig
from fairlead.train.loop import StepRecord, Training

PARTS = ("ema", "raw", "training")


def tiny_net(**changes: Any) -> dict[str, Any]:
    return {**net_config("8x8", 1, 8, 10, channels=8, embed=16), **changes}


def tiny_config(**changes: Any) -> TrainConfig:
    fixed: dict[str, Any] = {"net": tiny_net(), "steps": 6, "batch_size": 8, "warmup": 2, "precision": "fp32"}
    return TrainConfig(**{**fixed, **changes})


def digits(n: int = 64) -> ImageData:
    return load_digits().subset(slice(0, n))


def trained(
    config: TrainConfig, out: Path | None, until: int | None = None, resume: bool = False, data: ImageData | None = None
) -> tuple[Training, list[StepRecord]]:
    """Train to the end, or stop as a killed process would after step ``until``."""
    training = Training(data or digits(), config, out, resume=resume)
    records = []
    for record in training.run():
        records.append(record)
        if record.step == until:
            break
    return training, records


def tensors_of(spec: str | Path) -> dict[str, Tensor]:
    """Everything a resumable checkpoint holds."""
    checkpoint = find_checkpoint(spec)
    return {f"{part}/{key}": value for part in PARTS for key, value in checkpoint.tensors(part).items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
