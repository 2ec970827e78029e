"""A classifier of noisy images, p(y | x_t, t), as guidance takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.brief import brief
from fairlead.core.denoiser import autocast, expand_like
from fairlead.core.errors import UsageError
from fairlead.core.schedule import NoiseSchedule, as_time, schedule_from_config
from fairlead.models.load import Weights, network_of, usable_device
from fairlead.nets.noisy_classifier import NoisyClassifier
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.objective import level_of
from fairlead.train.tasks import CLASSIFY, DENOISE, task_of


@dataclass(frozen=True, eq=False)
class NoisyClassifierModel:
    """A trained classifier and what surrounds it; any object with these attributes can guide in its place.

    Attributes:
        network: ``(x [n, *shape], time [n]) -> logits [n, classes]``; ``NoisyClassifier`` is given
            a third argument, alpha and sigma [n, 2].
        schedule: the noise schedule that it was trained on.
        shape: of one sample.
        classes: names, in the order of the logits.
        metadata: where it came from, JSON-ready.
        device: where x_t must live.
    """

    network: nn.Module
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it is immutable)

    __repr__ = brief

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t, t), [n, classes], float32 (float64 from a float64 network), differentiable in x_t [n, *shape].

        ``t`` in [0, 1], of shape [] or [n]; 0 is a clean image. Autocast is off inside.
        """
        t = as_time(t)
        dtype = next(self.network.parameters()).dtype
        x = x_t.to(dtype) * expand_like(self.schedule.input_scale(t), x_t).to(dtype)
        inputs = [x, self.schedule.network_time(t).to(x_t.device, dtype).expand(len(x_t))]
        if isinstance(self.network, NoisyClassifier):
            inputs.append(level_of(self.schedule, t).to(x_t.device, dtype).expand(len(x_t), 2))
        with autocast(x_t.device, None):
            logits: Tensor = self.network(*inputs)
            return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)


def load_classifier(
    spec: str | Path, weights: Weights = "ema", device: str | torch.device = "auto"
) -> NoisyClassifierModel:
    """Load a run of ``fairlead train-classifier``; the arguments are those of ``load``.

    Raises:
        UsageError: if there is no checkpoint, it is damaged, or it is one of a diffusion model.
    """
    device = usable_device(device)
    checkpoint = find_checkpoint(spec)
    task = task_of(checkpoint.about["objective"])
    if task is not CLASSIFY:
        kind = f"{'a' if task is DENOISE else 'an'} {task.about}"
        raise UsageError(
            f"checkpoint {checkpoint.folder} is {kind}, expected a classifier of noisy images; train one "
            "with `fairlead train-classifier`"
        )
    network, metadata = network_of(checkpoint, spec, weights)
    return classifier_of(network, checkpoint.about, metadata, device)


def classifier_of(
    network: nn.Module, about: dict[str, Any], metadata: dict[str, Any], device: str | torch.device = "auto"
) -> NoisyClassifierModel:
    """A network and the description of its training (``Training.about()``), in eval mode."""
    device = usable_device(device)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return NoisyClassifierModel(
        network.eval().requires_grad_(False),
        schedule_from_config(about["schedule"]),
        tuple(about["data"]["shape"]),
        tuple(about["data"]["classes"]),
        {**metadata, "data": about["data"]["name"], "data_fingerprint": about["data"]["fingerprint"]},
        device,
    )
