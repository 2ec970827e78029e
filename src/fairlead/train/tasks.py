"""What a network is trained for: to denoise, to classify noisy images, to reconstruct, or to answer as a teacher does.
Its inputs and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.arguments import shown
from fairlead.core.condition import Condition
from fairlead.core.denoiser import expand_like
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Mixing, check_pair
from fairlead.core.schedule import NoiseSchedule
from fairlead.core.typed import Size, problem_in
from fairlead.nets.blocks import INTERNAL, attention_mass
from fairlead.nets.inputs import condition_names
from fairlead.nets.noisy_classifier import NoisyClassifier
from fairlead.train.moments import class_moments
from fairlead.train.objective import Draw, diffusion_loss, level_of, loss_weight, reconstruction_loss

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
    levels: ClassVar[int] = 0
    """How many different times a batch has at most; 0: as many as samples."""

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
                f"latents: the image condition {config.image} needs pixels, not latents; train without one of them"
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


class Guided(Denoise):
    """A denoiser that learns to predict in one row what ``cfg(scale)`` would predict: model guidance (2502.12154).

        target' = target + (1 - 1 / scale) stop(D(x_t, c) - D(x_t, null))

    D is the present network, and no gradient flows through the difference. The optimum is a network that predicts as
    under ``cfg(scale)`` where its condition is kept and is unconditional where it is not; the paper calls the factor w.
    The rule is affine, so it is the same for every objective.
    """

    def output(self, network: nn.Module, inputs: tuple[Any, ...], config: TrainConfig) -> Any:
        """What the network returns, and what its target is moved by."""
        x, time, condition = inputs
        with torch.no_grad():
            null = network(x, time, condition.drop())
        output = network(x, time, condition)
        return output, (1 - 1 / config.guided) * (output.detach() - null)

    def loss(
        self, output: Any, x0: Tensor, labels: Tensor, draw: Draw, config: TrainConfig, schedule: NoiseSchedule
    ) -> Tensor:
        objective: Any = config.objective
        given, moved = output
        return diffusion_loss(given - moved, x0, draw, schedule, objective, config.weighting)


class Lesson(TypedDict):
    """What a student is taught, JSON-ready.

    Attributes:
        teacher: where its teacher was: a run, a checkpoint or a pipeline.
        weights, hash: which weights of it, and their hash.
        guidance: the expression under which the teacher answers, with ``{scale}`` where the student takes a scale.
        steps: how many steps of DDIM the student is for; without it every time is taught.
        each: how many of its teacher's steps one of the student's takes the place of.
        before: what the teacher was taught, if it is a student itself.
    """

    teacher: str
    weights: str
    hash: str
    guidance: str
    steps: NotRequired[Size]
    each: NotRequired[Size]
    before: NotRequired[dict[str, Any]]


class Teaches(Protocol):
    """What a student learns from: a :class:`fairlead.sample.teacher.Teacher`, or recorded paths."""

    @property
    def recorded(self) -> Tensor | None:
        """What a batch has of each sample of the data in place of its image or latents, [n, ...]; None: those."""
        ...

    def noised(self, x0: Tensor, draw: Draw, schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor | None]:
        """x_t [b, ...], its times [b], float64, and the x0 that the student is to answer, None: :meth:`answer` says."""
        ...

    def answer(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The x0 [b, ...] that the student is to answer, where the condition's "scale" is kept under that scale."""
        ...

    def begin(self, network: nn.Module) -> None:
        """Give a fresh student its first weights."""
        ...


class Distillation(Denoise):
    """A denoiser again, whose target is a teacher's answer in place of the data (2210.03142, 2202.00512)."""

    levels = 16  # a guidance is worked out for one time at once, and at one scale

    def __init__(self, teacher: Teaches) -> None:
        self.teacher = teacher

    def prepare(self, network: nn.Module, data: ImageData) -> None:
        self.teacher.begin(network)

    def inputs(self, x0: Tensor, draw: Draw, condition: Condition, schedule: NoiseSchedule) -> tuple[Any, ...]:
        """Those of the network, then x_t [n, ...], its times [n], and what the teacher answers if that is known."""
        x_t, t, answer = self.teacher.noised(x0, draw, schedule)
        return *_as_input(x_t, t, schedule), condition.to(x_t.device), x_t, t, answer

    def output(self, network: nn.Module, inputs: tuple[Any, ...], config: TrainConfig) -> Any:
        """What the network returns, what it should have, x_t and its times."""
        x, time, condition, x_t, t, answer = inputs
        t = t.cpu()
        if answer is None:
            with torch.no_grad():
                answer = self.teacher.answer(x_t, t, condition)
        return network(x, time, condition), answer, x_t, t

    def loss(
        self, output: Any, x0: Tensor, labels: Tensor, draw: Draw, config: TrainConfig, schedule: NoiseSchedule
    ) -> Tensor:
        objective: Any = config.objective
        given, answer, x_t, t = output
        mixing = Mixing(*(expand_like(value, x_t) for value in schedule.alpha_sigma(t)))
        error = (given.float() - mixing.output(answer, x_t, objective)).square()
        weight = loss_weight(config.weighting, objective, schedule.log_snr(t)).to(x_t.device, torch.float32)
        total: Tensor = (error.flatten(1).mean(1) * weight).mean()
        return total


def scale_drawn(condition: Condition, draw: Draw, config: TrainConfig) -> Condition:
    """The condition with the scales of a batch, one for each of its times; a share of them, ``config.drop``, has none.
    Where the network takes none, the condition as it is.

    Over the network's range they have the arcsine density, that of Chebyshev's nodes: with equally many scales
    everywhere a fit is worst at the ends, where there are others on one side only.
    """
    if draw.level is None or not config.net.get("scale"):
        return condition
    low, high = config.net["scale"]
    place = (draw.level - config.drop) / max(1 - config.drop, 1e-9)
    share = (1 - torch.cos(torch.pi * place.clamp(min=0))) / 2
    scale = (low + (high - low) * share).to(torch.float32)
    values = {**condition.values, "scale": scale.clamp(low, high)}
    return replace(condition, values=values, keep={**condition.keep, "scale": place >= 0})


DENOISE, CLASSIFY, RECONSTRUCT = Denoise(), Classify(), Reconstruct()
_TASKS = {"label": CLASSIFY, "l1": RECONSTRUCT, "l2": RECONSTRUCT}


def task_of(objective: object) -> Denoise:
    """The task of an objective; what is none of another task is a denoiser's."""
    return _TASKS.get(str(objective), DENOISE)


def check_net_of_task(objective: str, kind: object) -> None:
    """Raise UsageError unless a network of this kind is trained for the objective."""
    task = task_of(objective)
    other = next((task for task in (CLASSIFY, RECONSTRUCT) if task.net == kind), DENOISE)
    if task is not other:
        named = CLASSIFY if CLASSIFY in (task, other) else RECONSTRUCT
        raise UsageError(
            f"objective {named.objectives} and a network of kind {named.net!r} go together, got objective "
            f"{objective!r} with kind {kind!r}"
        )


def check_guided(config: TrainConfig) -> None:
    """Raise UsageError unless a network that is trained under its own guidance has a condition, and drops it too."""
    if config.guided == 1:
        return
    if not 1 < config.guided <= 1e3:
        raise UsageError(
            f"guided: expected a scale from 1, which is off, to 1000, such as 1.5, got {shown(config.guided)}"
        )
    if config.internal or config.distill or task_of(config.objective) is not DENOISE:
        raise UsageError("guided: of a denoiser alone, without a head in its middle and without a teacher")
    names = DENOISE.conditions(config.net)
    if not names or not (config.drop_all or all(config.drops.get(name, config.drop) for name in names)):
        raise UsageError(
            "guided: the network is moved away from what it answers without conditions, which it has to be trained on "
            "too; give it one, and drop 0.1"
        )


def check_lesson(config: TrainConfig) -> None:
    """Raise UsageError unless what a student is taught is whole, and its network made for it."""
    scaled = config.net.get("scale") is not None
    if not config.distill:
        if scaled:
            raise UsageError("a network with a scale is a student's: it is trained with fl.distill")
        return
    problem = problem_in(config.distill, Lesson, "distill")
    if problem is not None:
        name, got, expected = problem
        raise UsageError(f"distill: {name} is {got}, expected {expected}")
    if task_of(config.objective) is not DENOISE or config.internal:
        raise UsageError("distill: a student is a denoiser, without a head in its middle")
    if scaled != ("{scale}" in config.distill["guidance"]):
        raise UsageError(
            f"distill: a guidance with {{scale}} and a network with a scale go together, got "
            f"{config.distill['guidance']!r} with scale={config.net.get('scale')!r}"
        )


def _noised(x0: Tensor, draw: Draw, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """x_t as the network reads it, and its time."""
    alpha, sigma = (expand_like(value, x0) for value in schedule.alpha_sigma(draw.t))
    return _as_input(alpha * x0 + sigma * draw.eps.to(x0.device), draw.t, schedule)


def _as_input(x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    scaled = x_t * expand_like(schedule.input_scale(t), x_t)
    time = schedule.network_time(t).to(x_t.device, torch.float32)
    return scaled.contiguous(memory_format=torch.channels_last), time
