"""What a network learns of captions before it is trained: to read them, and to sketch the average image of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.data.batches import Batches, RecordedBatches
from fairlead.data.images import Attribute, ImageData, stream
from fairlead.data.latents import LatentBatches
from fairlead.nets.packed_text import pooled_at_end
from fairlead.nets.sketch import Sketch
from fairlead.nets.text_attention import END, PAD, TextInput, TextTransformer
from fairlead.train.config import TrainConfig
from fairlead.train.optimizer import Muon, matrices_of

if TYPE_CHECKING:
    from fairlead.train.conditions import DataConditions

BATCH, LR = 64, 2e-3
SKETCH_BATCH = 32
MEASURED = 4096
"""Captions from which a network learns how far they differ."""
TELLING, TELLING_BATCH, TELLING_LR = 3000, 256, 5e-3
"""Of a sketch's linear readers: sure of full captions then (scenes: cross-entropies of at most 0.015)."""
UNLIKELY = -4.0
"""Log-odds that a reader of words starts with: most of what could be said is not said."""


def prepare_text(
    text: TextInput,
    data: ImageData,
    conditions: DataConditions,
    config: TrainConfig,
    batches_of: Callable[[int], Batches | LatentBatches | RecordedBatches],
    progress: Callable[[int], object] | None,
) -> None:
    """Let the text encoder in a fresh network learn to read, measure what it makes of captions, and learn to sketch
    from that.

    Args:
        batches_of: the batches of a size that the network is trained on.
    """
    captions = conditions.text
    assert captions is not None
    if not text.fixed:
        return
    image, caption = conditions.pairs()
    attributes = {name: Attribute(a.values, a.labels[image]) for name, a in data.attributes.items()}
    if text.encoder is not None:
        steps, seed = config.text.get("read", 0), config.seed
        learn_to_read(text.encoder, captions[caption], attributes, steps, seed, progress)
    some = torch.randperm(len(captions), generator=stream("captions", config.seed, 0))[:MEASURED]
    text.measure(captions[some])
    if text.sketch is not None:
        batches = batches_of(SKETCH_BATCH)
        learn_to_sketch(
            text.sketch,
            text.pooled(captions)[caption],
            attributes,
            lambda step: (one_caption(batches.index(step), image, config.seed, step), batches.batch(step)[0]),
            config.text["sketch"],
            config.seed,
            progress,
        )


def one_caption(index: Tensor, image: Tensor, seed: int, step: int) -> Tensor:
    """For each of the images ``index`` [b] one of its captions, by its place in ``image`` [p], the image of each
    caption in order."""
    first, after = torch.searchsorted(image, index), torch.searchsorted(image, index, right=True)
    draw = torch.rand(len(index), generator=stream("sketch", seed, step))
    return first + (draw * (after - first)).long()


def learn_to_read(
    encoder: TextTransformer,
    ids: Tensor,
    attributes: Mapping[str, Attribute],
    steps: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Train ``encoder`` so that linear readers of its state at the end token can tell the attributes of the image; the
    readers are thrown away. Without attributes, they tell which words a caption has, and which pairs of neighbours.

    "a red seven on white" then differs from "a white seven on red" along directions that a network can use from its
    first step on, where gradients through a picture take thousands of steps to find them.

    Args:
        ids: int64 [n, length], token ids of captions (see :mod:`fairlead.data.words`).
        attributes: what is known of the images beside their captions, [n] each.
        steps: of a batch of 64.
        seed: decides the batches and the readers, so that all bits are decided.
        progress: called with 1 after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss_of = _Labels(encoder, attributes) if attributes else _Words(encoder, ids)
    frozen = not encoder.tokens.weight.requires_grad
    encoder.requires_grad_(True)
    matrices, others = matrices_of(encoder)
    optimizer = Muon(matrices, [*others, *loss_of.parameters()], LR)
    for step in range(steps):
        _set_rate(optimizer, step, steps)
        index = torch.randint(len(ids), (BATCH,), generator=generator)
        batch = ids[index]
        batch = batch[:, : int((batch != PAD).sum(1).max())]
        state = pooled_at_end(encoder(batch), batch, END)
        loss = loss_of(state, batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(1)
    optimizer.zero_grad()  # what comes next clips all the gradients there are
    encoder.requires_grad_(not frozen)


def learn_to_sketch(
    sketch: Sketch,
    pooled: Tensor,
    attributes: Mapping[str, Attribute],
    images: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Train ``sketch`` by squared error to draw an image from the pooled vector of its caption: the average of all such
    images, which is what a denoiser has to predict of pure noise. A denoiser finds out last what decides few pixels;
    here nothing is noise, and a step costs a twentieth of the network's.

    Args:
        pooled: [n, width], a vector for each sample of the data.
        attributes: of the samples, [n] each, what the sketch ``says``: it learns to tell them first.
        images: step -> indices of the samples of a batch, int64 [b], and their images [b, c, s, s].
        seed: decides which vectors the readers learn from, and when.
        progress: called with 1 after every step.
    """
    sketch.requires_grad_(True)
    if sketch.read is not None:
        _learn_to_tell(sketch, pooled, attributes, min(TELLING, steps), seed)
    optimizer = Muon(*matrices_of(sketch), LR)
    for step in range(steps):
        _set_rate(optimizer, step, steps)
        index, x0 = images(step)
        loss = F.mse_loss(sketch(pooled[index]), x0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(1)
    optimizer.zero_grad()
    sketch.requires_grad_(False)


def _set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Up over a tenth of the steps, then straight down to 0."""
    for group in optimizer.param_groups:
        group["lr"] = LR * min(1.0, (step + 1) / max(1, steps // 10)) * (1 - step / steps)


class _Labels(nn.Module):
    """Cross-entropy of linear readers, one an attribute."""

    def __init__(self, encoder: TextTransformer, attributes: Mapping[str, Attribute]) -> None:
        super().__init__()
        self.attributes = attributes
        width = encoder.tokens.embedding_dim
        self.readers = nn.ModuleList([nn.Linear(width, values_of(a)) for a in attributes.values()])

    def forward(self, state: Tensor, batch: Tensor, index: Tensor) -> Tensor:
        return _reading_loss([reader(state) for reader in self.readers], self.attributes, index)


def _learn_to_tell(sketch: Sketch, pooled: Tensor, attributes: Mapping[str, Attribute], steps: int, seed: int) -> None:
    """Train the readers of a sketch, which then stay as they are: whether a word was an eight must be sure."""
    assert sketch.read is not None
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(sketch.read.parameters(), TELLING_LR, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = TELLING_LR * (1 - step / steps)
        index = torch.randint(len(pooled), (TELLING_BATCH,), generator=generator)
        loss = _reading_loss(sketch.logits(pooled[index]), attributes, index)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    sketch.read.requires_grad_(False)


def _reading_loss(logits: Sequence[Tensor], attributes: Mapping[str, Attribute], index: Tensor) -> Tensor:
    """The sum of the cross-entropies of the attributes of the samples at ``index``; see :func:`values_of`."""
    wrong = [
        F.cross_entropy(values, torch.where((labels := attribute.labels[index]) < 0, values.shape[1] - 1, labels))
        for values, attribute in zip(logits, attributes.values(), strict=True)
    ]
    return torch.stack(wrong).sum()


def values_of(attribute: Attribute) -> int:
    """How many values a reader tells apart: one more than the attribute has where it does not apply to all samples."""
    return len(attribute.values) + bool((attribute.labels < 0).any())


class _Words(nn.Module):
    """Binary cross-entropy of a linear reader of all words and pairs of neighbours."""

    def __init__(self, encoder: TextTransformer, ids: Tensor) -> None:
        super().__init__()
        self.known = torch.unique(said(ids))
        self.reader = nn.Linear(encoder.tokens.embedding_dim, len(self.known))
        nn.init.constant_(self.reader.bias, UNLIKELY)

    def forward(self, state: Tensor, batch: Tensor, index: Tensor) -> Tensor:
        wanted = torch.zeros(len(batch), len(self.known))
        wanted.scatter_(1, torch.searchsorted(self.known, said(batch)), 1.0)
        return F.binary_cross_entropy_with_logits(self.reader(state), wanted, reduction="sum") / len(batch)


def said(ids: Tensor) -> Tensor:
    """Token ids [n, l] -> a number for every token and for every pair of neighbours, int64 [n, 2 l - 1]. Padding
    counts as a word."""
    return torch.cat([ids, (1 + ids[:, :-1]) * 2**20 + ids[:, 1:]], dim=1)
