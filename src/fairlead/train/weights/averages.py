"""Averages of the weights: exponential ones, and powers of the step (Karras 2024, 2312.02696), of any width afterwards.

Two power averages are stored at several steps of a training. One of another width is the sum of these whose weights,
as a function of the step, come nearest to its own: section 3.2 and appendix C, but with coefficients that sum to 1, so
that a weight which never moved comes out as it is.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairlead.core.errors import UsageError, note, shortened, unknown
from fairlead.nets.build import load_weights
from fairlead.train.checkpoint import Checkpoint, find_checkpoint, step_folder, steps_of

Move = Callable[[list[Tensor], list[Tensor], int], None]
"""How averaged tensors take in the present ones, after so many updates."""
WIDE, NARROW = 0.10, 0.05
"""Widths of the two that are stored, as in the paper: standard deviations of their weights, in lengths of the run."""
WORST = 0.1
"""Largest error of a sum that is taken for the average."""


class Average(nn.Module):
    """An average of a network's parameters and buffers, ``module``, after so many ``updates``. They are counted on the
    CPU, where reading the count waits for nothing.

    Args:
        move: called with the averaged tensors, the present ones and the number of updates before, from the second on:
            the first copies.
    """

    def __init__(self, network: nn.Module, move: Move) -> None:
        super().__init__()
        self.module, self.updates, self._move = copy.deepcopy(network), 0, move

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take what the network is now into the average."""
        averaged, current = ([*net.parameters(), *net.buffers()] for net in (self.module, model))
        if self.updates:
            self._move(averaged, current, self.updates)
        else:
            torch._foreach_copy_(averaged, current)
        self.updates += 1


def average_of(network: nn.Module, ema: float | str) -> Average:
    """The average of ``TrainConfig.ema``, in a copy of the network."""
    return PowerAverages(network) if ema == "power" else Average(network, ema_average(float(ema)))


def averages(average: Average) -> dict[str, dict[str, Tensor]]:
    """Its weights, as parts of a checkpoint."""
    narrow = {"narrow": average.narrow.module.state_dict()} if isinstance(average, PowerAverages) else {}
    return {"ema": average.module.state_dict(), **narrow}


def restore_averages(average: Average, stored: Callable[[str], dict[str, Tensor]], step: int) -> None:
    """Let an average go on after ``step`` steps from what :func:`averages` gave, by the name of the part.

    Raises:
        UsageError: for tensors that are not its own.
    """
    both = {"ema": average} | ({"narrow": average.narrow} if isinstance(average, PowerAverages) else {})
    for part, each in both.items():
        load_weights(each.module, stored(part))
        each.updates = step


class PowerAverages(Average):
    """Two averages of the weights theta after steps 1 to n, whose weights grow with a power of the step (Karras 2024,
    2312.02696, section 3.1): (k / n)^(gamma + 1) - ((k - 1) / n)^(gamma + 1) for step k.

    They are as wide in the middle of a run as at its end, in proportion, and need no warm-up. The average itself has
    the width :data:`WIDE`, ``narrow`` :data:`NARROW`. From those of several steps, one of another width is rebuilt:
    :func:`average_of_width`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, power_average(WIDE))
        self.narrow = Average(network, power_average(NARROW))

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(model)
        self.narrow.update_parameters(model)


def exponent_of(width: float) -> float:
    """gamma of the power average of this width (2312.02696, equation 3 and the cubic behind algorithm 2): the positive
    root of (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2.

    Raises:
        UsageError: for a width at which gamma is not above 0: it lies between 0 and 0.288, that of the plain mean.
    """
    if not 0 < width < 12**-0.5:
        raise UsageError(f"width of an average: expected a number above 0 and below 0.288, such as 0.1, got {width:g}")
    t = width**-2.0
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def power_average(width: float) -> Move:
    """For :class:`Average`, whose first update copies: decay (k / (k + 1))^(gamma + 1) after k updates."""
    power = exponent_of(width) + 1

    def update(averaged: list[Tensor], current: list[Tensor], k: int) -> None:
        torch._foreach_lerp_(averaged, current, -math.expm1(power * math.log(k / (k + 1))))

    return update


def ema_average(decay: float) -> Move:
    """For :class:`Average`: decay min(decay, (1 + k) / (10 + k)) after k updates."""

    def update(averaged: list[Tensor], current: list[Tensor], k: int) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return update


def read_weights(checkpoint: Checkpoint, weights: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of "ema", "raw" or, for the average of width 0.08, "ema:0.08"; and a hash that tells them apart.

    Raises:
        UsageError: for other names; if they are not there, damaged, or cannot be rebuilt.
    """
    if weights in ("ema", "raw"):
        return checkpoint.tensors(weights), checkpoint.about["files"][weights]
    return average_of_width(checkpoint, width_in(weights))


def width_in(weights: str) -> float:
    """0.08 of "ema:0.08".

    Raises:
        UsageError: for anything else.
    """
    name, colon, width = weights.partition(":")
    if name != "ema" or not colon:
        raise unknown("weights", weights, ("ema", "raw", "ema:0.08"))
    try:
        value = float(width)
    except ValueError:
        raise UsageError(f"weights {shortened(weights)}: expected a width behind the colon, as in ema:0.08") from None
    exponent_of(value)
    return value


def average_of_width(checkpoint: Checkpoint, width: float) -> tuple[dict[str, Tensor], str]:
    """The power average of this width at the step of a checkpoint, from those that its run has stored up to there.

    Returns:
        tensors, and a hash of what they were made of.

    Raises:
        UsageError: if the run has no power averages, or those that it has do not come near (:data:`WORST`).
    """
    ema = checkpoint.about["train"].get("ema")
    if ema != "power":
        raise UsageError(
            f"checkpoint {checkpoint.folder}: an average of another width needs a run trained with --ema power, this "
            f"one has --ema {ema}"
        )
    run, names = checkpoint.folder.parent, {WIDE: "ema", NARROW: "narrow"}
    own = step_folder(run, checkpoint.step) == checkpoint.folder
    earlier = [step for step in steps_of(run) if step < checkpoint.step] if own else []
    sources = [*(find_checkpoint(step_folder(run, step)) for step in earlier), checkpoint]
    stored = [(source, width) for source in sources for width in names]
    factors, error = coefficients([(source.step, width) for source, width in stored], checkpoint.step, width)
    if error > WORST:
        raise UsageError(
            f"checkpoint {checkpoint.folder}: averages of {len(sources)} steps give none of width {width:g} (error "
            f"{error:.0%} of its weights over the steps, expected at most {WORST:.0%}); take a width nearer to "
            f"{NARROW:g} or {WIDE:g}, or store more with --snapshot-every"
        )
    total: dict[str, Tensor] = {}
    for (source, which), factor in zip(stored, factors, strict=True):
        for name, value in source.tensors(names[which]).items():
            part = value.double() * factor
            total[name] = total[name] + part if name in total else part
    like = checkpoint.tensors("ema")
    if total.keys() != like.keys() or any(total[name].shape != value.shape for name, value in like.items()):
        raise UsageError(f"checkpoint {checkpoint.folder}: averages of earlier steps are of another network")
    note(
        f"{checkpoint.folder}: average of width {width:g}, rebuilt from those of {len(sources)} steps; its weights over"
        f" the steps are off by {error:.2%}"
    )
    what = [width, [[source.step, source.about["files"][names[which]]] for source, which in stored]]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return {name: total[name].to(value.dtype) for name, value in like.items()}, digest


def coefficients(stored: Sequence[tuple[int, float]], step: int, width: float) -> tuple[list[float], float]:
    """The sum of stored averages that comes nearest to one of ``width`` at ``step``, by least squares over the weights
    that each gives to the steps (2312.02696, algorithm 3), among sums of 1.

    Args:
        stored: step and width of each.

    Returns:
        a factor for each, and the error: the root of the squared difference of the weights over the steps, summed, in
        units of that of the average's own weights. What a weight theta is off by is at most this error, times the root
        mean square of its moves over the run, times the root of (gamma + 1)^2 / (2 gamma + 1).
    """
    t, gamma = np.array([at for at, _ in stored], float), np.array([exponent_of(each) for _, each in stored])
    wanted = exponent_of(width)
    inner, toward = overlap(t[:, None], gamma[:, None], t, gamma), overlap(t, gamma, np.array(float(step)), wanted)
    ones = np.ones((len(t), 1))
    system = np.block([[inner, ones], [ones.T, np.zeros((1, 1))]])
    factors = np.linalg.lstsq(system, np.append(toward, 1.0), rcond=None)[0][:-1]
    norm = overlap(np.array(float(step)), wanted, np.array(float(step)), wanted)
    square = (norm - 2 * factors @ toward + factors @ inner @ factors) / norm
    return factors.tolist(), math.sqrt(max(0.0, float(square)))


def overlap(t: NDArray[np.float64], gamma: Any, other_t: NDArray[np.float64], other_gamma: Any) -> NDArray[np.float64]:
    """The integral over tau of the product of two weights (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]
    (2312.02696, appendix C)."""
    ratio = t / other_t
    below = np.where(ratio < 1, ratio, 1 / ratio) ** np.where(ratio < 1, other_gamma, gamma)
    product: NDArray[np.float64] = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * below
    return product / np.maximum(t, other_t)
