"""What a playground may open: the models it was started with, and the sweeps and files below their folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from fairlead.core.errors import UsageError, shortened, unknown
from fairlead.core.places import is_folder
from fairlead.guide.terms import Guidance
from fairlead.models.load import is_pipeline, load
from fairlead.models.model import Given, Model
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.tasks import DENOISE, task_of

DEPTH = 4
"""Levels of folders that are searched for runs and sweeps below one that is neither."""


@dataclass(frozen=True)
class Limits:
    """What one press of a button may ask for.

    Attributes:
        images: at once, of each side.
        steps: of the sampler.
        pixels: of one image, height times width.
        length: characters of a prompt or an expression.
        waiting: presses that wait for their turn, of all tabs together.
    """

    images: int = 64
    steps: int = 250
    pixels: int = 1024 * 1024
    length: int = 2_000
    waiting: int = 16


@dataclass(frozen=True, eq=False)
class Library:
    """Models by the name that the command line takes, loaded on first use; folders of sweeps.

    Attributes:
        models: paths of runs and pipelines, or names on the hub that it was started with.
        sweeps: folders with a ``sweep.json``.
        roots: folders below which anything that a guidance or a condition names has to be.
    """

    models: tuple[str, ...]
    sweeps: tuple[str, ...]
    roots: tuple[Path, ...]
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    _loaded: dict[str, Model] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, places: Sequence[str], limits: Limits | None = None, device: str = "auto") -> Library:
        """Every place is a run, RUN@step500, a checkpoint, a pipeline, a sweep, or a folder with such things below it.

        Raises:
            UsageError: for a place where there is none of them.
        """
        models: list[str] = []
        sweeps: list[str] = []
        roots: list[Path] = []
        for place in places:
            before = len(models) + len(sweeps)
            if is_folder(place):
                roots.append(Path(place).resolve())
                for folder in _below(Path(place)):
                    models += [str(folder)] if _is_model(folder) else []
                    sweeps += [str(folder)] if (folder / "sweep.json").is_file() else []
            elif "@" in place or is_pipeline(place):
                models.append(place)
            if len(models) + len(sweeps) == before:
                raise UsageError(
                    f"{shortened(place, 200)}: expected a training run, a pipeline, or a folder with runs or sweeps in "
                    "it; make one with `fairlead demo` or `fairlead train`"
                )
        once = tuple(dict.fromkeys(models)), tuple(dict.fromkeys(sweeps))
        return cls(*once, tuple(dict.fromkeys(roots)), limits or Limits(), device)

    def model(self, name: str) -> Model:
        """The model of that name, loaded once; others wait meanwhile.

        Raises:
            UsageError: for a name that it was not started with, and as ``load``; for images that are too large.
        """
        if name not in self.models:
            raise unknown("model", name, self.models)
        with self._lock:
            if name not in self._loaded:
                loaded = load(name, device=self.device)
                _, height, width = loaded.image_shape if len(loaded.image_shape) == 3 else (1, 1, 1)
                if height * width > self.limits.pixels:
                    raise UsageError(
                        f"{name}: images of {height} x {width} are more than the {self.limits.pixels:,} pixels that "
                        "the playground takes; sample them with `fairlead sample`"
                    )
                self._loaded[name] = loaded
        return self._loaded[name]

    def check(self, model: Model, guidance: Guidance, conds: Sequence[Given]) -> None:
        """Refuse a guidance or conditions that name a file outside of the folders.

        Raises:
            UsageError: with the name and the folders.
        """
        specs = [*conds, *(spec for _, spec in guidance.specs())]
        read = getattr(model.encode, "read", None)
        shown = [read(spec).get("image") for spec in specs] if read and "image" in model.conditions else []
        for name in [*(resource.name for resource in guidance.resources()), *shown]:
            if isinstance(name, str) and not self._holds(name):
                listed = ", ".join(map(str, self.roots)) or "none"
                raise UsageError(
                    f"{shortened(name, 200)} is not below the folders that the playground was started with ({listed}); "
                    "start it with that folder too"
                )

    def _holds(self, name: str) -> bool:
        if "\0" in name:
            return False
        path = name.rpartition("@")[0] or name
        places = [Path(os.path.realpath(os.path.expanduser(each))) for each in (name, path)]
        return any(place.exists() and place.is_relative_to(root) for place in places for root in self.roots)


def _below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folder and those below it, without hidden ones, links, the steps of a run and the parts of a pipeline."""
    yield folder
    if depth and not (folder / "model.json").is_file() and not (folder / "model_index.json").is_file():
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith((".", "step-")):
                yield from _below(inner, depth - 1)


def _is_model(folder: Path) -> bool:
    """Whether a folder is a diffusion model. One that is damaged is listed; choosing it says what is wrong."""
    if (folder / "model_index.json").is_file():
        return True
    if not (folder / "model.json").is_file() and not any(folder.glob("step-*/model.json")):
        return False
    try:
        return task_of(find_checkpoint(folder).about["objective"]) is DENOISE
    except UsageError:
        return True
