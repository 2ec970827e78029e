"""Networks by name and size: the presets, and rebuilding a network from what a checkpoint recorded.

Importing this costs no torch: the command line's help is made from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.core.registry import lookup, names
from fairlead.core.typed import check_arguments
from fairlead.nets.sizes import as_argument, check_fits, sides_of

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    "32x32-small": {
        "kind": "unet", "channels": 64, "multipliers": (1, 2, 2), "blocks": 1, "patch": 2, "attention": (8,),
    },
    "64x64": {"kind": "unet", "channels": 64, "multipliers": (1, 2, 3, 4), "blocks": 2, "patch": 2, "attention": None},
    "96x96": {"kind": "unet", "channels": 64, "multipliers": (1, 2, 3, 4), "blocks": 2, "patch": 2, "attention": None},
    "128x128": {
        "kind": "unet", "channels": 64, "multipliers": (1, 1, 2, 3, 4), "blocks": 2, "patch": 2, "attention": None,
    },
    "latent-7": {"kind": "unet", "channels": 128, "multipliers": (1,), "blocks": 2},
    "latent-8": {"kind": "unet", "channels": 64, "multipliers": (1, 2), "blocks": 2},
    "latent-32": {"kind": "unet", "channels": 64, "multipliers": (1, 2, 4), "blocks": 2, "attention": None},
    "dit-small": {"kind": "dit", "dim": 128, "depth": 6, "heads": 4, "patch": 2},
    "dit-32": {"kind": "dit", "dim": 256, "depth": 8, "heads": 4, "patch": 2},
    "dit-64": {"kind": "dit", "dim": 256, "depth": 8, "heads": 4, "patch": 4},
    "dit-96": {"kind": "dit", "dim": 384, "depth": 8, "heads": 6, "patch": 4},
    "dit-128": {"kind": "dit", "dim": 384, "depth": 8, "heads": 6, "patch": 8},
    "lesson-mnist": {"kind": "lesson-mnist"},
    "lesson-cifar10": {"kind": "lesson-cifar10"},
}  # fmt: skip

CLASSIFIER_PRESETS: dict[str, dict[str, Any]] = {
    "8x8": {"kind": "classifier", "channels": 32, "multipliers": (1, 2), "blocks": 1, "anchor": 32},
    "28x28": {"kind": "classifier", "channels": 32, "multipliers": (1, 2), "blocks": 1, "patch": 2, "anchor": 32},
    "32x32": {"kind": "classifier", "channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "patch": 2, "anchor": 32},
    "64x64": {"kind": "classifier", "channels": 64, "multipliers": (1, 2, 2, 2), "blocks": 1, "patch": 2, "anchor": 8},
    "96x96": {"kind": "classifier", "channels": 64, "multipliers": (1, 2, 2, 2), "blocks": 1, "patch": 2, "anchor": 8},
    "128x128": {
        "kind": "classifier",
        "channels": 64,
        "multipliers": (1, 2, 2, 2),
        "blocks": 1,
        "patch": 4,
        "anchor": 8,
    },
}

AUTOENCODER_PRESETS: dict[str, dict[str, Any]] = {
    "factor-2": {"kind": "autoencoder", "channels": 32, "multipliers": (1, 2), "blocks": 1, "latent": 4},
    "factor-4": {"kind": "autoencoder", "channels": 16, "multipliers": (1, 2, 4), "blocks": 1, "latent": 4},
}


def latent_preset(size: int | Sequence[int]) -> str:
    """The preset for latents of this height and width: halved once where they can be, twice if they are large."""
    sides = sides_of(size)
    if any(side % 2 for side in sides):
        return "latent-7"
    return "latent-32" if max(sides) > 16 and not any(side % 4 for side in sides) else "latent-8"


def autoencoder_preset(size: int | Sequence[int]) -> str:
    """The preset for images of this height and width: a factor of 4 from 16 pixels on, where 4 divides them."""
    sides = sides_of(size)
    return "factor-2" if min(sides) < 16 or any(side % 4 for side in sides) else "factor-4"


def net_config(
    preset: str,
    channels_in: int,
    size: int | Sequence[int],
    classes: int,
    *,
    presets: Mapping[str, dict[str, Any]] = PRESETS,
    **changes: Any,
) -> dict[str, Any]:
    """The JSON-ready configuration of a preset for images with ``classes`` labels.

    Args:
        size: of the images, one number for squares, or height and width.
        presets: the table to look in, that of the denoisers or ``CLASSIFIER_PRESETS`` or ``AUTOENCODER_PRESETS``.
        changes: arguments of the network in place of the preset's.

    Raises:
        UsageError: for an unknown preset, one that cannot be built for the size, or a change that the network has no
            argument for.
    """
    if preset not in presets:
        raise unknown("network preset", preset, presets)
    size = as_argument(*sides_of(size))
    config = {**presets[preset], "channels_in": channels_in, "size": size, "classes": classes}
    accepted = set(inspect.signature(lookup("net", config["kind"])).parameters)
    for name, value in changes.items():
        if name not in accepted:
            raise UsageError(
                f"network preset {preset!r} ({config['kind']}) takes no {name!r} "
                f"(it takes: {', '.join(sorted(accepted))})"
            )
        config[name] = value
    check_fits(preset, config, size, presets)
    return config


def build_net(config: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, freshly initialised from torch's global generator.

    Raises:
        UsageError: for an unknown kind, or a configuration that no network can have.
    """
    check_net(config)
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "kind"}
    try:
        network: nn.Module = lookup("net", _kind(config))(**arguments)
    except UsageError:
        raise
    # what torch, diffusers and Python say of sizes: ZeroDivisionError, OverflowError, IndexError, ...
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{_called(config)} cannot be built: {reason}") from error
    return network


def check_net(config: Mapping[str, Any]) -> None:
    """Refuse an unknown kind, and arguments that the network does not take, or not of that type; nothing is built.

    Raises:
        UsageError: as :func:`build_net`.
    """
    arguments = {key: value for key, value in config.items() if key != "kind"}
    check_arguments(lookup("net", _kind(config)), arguments, f"{_called(config)} cannot be built")


def build_for(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a configuration with the weights ``tensors``, which must be exactly those that it has.

    Whether they are is found out before anything of the configuration's sizes takes memory.

    Raises:
        UsageError: as :func:`build_net`, and for weights of other names, shapes or types.
    """
    check = getattr(lookup("net", _kind(config)), "check_weights", None) or _check_built
    check(config, tensors)
    import torch

    with torch.random.fork_rng(devices=[]):  # the initialisation is thrown away; the caller's stream stays put
        network = build_net(config)
    load_weights(network, tensors)
    return network


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network its weights.

    Raises:
        UsageError: for tensors that are not its own by name, shape and type.
    """
    from torch.nn.modules.module import _IncompatibleKeys

    wanted = network.state_dict()
    _check_alike(wanted, tensors)
    found: _IncompatibleKeys = network.load_state_dict(dict(tensors))
    assert not found.missing_keys
    assert not found.unexpected_keys


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


_LISTED = 24
"""Settings of a network that a message repeats."""
UNFIT = "its weights do not fit its description"


def _called(config: Mapping[str, Any]) -> str:
    """The network for a message; what is long in it is left out."""
    parts = [(key, value) for key, value in config.items() if len(key) <= 40][:_LISTED]
    return f"network { {key: value if len(repr(value)) <= 80 else '...' for key, value in parts} }"


def _kind(config: Mapping[str, Any]) -> str:
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in names("net"):
        raise unknown("network kind", kind, names("net"))
    return kind


def _check_built(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Build the network without memory for its weights, and compare them."""
    from fairlead.core.modules import weightless

    values = sum(value.numel() for value in tensors.values())
    check_sizes = getattr(lookup("net", _kind(config)), "check_sizes", None)
    if check_sizes is not None:
        check_sizes(config, values)
    with weightless(values):
        network = build_net(config)
    _check_alike(network.state_dict(), tensors)


def _check_alike(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        if name not in found:
            raise UsageError(f"{UNFIT} (Missing key {name!r})")
        given = found[name]
        if given.shape != value.shape:
            raise UsageError(
                f"{UNFIT} (size mismatch for {name}: expected {list(value.shape)}, got {list(given.shape)})"
            )
        if given.dtype != value.dtype:
            raise UsageError(f"{UNFIT} ({name} is {given.dtype}, expected {value.dtype})")
    for name in found:
        if name not in wanted:
            raise UsageError(f"{UNFIT} (Unexpected key {shortened(name)})")
