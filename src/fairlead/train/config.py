"""What a training run is made of, checked before anything starts, and the named recipes.

Importing this costs no torch: the command line's help is made from it.

Over 300 lines, as half of it is recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from fairlead.core.arguments import as_mapping, chosen, plain, shown
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError, unknown
from fairlead.core.registry import lookup, names
from fairlead.core.typed import check_arguments

if TYPE_CHECKING:
    from fairlead.core.prediction import Objective

Weighting = Literal["uniform", "min_snr", "capped_v"]
TrainPrecision = Literal["auto", "fp32", "bf16"]
Decay = Literal["cosine", "constant"]
Optimizer = Literal["adamw", "muon"]
Reconstruction = Literal["l1", "l2"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings that, with the data, decide the result of a training to the bit.

    Attributes:
        net: the network's configuration, from ``nets.build.net_config``; of kind "classifier" exactly if the objective
            is "label", of kind "autoencoder" exactly if it is "l1" or "l2".
        data: arguments of ``load_data`` that give the images again, so that a sweep can find them; {} if there are
            none.
        schedule: name and arguments of the noise schedule.
        objective: what the network is trained to output; "label" trains a classifier of noisy images by cross-entropy,
            "l1" and "l2" an autoencoder by the absolute or the squared error of the reconstruction.
        weighting: of the squared error over noise levels. "uniform" on the objective's own output; "min_snr" is
            min(SNR, 5) in x0 units (2303.09556), "capped_v" min(1 + SNR, 5): v's error, less of it at low noise.
        steps: optimiser steps in all; the learning rate is planned over them.
        batch_size: samples per step, over all processes.
        accumulate: parts of a process's share of the batch, one after the other: less memory, the same step.
        lr: peak learning rate.
        warmup: steps over which the learning rate rises from 0, at most half of ``steps``: a short run has a peak too.
        decay: of the learning rate after the warm-up. "cosine" reaches 0 at the end.
        optimizer: "adamw", or "muon": that for all but the matrices, whose updates are made orthogonal, see
            :class:`fairlead.train.optimizer.Muon`.
        weight_decay: decoupled, of either.
        betas: decays of AdamW's two moments.
        drop: probability that a sample's condition is replaced by null (per name and sample; 2207.12598).
        drops: name of a condition -> its own probability in place of ``drop``.
        drop_all: probability that a sample loses all its conditions at once, beside that. Guidance away from no
            condition at all needs it where there are several: 0.1 of each alone leaves 0.01 of both.
        text: configuration of the text encoder, from ``TextEncoder.config``; {} if the network reads no text.
        image: what the condition "image" shows of an image, see :mod:`fairlead.data.degrade`; "" if there is none.
        latents: configuration of the autoencoder whose latents are denoised, from ``Autoencoder.config``; {}: pixels.
        init: weights to start from, from ``train.weights.initial.initial_config``; {}: random ones.
        internal: weight of the loss of the head in the middle of the network, beside that of its output (2512.24176:
            at most 0.5); 0: it has none.
        guided: scale of the guidance that the network is trained to answer under by itself (2502.12154): what it is
            trained for is moved away from its own null prediction; 1: not at all.
        distill: what a student is taught (``train.tasks.Lesson``): its teacher and under which guidance; {}: the
            network is trained on the data.
        kl: weight of an autoencoder's KL divergence against the error summed over an image (2112.10752: 1e-6).
        ema: decay of the weight average at the end; it warms up as (1 + k) / (10 + k). "power": two averages by powers
            of the step, from whose snapshots one of any width is rebuilt (:mod:`fairlead.train.weights.averages`).
        clip: largest norm of the gradient.
        precision: "bf16" autocasts the network; "auto" does so where the processor has bf16 matrix units.
        snapshot_every: keep the averaged weights of every so many steps (0: none), as weak models for autoguidance.
        checkpoint_every: steps between checkpoints that can be resumed (0: only the last).
        checkpoint_minutes: minutes after which ``fairlead train`` and ``fl.train`` save one too (0: never).
        keep: so many of them stay, the last ones.
    """

    net: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "vp_cosine"})
    objective: Objective | Reconstruction | Literal["label"] = "v"
    weighting: Weighting = "uniform"
    steps: int = 2000
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 2e-3
    warmup: int = 100
    decay: Decay = "cosine"
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    drop: float = 0.1
    drops: dict[str, float] = field(default_factory=dict)
    drop_all: float = 0.0
    text: dict[str, Any] = field(default_factory=dict)
    image: str = ""
    latents: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    internal: float = 0.0
    guided: float = 1.0
    distill: dict[str, Any] = field(default_factory=dict)
    kl: float = 0.0
    ema: float | Literal["power"] = 0.999
    clip: float = 1.0
    precision: TrainPrecision = "auto"
    seed: int = 0
    snapshot_every: int = 0
    checkpoint_every: int = 0
    checkpoint_minutes: float = 10.0
    keep: int = 1

    __repr__ = brief

    def __post_init__(self) -> None:
        from fairlead.core.schedule import schedule_from_config
        from fairlead.nets.inputs import condition_names
        from fairlead.train.tasks import DENOISE, RECONSTRUCT, check_guided, check_lesson, check_net_of_task, task_of

        self._check_types()
        schedule = schedule_from_config(self.schedule)
        task, kind = task_of(self.objective), self.net.get("kind")
        check_net_of_task(self.objective, kind)
        if not 0 <= self.internal <= 1e6:
            raise UsageError(f"internal: expected 0 or more (at most 1e6), such as 0.5, got {shown(self.internal)}")
        task.check(self, schedule)
        check_lesson(self)
        check_guided(self)
        if not (self.kl >= 0 and (self.kl == 0 or task is RECONSTRUCT)):
            raise UsageError(f"kl: expected 0 or more for an autoencoder and 0 for other networks, got {self.kl}")
        check_training = getattr(lookup("net", kind), "check_training", None) if kind in names("net") else None
        if task is DENOISE and check_training is not None:
            check_training(self.net, schedule, self.text)
        choices = {"weighting": Weighting, "precision": TrainPrecision, "decay": Decay, "optimizer": Optimizer}
        for name, known in choices.items():
            chosen(name, getattr(self, name), get_args(known))
        for name, low in (
            ("steps", 1), ("batch_size", 1), ("warmup", 0), ("snapshot_every", 0), ("checkpoint_every", 0), ("seed", 0),
            ("checkpoint_minutes", 0), ("keep", 1), ("accumulate", 1),
        ):  # fmt: skip
            if not getattr(self, name) >= low:
                raise UsageError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        if self.seed >= 2**63:
            raise UsageError(f"seed: expected a number below 2**63, got {self.seed}")
        shares = {"drop": self.drop, "drop_all": self.drop_all, **self.drops}
        for name, share in {**shares, **({} if self.ema == "power" else {"ema": self.ema})}.items():
            if not 0 <= share <= 1:
                raise UsageError(f"{name}: expected a number from 0 to 1, got {share}")
        read = condition_names(self.net)
        for name in self.drops:
            if name not in read:
                raise unknown("condition to drop", name, read)
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UsageError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        object.__setattr__(self, "betas", tuple(self.betas))  # JSON has only lists
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas: expected two numbers from 0 to below 1, got {self.betas}")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_json`. Settings that this version lacks are left out: only who goes on with the
        training needs them, and is refused then.

        Raises:
            UsageError: for settings of another type, or that no training can have.
        """
        from fairlead.core.prediction import Objective

        known = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        check_arguments(cls, known, "train", {"Objective": Objective})
        return cls(**known)

    def _check_types(self) -> None:
        """Numbers become Python's own, a schedule its configuration; what is of another type is refused."""
        from fairlead.core.schedule import as_schedule

        for name in [f.name for f in fields(self)]:
            object.__setattr__(self, name, plain(getattr(self, name)))
        schedule: Any = self.schedule
        if not isinstance(schedule, dict):
            object.__setattr__(self, "schedule", as_schedule(schedule).config())
        for name in ("net", "data", "drops", "text", "latents", "init", "distill"):
            object.__setattr__(self, name, as_mapping(name, getattr(self, name)))
        if self.init and not all(isinstance(self.init.get(name), str) for name in ("source", "weights")):
            raise UsageError(f"init: expected what initial_config(RUN) gives, got {shown(self.init)}")
        for name in ("objective", "image"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"{name}: expected a name, got {shown(getattr(self, name))}")
        counts = ("steps", "batch_size", "warmup", "snapshot_every", "checkpoint_every", "keep", "accumulate", "seed")
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"{name}: expected an integer, got {shown(value)}")
        shares = ("drop", "drop_all", "internal", "guided", "kl", "ema")
        for name in ("lr", "weight_decay", *shares, "clip", "checkpoint_minutes"):
            value = getattr(self, name)
            if name == "ema" and isinstance(value, str) and value == "power":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"{name}: expected a number, got {shown(value)}")
        for name, value in self.drops.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"drops: expected a number for {name!r}, got {shown(value)}")
        if not isinstance(self.betas, list | tuple) or not all(isinstance(beta, int | float) for beta in self.betas):
            raise UsageError(f"betas: expected two numbers, got {shown(self.betas)}")

    @property
    def snapshots_every(self) -> int:
        """Steps between snapshots of averaged weights, 0 for none; of power averages a sixteenth of the run by
        default."""
        return self.snapshot_every or (-(-self.steps // 16) if self.ema == "power" else 0)

    def to_json(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "betas": list(self.betas)}


@dataclass(frozen=True)
class Recipe:
    """A preset of the command line: which network on which data, under which conditions, and how it is trained."""

    data: str
    net: str
    train: dict[str, Any]
    about: str
    conditions: tuple[str, ...] = ("label",)
    text: dict[str, Any] = field(default_factory=dict)
    """Settings of its own text encoder, "words"."""


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        "digits",
        "8x8",
        {"steps": 1600, "batch_size": 64, "checkpoint_every": 500},
        "8x8 digits; a minute or two on two cores",
    ),
    "mnist": Recipe(
        "mnist",
        "28x28",
        {
            "objective": "x0", "weighting": "capped_v", "optimizer": "muon", "steps": 7000, "batch_size": 64,
            "checkpoint_every": 500,
        },
        "28x28 digits; 12 minutes on two cores with AMX, about half an hour on others",
    ),
    "cifar10": Recipe(
        "cifar10",
        "32x32",
        {"steps": 100_000, "lr": 5e-4, "ema": 0.9999, "checkpoint_every": 5000},
        "32x32 photographs; a GPU",
    ),
    "cifar10-small": Recipe(
        "cifar10",
        "32x32-small",
        {
            "objective": "x0", "weighting": "capped_v", "optimizer": "muon", "steps": 6400, "batch_size": 128,
            "checkpoint_every": 500,
        },
        "32x32 photographs; an hour and a half of one core with AMX",
    ),
    "scenes": Recipe(
        "scenes(n=100000)",
        "28x28-colour",
        {
            "objective": "x0", "weighting": "capped_v", "optimizer": "muon", "steps": 8000, "batch_size": 64,
            "checkpoint_every": 500,
        },
        "28x28 captioned digits in colour, conditioned on text; 25 minutes on two cores with AMX",
        ("text",),
        {"read": 400, "sketch": 30_000},
    ),
    "lesson-mnist": Recipe(
        "mnist",
        "lesson-mnist",
        {
            "schedule": {"name": "vp_linear"}, "objective": "eps", "steps": 23_450, "batch_size": 128,
            "lr": 2e-4, "warmup": 0, "decay": "constant", "weight_decay": 0.01, "betas": (0.9, 0.999),
            "drop": 0.1, "ema": 0.0, "clip": 1.0, "checkpoint_every": 1000,
        },
        "the lesson's MNIST: 50 epochs of 128, linear schedule, eps, AdamW at a constant rate, no average; here the "
        "times of a batch are continuous and spread evenly, there random integers",
    ),
    "lesson-cifar10": Recipe(
        "cifar10",
        "lesson-cifar10",
        {
            "schedule": {"name": "vp_cosine"}, "objective": "eps", "steps": 19_500, "batch_size": 128,
            "lr": 2e-4, "warmup": 1000, "weight_decay": 1e-4, "betas": (0.9, 0.999),
            "drop": 0.15, "ema": 0.9999, "clip": 1.0, "checkpoint_every": 1000,
        },
        "the lesson's CIFAR-10: 50 epochs of 128, cosine schedule, eps, AdamW with warm-up and cosine; a GPU; here the "
        "times of a batch are continuous and spread evenly and the average warms up, there times are random integers "
        "and the average starts at its full decay",
    ),
}  # fmt: skip

_LABEL: dict[str, Any] = {"objective": "label", "drop": 0.0, "batch_size": 128, "weight_decay": 0.05}
CLASSIFIER_RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        "digits",
        "8x8",
        {**_LABEL, "steps": 500, "batch_size": 64, "ema": 0.99, "checkpoint_every": 200},
        "8x8 digits; half a minute on two cores",
    ),
    "mnist": Recipe(
        "mnist",
        "28x28",
        {**_LABEL, "steps": 3000, "checkpoint_every": 500},
        "28x28 digits; some minutes on two cores",
    ),
}

_AUTOENCODER: dict[str, Any] = {"objective": "l1", "kl": 1e-6, "drop": 0.0, "lr": 1e-3}
AUTOENCODER_RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        "digits",
        "factor-2",
        {**_AUTOENCODER, "steps": 2000, "batch_size": 64, "ema": 0.995, "checkpoint_every": 500},
        "8x8 digits to 4 x 4x4",
        (),
    ),
    "mnist": Recipe(
        "mnist",
        "factor-4",
        {**_AUTOENCODER, "steps": 4000, "batch_size": 64, "checkpoint_every": 500},
        "28x28 digits to 4 x 7x7",
        (),
    ),
    "scenes": Recipe(
        "scenes",
        "factor-4",
        {**_AUTOENCODER, "steps": 6000, "batch_size": 64, "checkpoint_every": 500},
        "28x28 scenes to 4 x 7x7",
        (),
    ),
    "cifar10": Recipe(
        "cifar10",
        "factor-4",
        {**_AUTOENCODER, "steps": 50_000, "checkpoint_every": 5000},
        "32x32 photographs to 4 x 8x8; a GPU",
        (),
    ),
}
