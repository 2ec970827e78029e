"""A trained autoencoder: images -> moments of their latents, latents -> images. Any `AutoencoderKL` of diffusers: a
folder of ``fairlead train-autoencoder`` or of diffusers, a pipeline with one in ``vae``, a hub name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fairlead.core.arguments import as_path
from fairlead.core.brief import brief
from fairlead.core.denoiser import autocast
from fairlead.core.errors import UsageError
from fairlead.core.modules import weightless
from fairlead.core.places import home_expanded, is_folder
from fairlead.core.strict_json import opened, read_json
from fairlead.data.images import to_float
from fairlead.diffusers.foreign_files import how_to_convert, pickles_of, variant_of
from fairlead.diffusers.pretrained import files_of, library, weight_hash

_WHAT = "autoencoders"
_WEIGHTS = "diffusion_pytorch_model"
OURS = "autoencoder.json"
"""What `fairlead train-autoencoder` says of the files of diffusers beside it."""
_PIXELS = 2**18
"""Encoded at once: 334 images of 28 x 28."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Latents are taken as (z - shift) * scale, which is what a diffusion model sees of z.

    Attributes:
        network: an ``AutoencoderKL``, frozen, in evaluation mode.
        source: folder or hub name it came from.
        hash: of its weights.
        scale: 1 / standard deviation of z over a training set (2112.10752, section 4.3.2 and appendix G).
        shift: taken from z before; 0 for most.
    """

    network: nn.Module
    source: str
    hash: str
    scale: float
    shift: float = 0.0

    __repr__ = brief

    @property
    def _config(self) -> Any:
        return self.network.config

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images of shape ``image`` (c, h, w).

        Raises:
            UsageError: for images that it cannot encode.
        """
        channels, factor = int(self._config.in_channels), 2 ** (len(self._config.block_out_channels) - 1)
        if len(image) != 3 or image[0] != channels or image[1] % factor or image[2] % factor:
            raise UsageError(
                f"autoencoder {self.source!r} encodes images of {channels} channel{'s' * (channels > 1)} whose sides "
                f"are multiples of {factor}, got {'x'.join(map(str, image))}; pass another --size, or train one on them"
            )
        return int(self._config.latent_channels), image[1] // factor, image[2] // factor

    def config(self, image: tuple[int, ...]) -> dict[str, Any]:
        """JSON-ready, what a checkpoint records of the latents of images of shape ``image``."""
        shape = list(self.latent_shape(image))
        return {"source": self.source, "hash": self.hash, "scale": self.scale, "shift": self.shift, "shape": shape}

    def scaled(self, scale: float, shift: float, source: str) -> Autoencoder:
        """The same weights with another scale and shift, from ``source``."""
        return replace(self, scale=scale, shift=shift, source=source)

    def to(self, device: str | torch.device) -> Autoencoder:
        return replace(self, network=self.network.to(device))

    @torch.no_grad()
    def moments(self, images: Tensor, progress: Callable[[int], object] | None = None) -> Tensor:
        """Mean and log-variance of z, one behind the other: float32 [n, 2 c, h, w] on the CPU, of uint8 ``images``.

        Args:
            progress: called with numbers of images as they are encoded.
        """
        parts = []
        for part in torch.split(images, max(1, _PIXELS // math.prod(images.shape[2:]))):
            posterior = self._encode(to_float(part))
            parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu())
            if progress is not None:
                progress(len(part))
        return torch.cat(parts)

    def encode(self, images: Tensor) -> Tensor:
        """The latents that a diffusion model sees of images [n, c, h, w] in [-1, 1]: their posterior mean, scaled."""
        mean: Tensor = self._encode(images).mean
        return ((mean - self.shift) * self.scale).to(images)

    def decode(self, x0: Tensor) -> Tensor:
        """Scaled latents [n, c, h, w] -> images [n, c, h, w] in [-1, 1] but for small excursions, in the dtype and on
        the device of ``x0``; differentiable. Autocast is off inside."""
        with autocast(self._weight.device, None):
            image: Tensor = self.network.decode(self._there(x0) / self.scale + self.shift).sample  # type: ignore[operator]
        return image.to(x0)

    def _encode(self, images: Tensor) -> Any:
        with autocast(self._weight.device, None):
            return self.network.encode(self._there(images)).latent_dist  # type: ignore[operator]

    def _there(self, x: Tensor) -> Tensor:
        return x.to(self._weight.device, self._weight.dtype)

    @property
    def _weight(self) -> Tensor:
        return next(self.network.parameters())


def load_autoencoder(source: str | Path) -> Autoencoder:
    """Load an autoencoder, float32, on the CPU.

    Args:
        source: a folder with ``config.json`` and safetensors, one with such a folder ``vae``, or a hub name.

    Raises:
        UsageError: if diffusers is not installed, there is no such autoencoder, it is of another class, its weights
            are incomplete or pickled, or it has no scale.
    """
    here = home_expanded(as_path("autoencoder", source))
    if not is_folder(here) and here.parent.name and is_folder(here.parent):  # nobody's hub name
        raise UsageError(
            f"autoencoder {str(source)!r}: there is no such folder; train one with `fairlead train-autoencoder --out "
            f"{source}`, or give a folder of diffusers or a hub name"
        )
    folder = files_of(str(source), f"autoencoder {str(source)!r}", _complete, _wanted)
    kind = _class_of(folder)
    if kind != "AutoencoderKL":
        raise UsageError(
            f"autoencoder {str(source)!r}: {folder} holds a {kind}, expected an AutoencoderKL of diffusers"
        )
    diffusers = library(_WHAT, "diffusers")
    variant = variant_of(folder, f"autoencoder {str(source)!r}")
    try:
        with weightless(sum(_values(path) for path in folder.glob(f"{_WEIGHTS}*.safetensors"))):
            diffusers.AutoencoderKL.from_config(read_json(folder / "config.json"))
        with torch.random.fork_rng(devices=[]):
            network, report = diffusers.AutoencoderKL.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                low_cpu_mem_usage=False,
                variant=variant,
            )
    except Exception as error:  # safetensors, json, the library's own checks
        raise UsageError(f"autoencoder {folder} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:
        raise UsageError(f"autoencoder {folder} has no weights for {len(lost)} of its parts, e.g. {lost[0]}")
    autoencoder = autoencoder_of(network.float(), str(source))
    if os.path.exists(folder / OURS):
        _check_ours(folder, autoencoder)
    return autoencoder


def _check_ours(folder: Path, autoencoder: Autoencoder) -> None:
    """Refuse a scale that is not the one that `fairlead train-autoencoder` measured for these weights."""
    try:
        described = opened(read_json(folder / OURS))
        weights, scale = described["hash"], described["scale"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"autoencoder {folder}: {OURS} is damaged ({error}); train it again, or remove the file if config.json is "
            "right"
        ) from error
    if weights == autoencoder.hash and scale != autoencoder.scale:
        raise UsageError(
            f"autoencoder {folder}: its scale is {scale!r:.40} by {OURS} and {autoencoder.scale!r} by config.json; "
            f"correct scaling_factor there, or remove {OURS} if the change is meant"
        )


def _values(path: Path) -> int:
    """Numbers in a file of tensors."""
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def autoencoder_of(network: nn.Module, source: str) -> Autoencoder:
    """An ``AutoencoderKL`` in memory, with the scale and shift of its own configuration.

    Raises:
        UsageError: if that has no usable scale, or one for each channel.
    """
    config: Any = network.config
    scale, shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
    if getattr(config, "latents_mean", None) is not None or getattr(config, "latents_std", None) is not None:
        raise UsageError(
            f"autoencoder {source!r} scales every channel by itself (latents_mean), which is not supported"
        )
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UsageError(
            f"autoencoder {source!r}: expected a positive scaling_factor in its config.json, got {scale!r}"
        )
    return Autoencoder(network.eval().requires_grad_(False), source, weight_hash(network), float(scale), float(shift))


def _complete(folder: Path) -> Path:
    inside = folder if (folder / "config.json").is_file() else folder / "vae"
    if not (inside / "config.json").is_file():
        raise UsageError(
            f"autoencoder: {folder} has no config.json, nor a folder vae with one; train one with `fairlead "
            f"train-autoencoder --out {folder}`"
        )
    if not any(inside.glob(f"{_WEIGHTS}*.safetensors")):
        pickled = next((f"; {file} is pickled, {how_to_convert(file)}" for file in pickles_of(inside)), "")
        raise UsageError(f"autoencoder: {inside} has no {_WEIGHTS}.safetensors{pickled}")
    return inside


def _wanted(files: Sequence[str]) -> list[str]:
    at = "vae/" if "vae/config.json" in files else ""
    return [f"{at}config.json", f"{at}{_WEIGHTS}.safetensors"]


def _class_of(folder: Path) -> str:
    try:
        return str(read_json(folder / "config.json").get("_class_name"))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"autoencoder: {folder}/config.json cannot be read ({error})") from error
