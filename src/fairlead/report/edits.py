"""Edit images: make them anew under another condition, and keep what the condition does not speak of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fairlead.core.arguments import as_path, chosen, is_count, plain, shown
from fairlead.core.brief import brief
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.progress import Progress, silent
from fairlead.core.signals import unbroken
from fairlead.data.images import to_uint8
from fairlead.guide.terms import Guidance, Term
from fairlead.models.load import Weights
from fairlead.models.model import Given, Model
from fairlead.report.image_grid import image_grid
from fairlead.sample.ddim import DDIM
from fairlead.sample.edit.given import images_of
from fairlead.sample.edit.inversion import each_batch, invert
from fairlead.sample.edit.inverted import Inversion, start_of
from fairlead.sample.edit.start import ImageStart, Start, as_strength, checked_images
from fairlead.sample.result import Run
from fairlead.sample.run import Plan
from fairlead.sample.sampler import Sampler
from fairlead.sample.sampling import Precision, Sampling
from fairlead.tune.answers import loaded_with

EditMethod = Literal["sdedit", "inversion", "fixed-point", "null-text", "negative"]
GLANCE = 20
"""Most columns of the picture."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of an edit: the images before and after.

    Attributes:
        before: the images, uint8 [n, c, h, w]; None where the model's samples are no images.
        run: the edited ones, with what made them.
        inversion: what was found on the way; None for "sdedit".
    """

    before: Tensor | None
    run: Run
    inversion: Inversion | None = None

    __repr__ = brief

    def __str__(self) -> str:
        n = len(self.run.seeds)
        found = self.inversion
        rows = self.run.cost.rows + (0 if found is None else found.cost.rows + found.back_cost.rows)
        lines = [] if self.inversion is None else [str(self.inversion)]
        if self.before is not None:
            lines.append(f"pixels changed by {float(self.changes().mean()):.3g} of [0, 1] (root mean square)")
        lines.append(f"{n} image{'' if n == 1 else 's'} edited, {rows / n:g} network rows per image in all")
        return "\n".join(lines)

    @property
    def images(self) -> Tensor | None:
        """uint8 [n, c, h, w]."""
        return self.run.images

    def changes(self) -> Tensor:
        """How far each image is from what it was: root mean square of its pixels in [0, 1], float64 [n].

        Raises:
            UsageError: if the model's samples are not images.
        """
        if self.before is None or self.run.images is None:
            raise UsageError("this model's samples are not images; compare run.x0")
        difference = self.run.images.double() / 255 - self.before.double() / 255
        return difference.square().flatten(1).mean(1).sqrt()

    def grid(self, model: Model) -> bytes:
        """PNG: a column per image; before, the way back of an inversion, after."""
        if self.before is None or self.run.images is None:
            raise UsageError("this model's samples are not images; use run.x0")
        rows, labels = [self.before, self.run.images], ["before", "after"]
        if self.inversion is not None:
            with torch.no_grad():
                back = to_uint8(model.decode(self.inversion.back[:GLANCE].to(model.device)).cpu())
            rows.insert(1, back.expand(len(self.before[:GLANCE]), *back.shape[1:]))
            labels.insert(1, "way back")
        said = [str(to) if to is not None else "null" for to in self.run.conds]
        if self.inversion is not None and len(self.inversion) == len(said):
            said = [f"{of or 'null'} to {to}" for of, to in zip(self.inversion.conds, said, strict=True)]
        settings, steps = self.run.settings, f"{self.run.settings['steps']} steps"
        return image_grid(
            torch.stack([each[:GLANCE] for each in rows]),
            row_labels=labels,
            col_labels=said[:GLANCE],
            title=", ".join(
                [settings["edit"]["method"], *(f"{settings[key]}" for key in ("guidance", "sampler")), steps]
            ),
            provenance={"fairlead": json.dumps(self.run.provenance())},
        )

    def save(self, out: str | Path, model: Model) -> None:
        """Write the images with their provenance, run.json, grid.png, and inversion.safetensors if there is one.

        Raises:
            UsageError: as ``Run.save``.
        """
        out = as_path("out", out)
        with unbroken():
            self.run.save(out)
            if self.inversion is not None:
                self.inversion.save(out / "inversion.safetensors")
            picture = self.grid(model)
            try:
                with replacing(out / "grid.png", durable=False) as partial:
                    partial.write_bytes(picture)
            except OSError as error:
                raise UsageError(f"cannot write to {out}: {error}; the images themselves are saved") from error


def edit(
    model: Model | str | Path,
    images: Any = None,
    cond: Given | Sequence[Given] = None,
    *,
    method: EditMethod | None = None,
    source: Given | Sequence[Given] = None,
    strength: float | None = None,
    mask: Any = None,
    resample: int | None = None,
    rounds: int | None = None,
    inverted: Inversion | str | Path | None = None,
    guidance: Guidance | Term | str | None = None,
    source_guidance: Guidance | Term | str | None = None,
    n: int | None = None,
    resize: bool = False,
    seed: int = 0,
    sampler: Sampler | str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    batch_size: int = 64,
    precision: Precision = "fp32",
    weights: Weights | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> Edited:
    """Change images to another condition.

    Args:
        model: from ``fl.load`` or ``fl.toy``, or a path that ``fl.load`` takes.
        images: uint8 [n, c, h, w] or floating in [-1, 1]; a file or files, a folder, a data set such as "scenes@test".
        cond: the new condition, one for all or one each.
        method: "sdedit" (default): noise to the time ``strength``, sampled from there. "inversion", "fixed-point",
            "null-text" and "negative" start from the noise that the images are the samples of, see ``fl.invert``.
        source: what the images show, one for all or one each, for methods that invert.
        strength: the time in (0, 1] that sampling begins at. Default: of "sdedit" 0.6, with a mask 1; else 1.
        mask, resample: as for ``fl.sample``; of "sdedit".
        rounds: as for ``fl.invert``.
        inverted: what an earlier edit found, or its inversion.safetensors, in the place of images and source.
        guidance: an expression such as "cfg(4)", an object, or None.
        source_guidance: that of inverting, of "inversion" and "fixed-point". Default: ``guidance``, so that the source
            itself comes back; "none" is scale 1.
        n: the first so many of the images; default: all.
        resize: bring files to the size of the model's images: shorter side resized, centre cropped.
        seed: of the first image; the next ones have the next seeds.
        sampler: of "sdedit", default "ddim"; the others are of ddim.
        steps, grid: as for ``fl.sample``; default 20 and "trailing", or those of ``inverted``.
        batch_size, precision: as for ``fl.sample``.
        weights, device: of a model that is given by its path, as for ``fl.load``.
        out: folder for the images, grid.png and inversion.safetensors; must not hold a run yet.

    Raises:
        UsageError: for anything that cannot be edited so, before the first network call.
    """
    known = Inversion.load(inverted) if isinstance(inverted, str | Path) else inverted
    if known is not None and not isinstance(known, Inversion):
        raise UsageError(f"inverted: expected an inversion from fl.invert or its file, got {shown(known)}")
    if not isinstance(resize, bool):
        raise UsageError(f"resize: expected True or False, got {shown(resize)}")
    _check_inverted(known, images=images, source=source, strength=strength, rounds=rounds, n=n)
    method = _method(method, known)
    _check_method(method, sampler, mask=mask, resample=resample, source_guidance=source_guidance, source=source,
                  rounds=rounds)  # fmt: skip
    if n is not None and not is_count(n := plain(n)):
        raise UsageError(f"n: expected an integer of at least 1, got {shown(n)}")
    if images is None and known is None:
        raise UsageError("images: expected images to edit, a file, a folder or a data set, got none")
    out = None if out is None else as_path("out", out)
    steps = steps if steps is not None else 20 if known is None else known.steps
    grid = grid if grid is not None else "trailing" if known is None else known.grid
    sampling = Sampling("ddim" if sampler is None else sampler, steps, grid, batch_size, precision)
    with nullcontext() if out is None else Hold(out):
        if out is not None:
            check_folder(out, fresh={"run.json": "a run"}, files=["grid.png", "inversion.safetensors"])
        with progress(f"loading {model}"):
            model, guidance, answer = loaded_with(model, guidance, sampling.sampler, steps, weights, device)
        if out is not None and len(model.image_shape) != 3:
            raise UsageError(f"out={str(out)!r}: this model's samples are not images; leave it out and use run.x0")
        planned = partial(Plan.of, model, cond, guidance, sampling, seeds=seed)
        inversion = known
        start: Start | None = None if known is None else known.start(model)
        if known is None:
            given = images_of(images, _size(model) if resize else None)
            given = checked_images(model, given[:n] if given.ndim else given)
            if method == "sdedit":
                start = start_of(model, given, strength, mask, resample)
            else:
                strength = 1.0 if strength is None else as_strength(strength)
                blank = torch.empty(len(given), *model.shape, device=model.device)
                planned(start=ImageStart(blank, strength))  # what cannot be sampled is refused before inverting
                first = guidance if source_guidance is None else source_guidance
                inversion = invert(
                    model, given, source, method=method, guidance=first, strength=strength, rounds=rounds,
                    seeds=seed, steps=steps, grid=grid, batch_size=batch_size, precision=precision, progress=progress,
                )  # fmt: skip
                start = inversion.start(model)
        else:
            with torch.no_grad():
                given = model.decode(known.x0.to(model.device)).cpu()
        plan = planned(start=start)
        with progress("editing", len(plan.seeds), "image") as advance:
            run = plan.run(each_batch(advance))
        about = {} if inversion is None else {"source": list(inversion.conds), "source_guidance": inversion.guidance}
        run = replace(run, settings={**run.settings, "edit": {"method": method, **about}, **answer})
        found = Edited(_before(given, run), run, inversion)
        if out is not None:
            found.save(out, model)
        return found


def _before(given: Tensor, run: Run) -> Tensor | None:
    """The images as they were, one for each sample."""
    if run.images is None:
        return None
    images = to_uint8(given.float())
    return images.expand(len(run.seeds), *images.shape[1:])


def _size(model: Model) -> tuple[int, int]:
    if len(model.image_shape) != 3:
        raise UsageError("resize: this model's samples are not images; leave it out")
    return model.image_shape[1], model.image_shape[2]


def _method(given: EditMethod | None, known: Inversion | None) -> EditMethod:
    if given is not None:
        chosen("method", given, get_args(EditMethod))
    if known is None:
        return given or "sdedit"
    if given not in (None, known.method):
        raise UsageError(f"method {given!r}: the inversion is by {known.method!r}; leave it out")
    return known.method  # type: ignore[return-value]


def _check_inverted(known: Inversion | None, **given: Any) -> None:
    """Raise UsageError for what an inversion has of its own."""
    for name, value in given.items():
        if known is not None and value is not None:
            raise UsageError(f"{name}: inverted has its own; leave {name} out")


def _check_method(method: EditMethod, sampler: Sampler | str | None, **given: Any) -> None:
    """Raise UsageError for what a method does not read."""
    inverting = method != "sdedit"
    unread = {"mask", "resample"} if inverting else {"source", "source_guidance", "rounds"}
    unread |= {"source_guidance"} if method in ("null-text", "negative") else set()
    for name, value in given.items():
        if value is not None and name in unread:
            why = "inverts without guidance" if name == "source_guidance" and inverting else "does not read it"
            raise UsageError(f"{name}: method {method!r} {why}; leave it out or choose another method")
    plain_ddim = isinstance(sampler, str | DDIM) and sampler in ("ddim", DDIM())
    if inverting and sampler is not None and not plain_ddim:
        raise UsageError(f"sampler {shown(sampler)}: method {method!r} only works with ddim; leave the sampler out")
