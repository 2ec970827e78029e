"""Embeddings of time and conditions. The null token of a condition is a parameter here, so it is in the checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError


def sinusoidal(time: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sine-cosine features [n, dim] of times [n] in units of network time (0..1000), dim even (1706.03762, 3.5)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=time.device) / half)
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """time [n] -> [n, dim]: sinusoidal features through a two-layer MLP."""

    def __init__(self, dim: int, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        features = sinusoidal(time, self.features)
        out: Tensor = self.mlp(features.to(next(self.mlp.parameters()).dtype))
        return out


class LabelEmbedding(nn.Module):
    """A class label -> [n, dim], or the learned null token where the label is not kept.

    A floating value [n, dim] is taken as an embedding already made (by :meth:`embed`, then changed or mixed).

    Args:
        classes: number of classes; labels are 0 .. classes - 1.
        name: the condition's name.
        one_hot: start as one-hot vectors (dim = classes) with a zero null token and do not train the class vectors.
    """

    def __init__(self, classes: int, dim: int, name: str = "label", one_hot: bool = False) -> None:
        super().__init__()
        self.name = name
        table = torch.eye(classes) if one_hot else torch.randn(classes, dim)
        self.table = nn.Parameter(table, requires_grad=not one_hot)
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(self, condition: Condition) -> Tensor:
        label, keep = read(condition, self.name)
        picked = label.to(self.table.dtype) if label.is_floating_point() else self.table[torch.where(keep, label, 0)]
        return torch.where(keep[:, None], picked, condition.null.get(self.name, self.null).to(picked.dtype))

    def embed(self, condition: Condition) -> Condition:
        """The condition with its labels replaced by their embeddings."""
        label, keep = read(condition, self.name)
        if label.is_floating_point():
            return condition
        embedded = self.table.detach()[torch.where(keep, label, 0)]
        return replace(condition, values={**condition.values, self.name: embedded})


class ScaleEmbedding(nn.Module):
    """The condition "scale", float [n] -> [n, dim]: the scale of a guidance that the network itself answers for, as
    Fourier features beside those of the time (2210.03142, section 3.1). Where it is not kept, or the condition has
    none, a learned null: no guidance.

    Args:
        low, high: the range of the scale, low < high.

    All outputs are 0 at first, so that a network that is given one goes on as it was.
    """

    ANGLE = 10.0
    """Of the fastest feature over the range, in radians. A time has 1000; with as many, the scales between those that
    were taught would have to be learnt one by one."""

    def __init__(self, low: float, high: float, dim: int) -> None:
        super().__init__()
        if not low < high:
            raise UsageError(f"scale: expected a range (low, high) with low < high, got ({low:g}, {high:g})")
        self.low, self.high = low, high
        self.features = TimeEmbedding(dim)
        for parameter in self.features.mlp[-1].parameters():
            nn.init.zeros_(parameter)
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(self, condition: Condition) -> Tensor:
        if "scale" not in condition.values:
            return self.null.expand(condition.n, -1)
        scale, keep = condition.values["scale"], condition.keep["scale"]
        out = self.features(self.ANGLE * (scale - self.low) / (self.high - self.low))
        return torch.where(keep[:, None], out, self.null.to(out.dtype))

    def embed(self, condition: Condition) -> Condition:
        """The condition with a scale that is not kept, where it has none."""
        if "scale" in condition.values:
            return condition
        scale = torch.full((condition.n,), self.low, device=self.null.device)
        keep = torch.zeros(condition.n, dtype=torch.bool, device=scale.device)
        return replace(condition, values={**condition.values, "scale": scale}, keep={**condition.keep, "scale": keep})


def read(condition: Condition, name: str) -> tuple[Tensor, Tensor]:
    """(values, keep) of a condition the network was built for."""
    if name not in condition.values:
        raise UsageError(
            f"the network is conditioned on {name!r}, the condition given has "
            f"{sorted(condition.values) or 'no names'}; make it with model.encode(...)"
        )
    return condition.values[name], condition.keep[name]
