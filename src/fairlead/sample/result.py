"""The result of sampling, and how it is saved."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from torch import Tensor

from fairlead.core.arguments import as_path, is_count, plain, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder, is_there
from fairlead.core.signals import unbroken
from fairlead.guide.terms import Guidance
from fairlead.models.model import Spec


@dataclass(frozen=True, eq=False)
class Run:
    """The result of sampling.

    Attributes:
        x0: final samples in the model's space, float32 [n, *shape], on the CPU, not clipped.
        images: uint8 [n, c, h, w]; None when the model's space is not images (toys).
        conds: the condition spec of every sample, by name.
        condition: what the specs were encoded to.
        seeds: of every sample.
        cost: network rows evaluated and calls made.
        seconds: wall time of the whole run.
        settings: everything else needed to repeat it, JSON-ready.
        guidance: what steered it.
        decoded: float32 [n, c, h, w], the images before clipping and rounding: x0 itself for a model of pixels; None
            where there are no images.
    """

    x0: Tensor
    images: Tensor | None
    conds: tuple[Spec, ...]
    condition: Condition
    seeds: tuple[int, ...]
    cost: Cost
    seconds: float
    settings: dict[str, Any]
    guidance: Guidance = field(default_factory=Guidance)
    decoded: Tensor | None = None

    __repr__ = brief

    def provenance(self, index: int | None = None) -> dict[str, Any]:
        """What made image ``index``, or the whole run."""
        index = plain(index)
        if index is not None and not (is_count(index, 0) and index < len(self.conds)):
            raise UsageError(f"index: expected 0 to {len(self.conds) - 1}, an image of this run, got {shown(index)}")
        if index is not None:
            guidance = self.guidance.of_sample(index)
            if self.conds[index] is None:  # among others such terms do nothing here; alone they would be refused
                guidance = replace(guidance, terms=tuple(t for t in guidance.terms if not t.needs_condition()))
            own = {"cond": self.conds[index], "seed": self.seeds[index]}
            return {**own, **self.settings, "guidance": str(guidance)}
        return {"conds": list(self.conds), "seeds": list(self.seeds), **self.settings}

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``00000.png``, ... with their provenance in the PNG text field "fairlead", and ``run.json``.

        Raises:
            UsageError: if there are no images, the folder already holds a run or another run works in it, or a file
                cannot be written; every file is whole or absent.
        """
        folder = as_path("folder", folder)
        if self.images is None:
            raise UsageError("this run's samples are not images; use run.x0")
        check_folder(folder, "choose another folder")
        with Hold(folder), unbroken():
            return self._save(folder, self.images)

    def _save(self, folder: Path, images: Tensor) -> list[Path]:
        if is_there(folder / "run.json"):
            raise UsageError(f"{folder} already holds a run; choose another folder")
        paths: list[Path] = []
        try:
            for i, image in enumerate(images):
                path = folder / f"{i:05d}.png"
                _save_png(image, self.provenance(i), path)
                paths.append(path)
            with replacing(folder / "run.json", durable=False) as partial:
                partial.write_text(json.dumps(self.summary(), indent=1))
        except OSError as error:
            raise UsageError(
                f"cannot save images to {folder}: {error}; {len(paths)} of {len(images)} are written"
            ) from error
        return paths

    def summary(self) -> dict[str, Any]:
        """The run as JSON: provenance and cost."""
        return {
            **self.provenance(),
            "rows": self.cost.rows,
            "calls": self.cost.calls,
            "seconds": round(self.seconds, 3),
        }


def _save_png(image: Tensor, provenance: dict[str, Any], path: Path) -> None:
    """uint8 [c, h, w] with 1 or 3 channels."""
    if len(image) not in (1, 3):
        raise UsageError(f"cannot write an image of {len(image)} channels as PNG; expected 1 or 3")
    text = PngImagePlugin.PngInfo()
    text.add_text("fairlead", json.dumps(provenance))
    array = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    with replacing(path, durable=False) as partial:
        Image.fromarray(array).save(partial, format="PNG", pnginfo=text)
