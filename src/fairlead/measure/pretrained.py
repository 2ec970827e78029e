"""Pretrained image networks through `transformers`: their files, their weights whole or not at all, and their
preprocessing, read from ``preprocessor_config.json`` and done here, without torchvision."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.errors import UsageError

SETTINGS = "preprocessor_config.json"
FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the filters that torch has too."""
_WAIT = 5.0
"""Seconds in which the hub must answer at all."""


@dataclass(frozen=True)
class Preparation:
    """From uint8 images to what a network sees: resize, crop the centre, divide, normalise.

    Attributes:
        shortest: size of the shorter side after resizing; None to use ``size``.
        size: (height, width) after resizing; None to use ``shortest``; both None: as it is.
        crop: (height, width) of the centre that is kept; None for all.
        mean, std: per channel, of values times ``factor``.
        factor: usually 1/255.
        mode: "bicubic" or "bilinear", see :func:`resized`.
    """

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float
    mode: str

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, 3, H, W] of ``images`` uint8 [n, 3, h, w]."""
        height, width = images.shape[2:]
        target = self.size or (height, width)
        if self.shortest is not None:
            short = min(height, width)
            target = (int(self.shortest * height / short), int(self.shortest * width / short))
        x = resized(images, target, self.mode)
        if self.crop is not None:
            top, left = ((whole - part) // 2 for whole, part in zip(target, self.crop, strict=True))
            if top < 0 or left < 0:
                raise UsageError(
                    f"{SETTINGS}: cannot crop {self.crop} from images of {target}; use a whole model folder"
                )
            x = x[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x * self.factor - mean) / std

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def resized(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, c, *size] of whole numbers in [0, 255], antialiased.

    As PIL does it: across, then down, each rounded to whole levels, halves up. (One pass differs by up to 3 levels.)
    """
    x = images.to(torch.float32)
    for step in ((x.shape[2], size[1]), size):
        if step != tuple(x.shape[2:]):
            x = F.interpolate(x, step, mode=mode, antialias=True).add(0.5).floor().clamp(0, 255)
    return x


def prepared(settings: Mapping[str, Any], what: str) -> Preparation:
    """The preparation that a ``preprocessor_config.json`` describes.

    Raises:
        UsageError: for a filter or a size that is not known here.
    """
    mode = FILTERS.get(settings.get("resample", 3))
    if mode is None:
        raise UsageError(f"{what}: {SETTINGS} asks for PIL filter {settings['resample']}; expected 2 or 3")
    shortest, size = None, None
    if settings.get("do_resize", True):
        shortest, size = _side(settings.get("size", {}), what)
        if shortest is None and size is None:
            raise UsageError(
                f"{what}: {SETTINGS} resizes to {settings.get('size')!r}; expected shortest_edge, or height and width"
            )
    crop = None
    if settings.get("do_center_crop", False):
        edge, crop = _side(settings.get("crop_size", {}), what)
        crop = crop if edge is None else (edge, edge)
    normal = settings.get("do_normalize", True)
    return Preparation(
        shortest,
        size,
        crop,
        tuple(settings["image_mean"]) if normal else (0.0,),
        tuple(settings["image_std"]) if normal else (1.0,),
        float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
        mode,
    )


def fetched(source: str, what: str) -> Path:
    """The local folder of ``source``, a folder or a hub name; downloaded if it is not in the hub's cache.

    Raises:
        UsageError: if there is no such folder, the hub does not have it or cannot be reached, or files are missing.
    """
    here = Path(source).expanduser()
    if here.is_dir():
        return _complete(here, what)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise UsageError(f"{what}: {source!r} is no folder and no hub name owner/name")
    import huggingface_hub

    try:
        return _complete(Path(huggingface_hub.snapshot_download(source, local_files_only=True)), what)
    except Exception:  # not there, or only in part
        pass
    try:
        # asked once, briefly: the download itself would try for half a minute where there is no connection
        files = [entry.rfilename for entry in huggingface_hub.model_info(source, timeout=_WAIT).siblings or []]
        weights = "model*.safetensors" if "model.safetensors" in files else "pytorch_model.bin"
        return _complete(
            Path(huggingface_hub.snapshot_download(source, allow_patterns=["*.json", "*.txt", weights])), what
        )
    except UsageError:
        raise
    except Exception as error:  # httpx, the hub client, the disk
        reason = (" ".join(str(error).split()) or type(error).__name__).replace(";", ",").partition(". ")[0]
        raise UsageError(
            f"{what}: {source} is not in the local hub cache and cannot be downloaded ({reason[:120]}); give a folder, "
            "as in dinov2:PATH, or use --features random"
        ) from error


def pretrained(folder: Path, model: str, what: str) -> nn.Module:
    """The network of class ``model`` of `transformers`, float32, in evaluation mode.

    Raises:
        UsageError: if `transformers` is missing, the files are damaged, or weights are missing, which the library would
            fill with random numbers.
    """
    transformers = library(what)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            network, report = getattr(transformers, model).from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # safetensors, pickle, json, the library's own checks
        raise UsageError(f"{what}: {folder} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    lost = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lost:
        raise UsageError(
            f"{what}: {folder} has no weights for {len(lost)} parts of {model}, e.g. {lost[0]}; wrong model?"
        )
    return network.requires_grad_(False).eval()  # type: ignore[no-any-return]


def library(what: str) -> Any:
    """The package `transformers`.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError(f"{what} need the package transformers; pip install 'fairlead[diffusers]'") from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no remarks of `transformers`; what matters is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _complete(folder: Path, what: str) -> Path:
    for needed in ("config.json", SETTINGS):
        if not (folder / needed).is_file():
            raise UsageError(f"{what}: {folder} has no {needed}; expected a model folder of transformers")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise UsageError(f"{what}: {folder} has no weights; expected model.safetensors")
    return folder


def _side(size: Any, what: str) -> tuple[int | None, tuple[int, int] | None]:
    """(shorter side, None) or (None, (height, width)); an int is the shorter side, as in older files."""
    if isinstance(size, int):
        return size, None
    if isinstance(size, Mapping) and size.get("shortest_edge"):
        return int(size["shortest_edge"]), None
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return None, (int(size["height"]), int(size["width"]))
    return None, None
