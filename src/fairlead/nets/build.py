"""Networks by name and size: the presets, and rebuilding a network from what a checkpoint recorded.

Importing this costs no torch: the command line's help is made from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import lookup, names

if TYPE_CHECKING:
    from torch import nn

PRESETS: dict[str, dict[str, Any]] = {
    "8x8": {"kind": "unet", "channels": 32, "multipliers": (1, 2), "blocks": 1},
    "28x28": {"kind": "unet", "channels": 32, "multipliers": (1, 3), "blocks": 1, "patch": 2, "narrow": True},
    "28x28-colour": {
        "kind": "unet", "channels": 48, "multipliers": (1, 2), "blocks": 1, "patch": 2, "cross": (), "narrow": True,
        "embed": 128,
    },
    "32x32": {
        "kind": "unet", "channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "patch": 2, "attention": (8,),
    },
    "latent-7": {"kind": "unet", "channels": 128, "multipliers": (1,), "blocks": 2},
    "latent-8": {"kind": "unet", "channels": 64, "multipliers": (1, 2), "blocks": 2},
    "dit-small": {"kind": "dit", "dim": 128, "depth": 6, "heads": 4, "patch": 2},
    "lesson-mnist": {"kind": "lesson-mnist"},
    "lesson-cifar10": {"kind": "lesson-cifar10"},
}  # fmt: skip

CLASSIFIER_PRESETS: dict[str, dict[str, Any]] = {
    "8x8": {"kind": "classifier", "channels": 32, "multipliers": (1, 2), "blocks": 1, "anchor": 32},
    "28x28": {"kind": "classifier", "channels": 32, "multipliers": (1, 2), "blocks": 1, "patch": 2, "anchor": 32},
    "32x32": {"kind": "classifier", "channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "patch": 2, "anchor": 32},
}

AUTOENCODER_PRESETS: dict[str, dict[str, Any]] = {
    "factor-2": {"kind": "autoencoder", "channels": 32, "multipliers": (1, 2), "blocks": 1, "latent": 4},
    "factor-4": {"kind": "autoencoder", "channels": 16, "multipliers": (1, 2, 4), "blocks": 1, "latent": 4},
}


def latent_preset(size: int) -> str:
    """The preset for latents of this height and width: halved once where they can be."""
    return "latent-7" if size % 2 else "latent-8"


def autoencoder_preset(size: int) -> str:
    """The preset for images of this height and width: a factor of 4 from 16 pixels on, where 4 divides them."""
    return "factor-2" if size < 16 or size % 4 else "factor-4"


def net_config(
    preset: str,
    channels_in: int,
    size: int,
    classes: int,
    *,
    presets: Mapping[str, dict[str, Any]] = PRESETS,
    **changes: Any,
) -> dict[str, Any]:
    """The JSON-ready configuration of a preset for images [channels_in, size, size] with ``classes`` labels.

    Args:
        presets: the table to look in, that of the denoisers or ``CLASSIFIER_PRESETS`` or ``AUTOENCODER_PRESETS``.
        changes: arguments of the network in place of the preset's.

    Raises:
        UsageError: for an unknown preset, or a change that the network has no argument for.
    """
    if preset not in presets:
        raise unknown("network preset", preset, presets)
    config = {**presets[preset], "channels_in": channels_in, "size": size, "classes": classes}
    accepted = set(inspect.signature(lookup("net", config["kind"])).parameters)
    for name, value in changes.items():
        if name not in accepted:
            raise UsageError(
                f"network preset {preset!r} ({config['kind']}) takes no {name!r} "
                f"(it takes: {', '.join(sorted(accepted))})"
            )
        config[name] = value
    return config


def build_net(config: dict[str, Any]) -> nn.Module:
    """The network of a configuration, freshly initialised from torch's global generator.

    Raises:
        UsageError: for an unknown kind, or a configuration that no network can have.
    """
    if config.get("kind") not in names("net"):
        raise unknown("network kind", config.get("kind"), names("net"))
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "kind"}
    try:
        for width in ("channels", "dim"):
            if config.get(width, 1) < 1:  # torch builds a network of width 0
                raise ValueError(f"{width}: expected at least 1, got {config[width]}")
        network: nn.Module = lookup("net", config["kind"])(**arguments)
    except UsageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"network {config} cannot be built: {str(error).splitlines()[0]}") from error
    return network


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
