"""What inversion gives: the noise that images are the samples of, kept in one file, and the start of a run from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairlead.core.arguments import as_path, shown
from fairlead.core.brief import brief
from fairlead.core.condition import Condition
from fairlead.core.denoiser import Cost
from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.places import check_file, is_file, unreadable
from fairlead.models.model import Model, Spec
from fairlead.sample.edit.start import ImageStart, Start, image_start
from fairlead.sample.noise import NoiseStream
from fairlead.sample.sampling import Sampling

_FORMAT = "fairlead inversion 1"


@dataclass(frozen=True, eq=False)
class NoiseStart(Start):
    """States of samples at the first time of the grid, and what stands for null on their way.

    Attributes:
        nulls: in the place of the null condition: one for the run, or one for each step; None: null itself.
        made: the sampling that the states are for.
    """

    nulls: Condition | tuple[Condition, ...] | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def of_n(self, n: int) -> Start:
        if self.n == n:
            return self
        every = torch.zeros(n, dtype=torch.int64)
        nulls = self.nulls
        nulls = nulls[every] if isinstance(nulls, Condition) else nulls and tuple(step[every] for step in nulls)
        return replace(self, x=self.x.expand(n, *self.x.shape[1:]), nulls=nulls)

    def x_t(self, batch: slice, noise: NoiseStream, alpha: float, sigma: float) -> Tensor:
        return self.x[batch]

    def check(self, sampling: Sampling) -> None:
        for name, wanted in self.made.items():
            given = str(getattr(sampling, name)) if name == "sampler" else getattr(sampling, name)
            if given != wanted:
                raise UsageError(f"{name} {shown(given)}: the inversion is of {name} {shown(wanted)}; give the same")

    def null(self, batch: slice) -> Condition | Sequence[Condition] | None:
        if self.nulls is None or isinstance(self.nulls, Condition):
            return None if self.nulls is None else self.nulls[batch]
        return [step[batch] for step in self.nulls]


@dataclass(frozen=True, eq=False)
class Inversion:
    """The noise from which a model samples given images, with the reconstruction error.

    ``fl.sample(model, "one", start=inversion, steps=inversion.steps, ...)`` samples from that noise.

    Attributes:
        x_t: the noise, or the state at time ``strength``, float32 [n, *shape].
        x0: the images in the model's space, float32 [n, *shape].
        back: what sampling from there under the same condition and guidance gives, float32 [n, *shape].
        conds: what the images were said to show, by name.
        method: "inversion", "fixed-point", "null-text" or "negative".
        guidance: of the way back; as an expression.
        steps, grid, strength: of the way.
        tokens: of null-text inversion: name -> null tokens of each step and image [steps, n, ...]; else empty.
        psnr: of the way back against the images, dB [n]; None where there are no images.
        codec_psnr: what of that is the autoencoder's own, dB [n]: the images encoded and decoded; None for pixels.
        cost, back_cost: rows and calls of inverting, and of the way back.
        seconds: wall time of both.
        metadata: of the model, JSON-ready.
    """

    x_t: Tensor
    x0: Tensor
    back: Tensor
    conds: tuple[Spec, ...]
    method: str
    guidance: str
    steps: int
    grid: str
    strength: float
    tokens: Mapping[str, Tensor]
    psnr: Tensor | None
    codec_psnr: Tensor | None
    cost: Cost
    back_cost: Cost
    seconds: float
    metadata: Mapping[str, Any]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.x_t)

    @property
    def error(self) -> Tensor:
        """Root mean square of the way back less the image, in the model's space, float64 [n]."""
        return (self.back - self.x0).double().square().flatten(1).mean(1).sqrt()

    def __str__(self) -> str:
        n = len(self)
        parts = [f"error of coming back {float(self.error.mean()):.3g} (largest {float(self.error.max()):.3g})"]
        for name, values in (("PSNR", self.psnr), ("the autoencoder alone", self.codec_psnr)):
            if values is not None:
                parts.append(f"{name} {float(values.mean()):.1f} dB (lowest {float(values.min()):.1f})")
        rows = f"{self.cost.rows / n:g} network rows per image and {self.back_cost.rows / n:g} for the way back"
        return f"{n} image{'' if n == 1 else 's'} by {self.method}: {', '.join([*parts, rows])}"

    def start(self, model: Model) -> NoiseStart:
        """The start of a run of the model from here.

        Raises:
            UsageError: if this is of another model.
        """
        mine, other = self.metadata.get("weights_hash"), model.metadata.get("weights_hash")
        if mine != other or self.x_t.shape[1:] != model.shape:
            raise UsageError(
                f"start: the inversion is of a model with weights {shown(mine)}, samples {list(self.x_t.shape[1:])}; "
                f"this one has {shown(other)}, {list(model.shape)}; invert the images with this model"
            )
        made = {"sampler": "ddim", "steps": self.steps, "grid": self.grid}
        return NoiseStart(self.x_t.to(model.device), self.strength, self._nulls(model), made)

    def _nulls(self, model: Model) -> Condition | tuple[Condition, ...] | None:
        if self.method == "negative":
            return model.encode(self.conds).to(model.device)
        if not self.tokens:
            return None
        null = model.encode([None] * len(self)).to(model.device)
        tokens = {name: values.to(model.device) for name, values in self.tokens.items()}
        count = len(next(iter(tokens.values())))
        return tuple(replace(null, null={name: each[i] for name, each in tokens.items()}) for i in range(count))

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file.

        Raises:
            UsageError: if it cannot be written.
        """
        path = as_path("path", path)
        check_file(path)
        tensors = {"x_t": self.x_t, "x0": self.x0, "back": self.back}
        tensors |= {f"token.{name}": values for name, values in self.tokens.items()}
        tensors |= {name: each for name in ("psnr", "codec_psnr") if (each := getattr(self, name)) is not None}
        about = {name: getattr(self, name) for name in ("method", "guidance", "steps", "grid", "strength", "seconds")}
        about |= {"conds": list(self.conds), "cost": asdict(self.cost), "back_cost": asdict(self.back_cost)}
        about |= {"metadata": dict(self.metadata)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                save_file(
                    {name: each.detach().cpu().contiguous() for name, each in tensors.items()},
                    partial,
                    {"format": _FORMAT, "about": json.dumps(about)},
                )
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}; choose another place") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UsageError: if there is no such file, or it holds something else.
        """
        path = as_path("path", path)
        if not is_file(path):
            raise UsageError(f"inversion: no file {shown(str(path))}; fl.invert and fairlead edit write one")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != _FORMAT:
                    raise UsageError(f"inversion: {path} is no inversion that this version reads; make it again")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(header["about"])
            tokens = {name[6:]: each for name, each in tensors.items() if name.startswith("token.")}
            costs: dict[str, Any] = {name: Cost(**about.pop(name)) for name in ("cost", "back_cost")}
            about["conds"] = tuple(about["conds"])
            found: dict[str, Any] = {name: tensors[name] for name in ("x_t", "x0", "back")}
            found |= {name: tensors.get(name) for name in ("psnr", "codec_psnr")}
            return cls(**found, **about, **costs, tokens=tokens)
        except UsageError:
            raise
        except OSError as error:
            raise UsageError(f"inversion: {unreadable(error, path)}; check the path and its permissions") from error
        except Exception as error:  # whatever a damaged file raises
            raise UsageError(f"inversion: {path} is damaged ({type(error).__name__}); make it again") from error


def start_of(
    model: Model, start: Any, strength: float | None = None, mask: Any = None, resample: int | None = None
) -> Start | None:
    """The start of a run from images or from an inversion; None if neither is given.

    Raises:
        UsageError: see :func:`image_start` and :meth:`Inversion.start`; for what an inversion has of its own.
    """
    if not isinstance(start, Inversion):
        found: ImageStart | None = image_start(model, start, strength, mask, resample)
        return found
    for name, value in (("strength", strength), ("mask", mask), ("resample", resample)):
        if value is not None:
            raise UsageError(f"{name}: an inversion has its own strength and takes no mask; leave {name} out")
    return start.start(model)


def signal_to_noise(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, float64 [n], of images in [-1, 1], clamped; inf where they are equal."""
    difference = (images.clamp(-1, 1) - others.clamp(-1, 1)).double()
    return 10 * (4 / difference.square().flatten(1).mean(1)).log10()
