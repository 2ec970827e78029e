"""The pictures of guidance: one column per class; rows of scales from the same noise; negatives row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.notation import literal
from fairlead.models.model import Model, Spec
from fairlead.report.image_grid import image_grid
from fairlead.sample.run import sample


def class_grid(
    model: Model,
    guidance: str | None,
    *,
    conds: Sequence[Spec] = (),
    rows: int = 10,
    seed: int = 0,
    title: str = "",
    **options: Any,
) -> bytes:
    """PNG: ``rows`` samples of every class, one column per class, each row from the same noise.

    ``conds`` stand in place of the classes. ``options`` are those of ``sample`` (sampler, steps, grid, ...). A model
    without any fills columns with seeds.
    """
    named: Sequence[Spec] = conds or model.classes
    columns: Sequence[Spec] = named or (None,) * 10
    conds = [cond for _ in range(rows) for cond in columns]
    unconditional = not named
    seeds = [seed + (i if unconditional else i // len(columns)) for i in range(len(conds))]
    images = _images(model, conds, guidance, seeds, **options)
    images = images.reshape(rows, len(columns), *images.shape[1:])
    names = [str(cond) for cond in named] or [str(seed + i) for i in range(10)]
    return image_grid(images, row_labels=[""] * rows, col_labels=names, title=title)


def negative_rows(
    model: Model,
    cond: str,
    negatives: Sequence[str | None],
    *,
    scale: float = 7.0,
    columns: int = 8,
    seed: int = 0,
    **options: Any,
) -> bytes:
    """PNG: a row a negative condition (None: plain guidance), all rows from the same noise."""
    rows, labels = [], []
    for negative in negatives:
        extra = "" if negative is None else f", negative={literal(negative)}"
        seeds = range(seed, seed + columns)
        rows.append(_images(model, [cond] * columns, f"cfg({scale:g}{extra})", seeds, **options))
        labels.append("no negative" if negative is None else f"not {negative}")
    title = f"{cond} at scale {scale:g}, away from other classes"
    return image_grid(torch.stack(rows), row_labels=labels, col_labels=[""] * columns, title=title)


def _images(model: Model, conds: Sequence[Spec], guidance: str | None, seeds: Sequence[int], **options: Any) -> Tensor:
    images = sample(model, conds, guidance=guidance, seeds=seeds, **options).images
    if images is None:
        raise UsageError("pictures need a model whose samples are images")
    return images
