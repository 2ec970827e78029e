"""A judge of scenes: what it sees in an image, attribute by attribute.

Small networks of its own, which share nothing with the network behind Fréchet distances and must not guide. One looks
at the whole image, with a head for each of ink, background, size, position and count. Three others look at the digits,
cut out where the image differs from its border, and so know nothing of colours and places; each tells the 30 pairs of
digit and slant apart, and their probabilities are multiplied. All are trained on images whose attributes are known,
with the training and the cache of ``judge``. The judge that rewards (``judged``) is another one, of other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.errors import UsageError
from fairlead.data.digits import DIGIT_NAMES
from fairlead.data.images import ImageData
from fairlead.data.scenes.captions import SLANTS, VALUES
from fairlead.diffusers.pretrained import weight_hash
from fairlead.measure.augment import channels_last
from fairlead.measure.judge import (
    Classifier,
    ClassifierRecipe,
    TrainedOn,
    check_images,
    convolutions,
    fit,
    in_chunks,
    stored_network,
    train_classifier,
    trained_on,
)

CROP = 14
"""Side of a cut-out digit in pixels."""
_FAINT, _FULL = 0.15, 0.75
"""Differences from the border, in shares of the largest, that become 0 and 1."""
_LINE = 0.5 / 28
"""A row or column belongs to a digit if the ink in it sums to more than so many sides of the image."""
_MARGIN = 1 / 28
"""Ground around a digit, in sides of the image."""


def digit_crops(images: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second digit of every image, each uint8 [n, 1, 14, 14], ink 255.

    Where there are ``two``, the image is cut in halves across the direction in which its ink is spread more; the left
    or upper one is the first. Of an image with one digit, both are the whole.

    Args:
        images: uint8 [n, c, h, w].
        two: bool [n].
    """
    h, w = images.shape[2:]
    ink = _ink(images)
    share = ink / ink.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    side = _variance(share.sum(dim=1)) > _variance(share.sum(dim=2))
    before = torch.where(
        side[:, None, None], (torch.arange(w) < w / 2)[None, None, :], (torch.arange(h) < h / 2)[None, :, None]
    )
    alone = ~two[:, None, None]
    return _cut(images, before | alone), _cut(images, ~before | alone)


def _ink(images: Tensor) -> Tensor:
    """float32 [n, h, w]: the largest difference of any channel from the border's median colour, in [0, 255]."""
    x = images.to(torch.float32)
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2)
    return (x - border.median(dim=2).values[:, :, None, None]).abs().amax(dim=1)


def _variance(share: Tensor) -> Tensor:
    """Of the place, [n], under the shares [n, m]."""
    at = torch.arange(share.shape[1], dtype=torch.float32)
    mean = (share * at).sum(dim=1, keepdim=True)
    return (share * (at - mean).square()).sum(dim=1)


def _cut(images: Tensor, where: Tensor) -> Tensor:
    """The square around the ink ``where`` true, bool [n, h, w], resampled."""
    ink = _ink(images) * where
    ink = ((ink / ink.amax(dim=(1, 2), keepdim=True).clamp(min=1.0) - _FAINT) / (_FULL - _FAINT)).clamp(0, 1)
    n, h, w = ink.shape
    top, bottom = _ends(ink.sum(dim=2) > _LINE * w)
    left, right = _ends(ink.sum(dim=1) > _LINE * h)
    half = (torch.maximum(bottom - top, right - left) / 2 + _MARGIN * w)[:, None, None]
    steps = 2 * (torch.arange(CROP, dtype=torch.float32) + 0.5) / CROP - 1
    y = (((top + bottom) / 2)[:, None, None] + half * steps[None, :, None]).expand(n, CROP, CROP)
    x = (((left + right) / 2)[:, None, None] + half * steps[None, None, :]).expand(n, CROP, CROP)
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], dim=-1)
    # a large image is reduced by an area at a time: between 28 and 64 pixels, nothing is skipped at 2 x 2
    fine = F.interpolate(grid.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)
    cut = F.avg_pool2d(F.grid_sample(ink[:, None], fine, align_corners=False), 2)
    return (cut * 255).round().to(torch.uint8)


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Outer edges, float32 [n], of the first and the last true of ``seen`` bool [n, m]; the whole where none is."""
    m = seen.shape[1]
    first = seen.to(torch.int8).argmax(dim=1).to(torch.float32)
    last = m - seen.flip(1).to(torch.int8).argmax(dim=1).to(torch.float32)
    return first, last


NOISE = 0.1
"""While training, images get Gaussian noise of a standard deviation up to this, in units of [-1, 1]: generated images
are not as clean as real ones."""

_SHAPES = ("digit", "second digit", "slant")
_HEADS = {name: values for name, values in VALUES.items() if name not in _SHAPES}
_PAIRS = tuple(f"{digit} {slant}" for digit in DIGIT_NAMES for slant in SLANTS)


@dataclass(frozen=True)
class JudgeRecipe:
    """Everything that, with the images, decides the weights.

    Attributes:
        whole: of the network of whole images; it may not shift them, position is an attribute.
        digits: of the networks of cut-out digits, of which member k = 0, 1, ... has its seed + k.
        members: number of those.
        version: of the crops and of this file.
    """

    whole: ClassifierRecipe
    digits: ClassifierRecipe
    members: int = 3
    version: int = 1

    def __post_init__(self) -> None:
        if self.whole.shift:
            raise UsageError(f"attributes: expected shift 0 for whole images, got {self.whole.shift}: it moves digits")


RECIPE = JudgeRecipe(
    whole=ClassifierRecipe(seed=60_306, steps=1200, width=16, features=128, shift=0),
    digits=ClassifierRecipe(seed=70_407, steps=700, width=24, features=128, shift=1),
)
"""The stated recipe; docs/scenes.md has its accuracy on held-out images and its time."""


REWARD_RECIPE = replace(
    RECIPE, whole=replace(RECIPE.whole, seed=90_609), digits=replace(RECIPE.digits, seed=100_711), members=1
)
"""Of the judge that rewards, which must not be the one that measures."""


class AttributeJudge(nn.Module):
    """What it sees in scenes; :meth:`judge` and :meth:`logits` take uint8 images and run without gradients on the CPU.

    Attributes:
        data: the images it was trained on.
    """

    def __init__(self, recipe: JudgeRecipe, data: TrainedOn) -> None:
        super().__init__()
        self.recipe, self.data = recipe, data
        stages, out = convolutions(data.shape, recipe.whole.width)
        self.body = nn.Sequential(*stages, nn.Flatten(), nn.Linear(out, recipe.whole.features), nn.ReLU())
        self.heads = nn.Linear(recipe.whole.features, sum(map(len, _HEADS.values())))
        cut_out = replace(data, shape=(1, CROP, CROP), classes=_PAIRS)
        self.digits = nn.ModuleList(Classifier(member, cut_out) for member in _members(recipe))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [n, k] of all but digits and slant, of float images [n, c, h, w] in [-1, 1]; for training."""
        return self._by_name(self.heads(self.body(x)))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits float32 [n, k] by attribute, of ``images`` uint8 [n, c, h, w].

        Raises:
            UsageError: if the images are not of the shape it was trained on.
        """
        check_images(images, self.data)
        found = self._by_name(in_chunks(self, lambda x: self.heads(self.body(x)), images))
        first, second = (self._shapes(crop) for crop in digit_crops(images.cpu(), found["count"].argmax(dim=1) == 1))
        # the slant is that of both; where there is one digit, both are that one
        found["digit"], found["second digit"] = first.logsumexp(dim=2), second.logsumexp(dim=2)
        found["slant"] = first.logsumexp(dim=1) + second.logsumexp(dim=1)
        return {name: found[name] for name in VALUES}

    def judge(self, images: Tensor) -> dict[str, Tensor]:
        """What it sees in ``images`` uint8 [n, c, h, w]: labels int64 [n] by attribute.

        Those of the second digit mean something only where "count" is two, and are given all the same.
        """
        return {name: logits.argmax(dim=1) for name, logits in self.logits(images).items()}

    @property
    def name(self) -> str:
        """For protocols: what it was trained on and its weights, ``scenes/train-attributes-s1@0123456789ab``."""
        return f"{self.data.name}/{self.data.split}-attributes-s{self.recipe.whole.seed}@{weight_hash(self)}"

    def _shapes(self, crops: Tensor) -> Tensor:
        """Mean logarithm of the members' probabilities, [n, digits, slants]."""
        logs = [member.logits(crops).log_softmax(dim=1) for member in self.digits if isinstance(member, Classifier)]
        return torch.stack(logs).mean(dim=0).reshape(-1, len(DIGIT_NAMES), len(SLANTS))

    def _by_name(self, logits: Tensor) -> dict[str, Tensor]:
        return dict(zip(_HEADS, torch.split(logits, [len(values) for values in _HEADS.values()], dim=1), strict=True))


def train_attribute_judge(
    data: ImageData, recipe: JudgeRecipe = RECIPE, progress: Callable[[int, float], object] | None = None
) -> AttributeJudge:
    """Train on all of ``data`` by cross-entropy; of the heads, the sum, each over the images it applies to.

    Float32 on the CPU; the global random state is left as it was. ``progress`` is called with (step, loss) for the
    ``recipe.whole.steps`` and then for those of each member.

    Raises:
        UsageError: if the data is not of scenes.
    """
    _check_scenes(data)
    noise = torch.Generator().manual_seed(recipe.whole.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.whole.seed)
        judge = AttributeJudge(recipe, trained_on(data))

    def loss(x: Tensor, index: Tensor) -> Tensor:
        amount = NOISE * torch.rand(len(x), 1, 1, 1, generator=noise)
        logits = judge(channels_last(x + amount * torch.randn(x.shape, generator=noise)))
        losses = []
        for name in _HEADS:
            labels = data.attributes[name].labels[index]
            applies = labels >= 0
            if bool(applies.any()):
                losses.append(F.cross_entropy(logits[name][applies], labels[applies]))
        return torch.stack(losses).sum()

    fit(judge, loss, data, recipe.whole, progress)
    crops = _cut_out(data)
    for own, r in zip(judge.digits, _members(recipe), strict=True):
        trained = train_classifier(
            crops, r.seed, r.steps, width=r.width, features=r.features, batch=r.batch, lr=r.lr, shift=r.shift,
            progress=progress,
        )  # fmt: skip
        own.load_state_dict(trained.state_dict())
    return judge.eval()


def cached_attribute_judge(
    data: ImageData,
    folder: Path | None = None,
    progress: Callable[[int, float], object] | None = None,
    recipe: JudgeRecipe | None = None,
) -> AttributeJudge:
    """The judge for ``data``: read from ``folder`` if it is there, else trained and stored, as ``cached_classifier``.

    ``recipe`` is by default :data:`RECIPE`.

    Raises:
        UsageError: if the data is not of scenes.
    """
    _check_scenes(data)
    seen, used = trained_on(data), recipe or RECIPE
    return stored_network(
        "attributes",
        {"recipe": asdict(used), "data": asdict(seen), "values": list(VALUES.items()), "noise": NOISE},
        data.name,
        folder,
        lambda: AttributeJudge(used, seen),
        lambda: train_attribute_judge(data, used, progress),
    )


def _members(recipe: JudgeRecipe) -> list[ClassifierRecipe]:
    return [replace(recipe.digits, seed=recipe.digits.seed + k) for k in range(recipe.members)]


def _cut_out(data: ImageData) -> ImageData:
    """Every digit of every image, cut out, labelled by its pair of digit and slant."""
    two = data.attributes["count"].labels == 1
    first, second = digit_crops(data.images, two)
    digits, slants = data.attributes["second digit"].labels, data.attributes["slant"].labels
    labels = torch.cat([data.labels * len(SLANTS) + slants, digits[two] * len(SLANTS) + slants[two]])
    return ImageData(torch.cat([first, second[two]]), labels, _PAIRS, data.name, data.split, False)


def is_scenes(data: ImageData) -> bool:
    """Whether the attributes that a judge looks for are known of ``data``."""
    return {name: attribute.values for name, attribute in data.attributes.items()} == dict(VALUES)


def _check_scenes(data: ImageData) -> None:
    if not is_scenes(data):
        raise UsageError(
            f"attributes: data {data.name!r} has {', '.join(data.attributes) or 'none'}, expected those of scenes; "
            "use load_data('scenes')"
        )
