"""Teaching a text encoder to read, before anything is drawn: captions alone say which words belong together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.nets.text import END, PAD, TextTransformer
from fairlead.train.optimizer import Muon, matrices_of

BATCH, LR = 64, 2e-3
UNLIKELY = -4.0
"""Log-odds that a reader starts with: most of what could be said is not said."""


def learn_to_read(
    encoder: TextTransformer, ids: Tensor, steps: int, seed: int, progress: Callable[[int], object] | None = None
) -> None:
    """Train ``encoder`` so that a linear reader of its state at the end token can say which words a caption has, and
    which pairs of neighbours; the reader is thrown away.

    "a red seven on white" then differs from "a white seven on red" along directions that a network can use from its
    first step on, where gradients through a picture take thousands of steps to find them.

    Args:
        ids: int64 [n, length], token ids of captions (see :mod:`fairlead.data.words`).
        steps: of a batch of 64.
        seed: decides the batches and the reader, together with ``steps`` all bits.
        progress: called with 1 after every step.
    """
    known = torch.unique(_said(ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = nn.Linear(encoder.tokens.embedding_dim, len(known))
        nn.init.constant_(reader.bias, UNLIKELY)
        generator = torch.Generator().manual_seed(seed)
        matrices, others = matrices_of(encoder)
        optimizer = Muon(matrices, [*others, *reader.parameters()], LR)
        for step in range(steps):
            rate = LR * min(1.0, (step + 1) / max(1, steps // 10)) * (1 - step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = ids[torch.randint(len(ids), (BATCH,), generator=generator)]
            batch = batch[:, : int((batch != PAD).sum(1).max())]
            wanted = torch.zeros(BATCH, len(known))
            wanted.scatter_(1, torch.searchsorted(known, _said(batch)), 1.0)
            at = (batch == END).int().argmax(1)
            state = encoder(batch)[torch.arange(BATCH), at]
            loss = F.binary_cross_entropy_with_logits(reader(state), wanted, reduction="sum") / BATCH
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress(1)


def _said(ids: Tensor) -> Tensor:
    """Token ids [n, l] -> a number for every token and for every pair of neighbours, int64 [n, 2 l - 1]. Padding
    counts as a word."""
    return torch.cat([ids, (1 + ids[:, :-1]) * 2**20 + ids[:, 1:]], dim=1)
