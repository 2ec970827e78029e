"""Small seeded classifiers that look at generated images: the judge of adherence, the extractor of features, and the
one that rewards (``judged``).

They differ in seed and width, and only the last may guide: a network that guides would mark its own work. Their scores
are comparable only under the same weights, so the hash of the weights is part of every protocol. Training repeats bit
for bit on one machine with one number of threads; elsewhere the hash may differ, and the protocol shows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.denoiser import autocast
from fairlead.core.errors import UsageError, unknown
from fairlead.data.batches import Batches
from fairlead.data.images import ImageData, to_float
from fairlead.data.tensor_cache import cache_folder, store_tensors, stored_tensors
from fairlead.diffusers.pretrained import weight_hash
from fairlead.measure.augment import channels_last, holed, shifted
from fairlead.measure.stages import Whitening, deep_stages, keep_sizes
from fairlead.train.environment import resolve_precision
from fairlead.train.optimizer import Muon, matrices_of

Role = Literal["judge", "thorough judge", "features", "reward"]
JudgeKind = Literal["quick", "thorough"]
"""Which judge looks at images: one that takes half a minute to train, or one that knows photographs."""
N = TypeVar("N", bound=nn.Module)

EPOCHS = 14
BATCH = 500
FEWEST, MOST = 200, 5000
"""Passes of the thorough judge over its images, images per step, and the fewest and most steps."""
HOLE = 0.25
"""Share of the sides of the rectangle that is hidden from the thorough judge in training."""
WHITENED = 5000
"""About so many images, spread over all, say how the thorough judge whitens."""
RECIPE_VERSION = 1
"""Raise it whenever a change below changes the weights: cached classifiers of older recipes are then trained anew."""


@dataclass(frozen=True)
class ClassifierRecipe:
    """Everything that, with the images, decides the weights.

    Attributes:
        seed: of the initial weights, the order of the images, their flips and their shifts.
        steps: optimiser steps.
        width: channels of the first stage.
        features: size d of the penultimate layer, where it is one of its own.
        batch: images per step.
        lr: peak learning rate (AdamW, one-cycle).
        shift: images are moved by up to this many pixels in each direction while training.
        deep: the network of :mod:`fairlead.measure.stages`, trained with Muon on smoothed labels.
        version: of this file.
    """

    seed: int
    steps: int
    width: int = 32
    features: int = 64
    batch: int = 128
    lr: float = 4e-3
    shift: int = 1
    deep: bool = False
    version: int = RECIPE_VERSION


@dataclass(frozen=True)
class TrainedOn:
    """The images a classifier has seen; the fields are those of ``ImageData``."""

    name: str
    split: str
    fingerprint: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    flip: bool


class Classifier(nn.Module):
    """Stages of conv - 2x2 max-pooling - batch norm - ReLU down to at most 4 x 4 and a feature layer, or the stages of
    a deep network; a linear head.

    Measures only: :meth:`features` and :meth:`logits` take uint8 images, run without gradients in chunks and return
    float32 on the CPU.
    """

    def __init__(self, recipe: ClassifierRecipe, data: TrainedOn) -> None:
        super().__init__()
        self.recipe, self.data = recipe, data
        if recipe.deep:
            stages, size = deep_stages(data.shape, recipe.width)
        else:
            stages, out = convolutions(data.shape, recipe.width)
            stages, size = [*stages, nn.Flatten(), nn.Linear(out, recipe.features)], recipe.features
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(size, len(data.classes))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, k] of float images [n, c, h, w] in [-1, 1]; for training."""
        logits: Tensor = self.head(F.relu(self.body(x)))
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """[n, k] of ``images`` uint8 [n, c, h, w]. The thorough judge looks at them moved a pixel to either side too,
        and at mirror images where those of training were mirrored."""
        check_images(images, self.data)
        views = [(1.0, images)]
        if self.recipe.deep:
            padded = F.pad(images.float(), (1, 1, 0, 0), "reflect").to(images.dtype)
            views = [(0.5, images), (0.25, padded[..., :-2]), (0.25, padded[..., 2:])]
            if self.data.flip:
                views = [(weight / 2, seen) for weight, view in views for seen in (view, view.flip(-1))]
        with torch.no_grad():
            answers = [weight * self.head(F.relu(self.features(view))) for weight, view in views]
        logits: Tensor = torch.stack(answers).sum(0)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """[n, d] of ``images`` uint8 [n, c, h, w]: the penultimate layer before its ReLU."""
        check_images(images, self.data)
        return in_chunks(self, self.body, images)

    @property
    def weight_hash(self) -> str:
        return weight_hash(self)

    @property
    def name(self) -> str:
        """For protocols: what it was trained on and its weights, ``digits/train-cnn32-d64-s1@0123456789ab``."""
        r = self.recipe
        kind = "deep" if r.deep else "cnn"
        d = self.head.in_features
        return f"{self.data.name}/{self.data.split}-{kind}{r.width}-d{d}-s{r.seed}@{self.weight_hash}"


def convolutions(shape: tuple[int, int, int], width: int) -> tuple[list[nn.Module], int]:
    """The stages for images of ``shape``, the first ``width`` channels wide, and how many numbers come out of them."""
    channels, height, across = shape
    stages: list[nn.Module] = []
    wide = width
    while True:
        last = min(height, across) <= 4
        stages.append(nn.Conv2d(channels, wide, 3, padding=1, bias=False))
        stages += [] if last else [nn.MaxPool2d(2)]
        stages += [nn.BatchNorm2d(wide), nn.ReLU()]
        if last:
            return stages, wide * height * across
        channels, wide, height, across = wide, min(2 * wide, 4 * width), height // 2, across // 2


def check_images(images: Tensor, data: TrainedOn) -> None:
    """Raise UsageError unless ``images`` are uint8 [n, c, h, w] of the shape a network was trained on, n >= 1."""
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != data.shape or len(images) == 0:
        raise UsageError(
            f"classifier {data.name!r}: expected uint8 images [n, {', '.join(map(str, data.shape))}], "
            f"got {images.dtype} {list(images.shape)}; quantise to uint8 first"
        )


def in_chunks(network: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``function`` of uint8 ``images`` as floats, 512 at a time, without gradients, with ``network`` not training."""
    network.eval()
    with torch.no_grad():
        return torch.cat([function(channels_last(to_float(part))) for part in torch.split(images.cpu(), 512)])


def train_classifier(
    data: ImageData,
    seed: int,
    steps: int,
    *,
    width: int = 32,
    features: int = 64,
    batch: int = 128,
    lr: float = 4e-3,
    shift: int | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> Classifier:
    """Train on all of ``data`` with cross-entropy, AdamW (weight decay 0.01) and a one-cycle learning rate.

    Float32 on the CPU; the global random state is left as it was. Arguments are those of
    :class:`ClassifierRecipe`; ``shift`` defaults to 1 pixel below 16 pixels of height, else 2. ``progress`` is called
    with (step, loss) after each step.
    """
    shift = (1 if data.shape[1] < 16 else 2) if shift is None else shift
    return _train(data, ClassifierRecipe(seed, steps, width, features, batch, lr, shift), progress)


def recipe_for(data: ImageData, role: Role) -> ClassifierRecipe:
    """The stated recipe of a role: a few seconds for 8 x 8 digits, half a minute for 28 x 28 MNIST.

    Measured on held-out images: digits 99.7 % (judge) and 98.9 % (features) of 359, MNIST 99.45 % (judge) of 10,000.
    The thorough judge sees every image ``EPOCHS`` times: on 45,000 photographs of CIFAR-10 19 minutes of one core with
    AMX, where it multiplies in bf16, 89.4 +- 0.4 % of 5,000 held-out ones; the quick one recognises 75 %.
    """
    if role not in get_args(Role):
        raise unknown("classifier role", role, get_args(Role))
    if role == "thorough judge":
        shift = min(2, *(side - 1 for side in data.shape[1:]))
        steps = min(max(round(EPOCHS * len(data) / BATCH), FEWEST), MOST)
        return ClassifierRecipe(10_809, steps, width=64, batch=BATCH, lr=2e-2, shift=shift, deep=True)
    small = data.shape[1] < 16
    seeds = {"judge": (20_101, 32), "features": (40_202, 24), "reward": (80_508, 28)}
    seed, width = seeds[role]
    width = width if small else width // 2
    shift = 1 if small else 2
    return ClassifierRecipe(seed=seed, steps=400 if small else 1500, width=width, shift=shift)


def role_of(kind: JudgeKind) -> Role:
    """The role of a judge.

    Raises:
        UsageError: for a name that is none.
    """
    roles: dict[str, Role] = {"quick": "judge", "thorough": "thorough judge"}
    if kind not in roles:
        raise unknown("judge", kind, roles)
    return roles[kind]


def cached_classifier(
    data: ImageData, role: Role, folder: Path | None = None, progress: Callable[[int, float], object] | None = None
) -> Classifier:
    """The classifier of ``role`` for ``data``: read from ``folder`` if it is there, else trained and stored.

    Args:
        folder: default: the environment variable FAIRLEAD_CACHE, else ``~/.cache/fairlead``. A file per classifier,
            named by the hash of the recipe and of the data's fingerprint; a damaged one is trained anew, and where
            nothing can be stored the classifier is returned all the same.
        progress: called with (step, loss) after each training step; not at all when it is read.
    """
    recipe, seen = recipe_for(data, role), trained_on(data)
    return stored_network(
        role,
        {"role": role, "recipe": asdict(recipe), "data": asdict(seen)},
        data.name,
        folder,
        lambda: Classifier(recipe, seen),
        lambda: _train(data, recipe, progress),
    )


def stored_network(
    role: str,
    described: Mapping[str, Any],
    name: str,
    folder: Path | None,
    empty: Callable[[], N],
    train: Callable[[], N],
) -> N:
    """The network that is stored in ``folder`` under the hash of ``described``, else the trained one, now stored.

    ``role`` and ``name`` are only for the name of its file. See :func:`cached_classifier`.
    """
    folder = folder or cache_folder()
    if folder is None:
        return train()
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    path = folder / f"{role}-{''.join(c if c.isalnum() else '_' for c in name)[:60]}-{key[:12]}.safetensors"
    stored = stored_tensors(path, key)
    if stored is not None:
        network = empty()
        network.load_state_dict(stored)
        return network.eval()
    network = train()
    with suppress(OSError, SafetensorError):  # read-only or full: the next run trains it again
        store_tensors(path, key, network.state_dict(), durable=False)
    return network


def _train(
    data: ImageData, recipe: ClassifierRecipe, progress: Callable[[int, float], object] | None = None
) -> Classifier:
    shifts = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        classifier = Classifier(recipe, trained_on(data))

    for part in classifier.modules():
        if isinstance(part, Whitening):
            part.look_at(to_float(data.images[:: max(len(data) // WHITENED, 1)]))
    quick = recipe.deep and resolve_precision("auto", torch.device("cpu")) == "bf16"
    lower, smoothing = (torch.bfloat16 if quick else None), (0.2 if recipe.deep else 0.0)

    def changed(x: Tensor) -> Tensor:
        if not recipe.deep:
            return shifted(x, recipe.shift, shifts)
        return holed(shifted(x, recipe.shift, shifts, "reflect"), HOLE, shifts)

    def loss(x: Tensor, index: Tensor) -> Tensor:
        with autocast(x.device, lower):
            logits = classifier(changed(x)).float()
        return F.cross_entropy(logits, data.labels[index], label_smoothing=smoothing)

    fit(classifier, loss, data, recipe, progress)
    return classifier


def fit(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: ImageData,
    recipe: ClassifierRecipe,
    progress: Callable[[int, float], object] | None = None,
) -> None:
    """Minimise ``loss`` (float images, their indices in ``data``) by AdamW, for a deep network by Muon, with weight
    decay 0.01 and a one-cycle rate."""
    batches = Batches(data, recipe.batch, recipe.seed)
    optimizer = _optimizer(network, recipe)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
    network.train()
    for step in range(recipe.steps):
        value = loss(batches.batch(step)[0], batches.index(step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if recipe.deep:
            keep_sizes(network)
        optimizer.step()
        rate.step()
        if progress is not None:
            progress(step, value.item())
    network.eval()


def _optimizer(network: nn.Module, recipe: ClassifierRecipe) -> torch.optim.Optimizer:
    if not recipe.deep:
        return torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=0.01)
    return Muon(*matrices_of(network), lr=recipe.lr, weight_decay=0.01, momentum=0.6)


def trained_on(data: ImageData) -> TrainedOn:
    return TrainedOn(data.name, data.split, data.fingerprint, data.shape, data.classes, data.flip)
