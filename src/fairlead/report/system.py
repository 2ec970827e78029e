"""What a report of a fault needs to say of the machine: versions, processor, memory, accelerators, settings."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

import fairlead

PACKAGES = (
    "accelerate", "datasets", "diffusers", "gradio", "matplotlib", "numpy", "optuna", "peft", "pillow", "safetensors",
    "scikit-learn", "tqdm", "transformers", "tyro",
)  # fmt: skip
_SETTINGS = ("OMP_", "MKL_", "TORCH_", "PYTORCH_", "CUDA_", "NCCL_", "HF_", "ACCELERATE_", "FAIRLEAD_")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def system_report() -> dict[str, str]:
    """Name -> value, for a report of a fault; nothing that identifies a person, and no secrets among the settings."""
    settings = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_SETTINGS) and not any(word in name for word in _SECRET)
    }
    return {
        "fairlead": fairlead.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        **{name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, {torch.get_num_threads()} threads of torch",
        "memory": _memory(),
        "accelerators": _accelerators(),
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()) or "none",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(known) or 'no vector units known'})"


def _memory() -> str:
    if not hasattr(os, "sysconf") or sys.platform == "darwin":
        return "not known"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _accelerators() -> str:
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found) or "none"
