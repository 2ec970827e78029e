"""What a network is trained for: to denoise, to classify noisy images, or to reconstruct. Its inputs and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.prediction import check_pair
from fairlead.core.schedule import NoiseSchedule
from fairlead.nets.blocks import INTERNAL, attention_mass
from fairlead.nets.inputs import condition_names
from fairlead.nets.noisy_classifier import NoisyClassifier
from fairlead.train.moments import class_moments
from fairlead.train.objective import Draw, diffusion_loss, level_of, reconstruction_loss

if TYPE_CHECKING:
    from fairlead.data.images import ImageData
    from fairlead.train.config import TrainConfig


class Denoise:
    """The objectives "eps", "v", "x0" and "flow"."""

    about: ClassVar[str] = "diffusion model"
    net: ClassVar[str] = ""
    """The one kind of network that it trains; "" for any that no other task has."""
    objectives: ClassVar[str] = ""
    """As messages name them."""

    def conditions(self, net: Mapping[str, Any]) -> list[str]:
        """Names of the conditions that are dropped in training."""
        return condition_names(net)

    def check(self, config: TrainConfig, schedule: NoiseSchedule) -> None:
        """Raise UsageError for settings that contradict the task."""
        check_pair(config.objective, schedule)
        if bool(config.internal) != bool(config.net.get("internal")):
            raise UsageError(
                f"internal: a weight above 0 and a network with internal=True go together, got {config.internal:g} "
                f"with internal={config.net.get('internal', False)}"
            )
        if config.latents and config.image:
            raise UsageError(
                f"latents: the image condition {config.image} shows pixels, which do not lie on latents; "
                "train without one of them"
            )

    def prepare(self, network: nn.Module, data: ImageData) -> None:
        """What a fresh network is given of the data."""

    def inputs(self, x0: Tensor, draw: Draw, condition: Condition, schedule: NoiseSchedule) -> tuple[Any, ...]:
        """What the network is called with."""
        return *_noised(x0, draw, schedule), condition.to(x0.device)

    def output(self, network: nn.Module, inputs: tuple[Any, ...], config: TrainConfig) -> Any:
        """What the network returns; with a head in its middle also what that does, as a pair."""
        if not config.internal:
            return network(*inputs)
        with attention_mass((INTERNAL,)) as recorded:
            return network(*inputs), recorded[INTERNAL]

    def loss(
        self, output: Any, x0: Tensor, labels: Tensor, draw: Draw, config: TrainConfig, schedule: NoiseSchedule
    ) -> Tensor:
        """Of one batch, a scalar."""
        objective: Any = config.objective
        outputs = output if config.internal else (output,)
        losses = [diffusion_loss(each, x0, draw, schedule, objective, config.weighting) for each in outputs]
        return losses[0] + config.internal * losses[1] if config.internal else losses[0]


class _Unconditional(Denoise):
    """Nothing is dropped, nothing weighted, and images are what it takes."""

    def conditions(self, net: Mapping[str, Any]) -> list[str]:
        return []

    def check(self, config: TrainConfig, schedule: NoiseSchedule) -> None:
        if config.latents:
            raise UsageError(
                f"latents: only a denoiser is trained on them, objective {config.objective!r} takes images"
            )
        if config.internal:
            raise UsageError(f"internal: only a denoiser has a head in its middle, not objective {config.objective!r}")
        if config.drop or config.drops or config.drop_all or config.weighting != "uniform":
            raise UsageError(
                f"objective {config.objective!r} drops no condition and has one weighting: expected drop 0 and "
                f"weighting 'uniform', got {config.drop:g} and {config.weighting!r}"
            )


class Classify(_Unconditional):
    """The objective "label": p(class | x_t, t), by cross-entropy."""

    about = "classifier of noisy images"
    net = "classifier"
    objectives = "'label'"

    def prepare(self, network: nn.Module, data: ImageData) -> None:
        if isinstance(network, NoisyClassifier) and network.gaussians is not None:
            network.gaussians.set_moments(class_moments(data, network.gaussians.axes.shape[1]))

    def inputs(self, x0: Tensor, draw: Draw, condition: Condition, schedule: NoiseSchedule) -> tuple[Any, ...]:
        return *_noised(x0, draw, schedule), level_of(schedule, draw.t).to(x0.device, torch.float32)

    def loss(
        self, output: Any, x0: Tensor, labels: Tensor, draw: Draw, config: TrainConfig, schedule: NoiseSchedule
    ) -> Tensor:
        return F.cross_entropy(output.float(), labels)


class Reconstruct(_Unconditional):
    """The objectives "l1" and "l2": an autoencoder."""

    about = "autoencoder"
    net = "autoencoder"
    objectives = "'l1' or 'l2'"

    def inputs(self, x0: Tensor, draw: Draw, condition: Condition, schedule: NoiseSchedule) -> tuple[Any, ...]:
        return x0.contiguous(memory_format=torch.channels_last), draw.eps.to(x0.device)

    def loss(
        self, output: Any, x0: Tensor, labels: Tensor, draw: Draw, config: TrainConfig, schedule: NoiseSchedule
    ) -> Tensor:
        error: Any = config.objective
        return reconstruction_loss(output, x0, error, config.kl)


DENOISE, CLASSIFY, RECONSTRUCT = Denoise(), Classify(), Reconstruct()
_TASKS = {"label": CLASSIFY, "l1": RECONSTRUCT, "l2": RECONSTRUCT}


def task_of(objective: object) -> Denoise:
    """The task of an objective; what is none of another task is a denoiser's."""
    return _TASKS.get(str(objective), DENOISE)


def check_net(objective: str, kind: object) -> None:
    """Raise UsageError unless a network of this kind is trained for the objective."""
    task = task_of(objective)
    other = next((task for task in (CLASSIFY, RECONSTRUCT) if task.net == kind), DENOISE)
    if task is not other:
        named = CLASSIFY if CLASSIFY in (task, other) else RECONSTRUCT
        raise UsageError(
            f"objective {named.objectives} and a network of kind {named.net!r} go together, got objective "
            f"{objective!r} with kind {kind!r}"
        )


def _noised(x0: Tensor, draw: Draw, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """x_t as the network reads it, and its time."""
    alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(draw.t))
    x_t = (alpha * x0 + sigma * draw.eps.to(x0.device)) * expand_like(schedule.input_scale(draw.t), x0)
    time = schedule.network_time(draw.t).to(x0.device, torch.float32)
    return x_t.contiguous(memory_format=torch.channels_last), time
