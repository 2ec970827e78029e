"""Which network fits images of a height and width. Importing this costs no torch: the command line's help needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.core.errors import UsageError
from fairlead.core.typed import Size

Sides = Size | tuple[Size, Size]
"""Of a network's images: one side of a square, or height and width."""
MOST = 160
"""Geometric mean of the sides up to which a preset is chosen by the size: beyond it latents cost a fraction."""
ATTENDED = 16
"""Longer side of the maps that attend to themselves where a preset does not say which."""
NOMINAL = {
    "8x8": 8, "28x28": 28, "28x28-colour": 28, "32x32": 32, "32x32-small": 32, "64x64": 64, "96x96": 96,
    "128x128": 128, "lesson-mnist": 28, "lesson-cifar10": 32,
}  # fmt: skip
"""Preset -> the side it is made for."""
BY_SIZE = ("8x8", "28x28", "32x32", "64x64", "96x96", "128x128")
"""Presets that are chosen by the size."""


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a network's argument ``size``."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def as_argument(height: int, width: int) -> int | list[int]:
    """The inverse of :func:`sides_of`, JSON-ready: an integer for squares."""
    return height if height == width else [height, width]


def shown_sides(size: int | Sequence[int]) -> str:
    """``64x96``: height x width."""
    return "x".join(map(str, sides_of(size)))


def divisor_of(config: Mapping[str, Any]) -> int:
    """What has to divide both sides of the images of a configuration; 1 for networks that say so themselves."""
    if config.get("kind") == "autoencoder":
        return 1
    patch = config.get("patch", 1)
    return int(patch * 2 ** (len(config.get("multipliers", (1,))) - 1))


def fits(config: Mapping[str, Any], size: int | Sequence[int]) -> bool:
    """Whether a preset can be built for images of this size."""
    height, width = sides_of(size)
    divisor, patch = divisor_of(config), config.get("patch", 1)
    if height % divisor or width % divisor:
        return False
    at = [max(height, width) // patch // 2**level for level in range(len(config.get("multipliers", (1,))))]
    return set(config.get("attention") or ()) <= set(at)


def preset_for(size: int | Sequence[int], presets: Mapping[str, Mapping[str, Any]], preferred: str = "") -> str:
    """The preset for images of this size: the ``preferred`` one where it is made for about that, else the nearest one
    that fits.

    Raises:
        UsageError: if none fits, with sizes that do.
    """
    scale = math.sqrt(math.prod(sides_of(size)))

    def apart(name: str) -> float:
        return abs(math.log(scale / NOMINAL[name]))

    if preferred and (
        preferred not in NOMINAL or (apart(preferred) <= math.log(1.5) and fits(presets[preferred], size))
    ):
        return preferred
    known = [name for name in BY_SIZE if name in presets]
    smallest = scale < NOMINAL[known[0]]
    near = [n for n in known if fits(presets[n], size) and (apart(n) <= math.log(2) or (smallest and n == known[0]))]
    if not near or scale > MOST:
        raise UsageError(f"no network preset fits images of {shown_sides(size)}; {_advice(size, presets)}")
    return min(near, key=apart)


def check_fits(
    preset: str, config: Mapping[str, Any], size: int | Sequence[int], presets: Mapping[str, Any], images: bool = False
) -> None:
    """Raise UsageError, with presets that fit, unless the preset's configuration can be built for this size; of
    ``images`` also with sizes that fit."""
    if fits(config, size):
        return
    others = [name for name in presets if fits(presets[name], size) and "kind" in presets[name]]
    named = f"--net {' or '.join(others)} can be built for it" if others else "no other preset can"
    raise UsageError(
        f"network preset {preset!r} takes images whose sides are multiples of {divisor_of(config)}, not "
        f"{shown_sides(size)}; {named}{f'; {_advice(size, presets)}' if images else ''}"
    )


def _advice(size: int | Sequence[int], presets: Mapping[str, Mapping[str, Any]]) -> str:
    """Sizes nearby that a preset fits, or latents."""
    height, width = sides_of(size)
    shrink = min(1.0, MOST / math.sqrt(height * width) * 0.8)
    nearby = []
    for step in (8, 16, 32):
        sides = [max(step, round(side * shrink / step) * step) for side in (height, width)]
        scale = math.sqrt(math.prod(sides))
        known = [n for n in BY_SIZE if n in presets and fits(presets[n], sides)]
        if scale <= MOST and any(abs(math.log(scale / NOMINAL[n])) <= math.log(2) for n in known):
            nearby.append(shown_sides(sides))
    sizes = f"pass --size {' or '.join(dict.fromkeys(nearby))} (height x width)" if nearby else "pass another --size"
    return f"{sizes}, or train on latents: fairlead train-autoencoder, then --latents (docs/latents.md)"
