"""The device and the processes of a training, and the Accelerator on them.

What decides the weights is passed to it, never left to the variables that it reads by itself: ``accelerate launch``
sets them from its options and from the configuration file of the user, and nothing in a run would say so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from fairlead.core.errors import UsageError
from fairlead.core.launch import Launch
from fairlead.train.config import TrainPrecision

_ON, _OFF = ("1", "true", "t", "yes", "y", "on"), ("", "0", "false", "f", "no", "n", "off")
_CPU = "ACCELERATE_USE_CPU"
_FLAGS = (_CPU, "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "FORK_LAUNCHED")
"""Switches that accelerate reads in any case, and fails at without a word of where they came from."""
_ONEDNN = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
_TF32 = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE")


def accelerator_for(
    precision: TrainPrecision, trackers: list[str], out: Path | None
) -> tuple[Accelerator, Literal["fp32", "bf16"]]:
    """The accelerator of this launch, and the precision on its device. It computes in float32 and adds nothing: lower
    precision, clipping and averaging are the loop's own.

    Args:
        trackers: names of accelerate trackers; started by ``start_trackers``.

    Raises:
        UsageError: if a variable of the environment contradicts that; if the processes were not started by torchrun or
            ``accelerate launch``; for a tracker that is unknown or not installed.
    """
    launch, device = Launch.here(), training_device()
    resolved = resolve_precision(precision, device)
    check_environment(resolved, device)
    try:
        with warnings.catch_warnings():  # it only warns, or is silent, about a tracker that is not installed
            warnings.filterwarnings("ignore", message="`log_with=")
            accelerator = Accelerator(
                mixed_precision="no",
                cpu=device.type == "cpu",
                dynamo_backend="no",
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
                log_with=trackers or None,
                project_dir=out,
            )
    except (ImportError, ValueError) as error:
        if trackers:
            raise UsageError(
                f"cannot log with {', '.join(trackers)}: {error}; choose another or drop the option"
            ) from error
        raise UsageError(f"accelerate cannot start here: {error}; train in a process of its own") from error
    missing = set(trackers) - {"all"} - {str(tracker) for tracker in accelerator.log_with}
    if missing:
        names = " ".join(sorted(missing))
        raise UsageError(f"cannot log with {names}: not installed; `pip install {names}` or drop the option")
    found = accelerator.num_processes, accelerator.device.type, str(accelerator.mixed_precision)
    wanted = launch.count, device.type, "no"
    if found != wanted:
        raise UsageError(
            f"accelerate gives (processes, device, mixed precision) {found} here, expected {wanted}; an Accelerator "
            "made before in this process decides them: train in a process of its own"
        )
    return accelerator, resolved


def start_trackers(accelerator: Accelerator, trackers: list[str]) -> None:
    """Begin to log.

    Raises:
        UsageError: if a tracker cannot be had.
    """
    try:
        if trackers:
            out = accelerator.project_dir
            own = {} if out is None else {"wandb": {"dir": str(out), "name": Path(out).name}}
            accelerator.init_trackers("train", init_kwargs=own)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot log with {', '.join(trackers)}: {error}; choose another or drop the option"
        ) from error


def training_device() -> torch.device:
    """The kind of device that a training here computes on: the processor where there is no other, where
    ACCELERATE_USE_CPU asks for it, and for several processes on Apple's, which cannot share one model."""
    if _switched(os.environ, _CPU) or not torch.accelerator.is_available():
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator()
    alone = Launch.here().count == 1
    return torch.device("cpu" if found is None or (found.type == "mps" and not alone) else found.type)


def resolve_precision(precision: TrainPrecision, device: torch.device) -> Literal["fp32", "bf16"]:
    """ "auto" is bf16 where the hardware multiplies bf16 faster than float32, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "fp32"


def check_environment(
    precision: Literal["fp32", "bf16"], device: torch.device, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise UsageError for a variable that asks for another training than one in ``precision`` on ``device``."""
    for name in _FLAGS:
        _switched(environment, name)
    for name in sorted(environment):
        if name.startswith("ACCELERATE_USE_") and name != _CPU and environment[name].lower() not in _OFF:
            raise _contradiction(name, environment[name], "trains whole networks side by side (DDP), or in one process")
    same = {"": True, "no": True, "fp32": precision == "fp32", precision: True}
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "")
    if not same.get(asked.lower(), False):
        raise _contradiction("ACCELERATE_MIXED_PRECISION", asked, f"trains in {precision}", "--precision decides")
    for name, off, does in (
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", ("", "1"), "takes a step with every batch; --accumulate parts it"),
        ("ACCELERATE_DYNAMO_BACKEND", ("", "no"), "compiles only where --compile asks for it"),
        ("ACCELERATE_DOWNCAST_BF16", ("", "no", "false", "0"), f"trains in {precision}"),
        ("ACCELERATE_TORCH_DEVICE", ("", device.type), f"computes on {device.type}"),
        *((name, ("", "strict"), "multiplies float32 as it is") for name in _ONEDNN if device.type == "cpu"),
        *((name, ("",), "multiplies float32 as PyTorch is set") for name in _TF32 if device.type == "cuda"),
    ):
        if environment.get(name, "").lower() not in off:
            raise _contradiction(name, environment[name], does)


def _contradiction(name: str, value: str, does: str, hint: str = "") -> UsageError:
    return UsageError(
        f"the environment has {name}={value!r}, and this run {does}{f' ({hint})' * bool(hint)}; unset it, or, where "
        "`accelerate launch` sets it, drop its option or the line of its configuration file"
    )


def _switched(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name)
    if value is None or value.lower() in _OFF[1:]:
        return False
    if value.lower() not in _ON:
        raise UsageError(f"the environment has {name}={value!r}, expected true or false; correct or unset it")
    return True
