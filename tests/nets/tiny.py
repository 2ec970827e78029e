"""One tiny configuration of every registered network, U-Nets in all their conditionings."""

from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.nets.build import build_net

CHANNELS, SIZE, CLASSES = 2, 8, 5

UNET = {"kind": "unet", "channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "embed": 16}
TINY: dict[str, dict[str, Any]] = {
    "unet-adaptive": {**UNET, "conditioning": "adaptive"},
    "unet-add": {**UNET, "conditioning": "add"},
    "unet-concat": {**UNET, "conditioning": "concat", "patch": 2, "attention": ()},
    "unet-fuse": {**UNET, "conditioning": "fuse"},
    "unet-narrow": {**UNET, "narrow": True},
    "dit": {"kind": "dit", "dim": 16, "depth": 2, "heads": 2, "embed": 16},
    "dit-fuse": {"kind": "dit", "dim": 16, "depth": 2, "heads": 2, "embed": 16, "conditioning": "fuse"},
    "lesson-mnist": {"kind": "lesson-mnist", "channels": 8},
    "lesson-cifar10": {"kind": "lesson-cifar10", "channels": 8, "embed": 16},
}


def tiny(name: str, **changes: Any) -> Any:
    return build_net({**TINY[name], "channels_in": CHANNELS, "size": SIZE, "classes": CLASSES, **changes})


def shaken(network: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """With noise on every trainable parameter, so that nothing is zero any more."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.to(dtype).eval()


def inputs(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """x [n, c, s, s] and times [n] of the network."""
    return torch.randn(n, CHANNELS, SIZE, SIZE, dtype=dtype), torch.linspace(3, 990, n, dtype=dtype)


def labels(*values: int | None) -> Condition:
    """A label per sample; None is null."""
    keep = torch.tensor([value is not None for value in values])
    return Condition(len(values), {"label": torch.tensor([value or 0 for value in values])}, {"label": keep})
