"""Images and masks as a person names them: tensors, files, a folder, a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairlead.core.arguments import as_tensor
from fairlead.core.errors import LONGEST, UsageError, shortened
from fairlead.core.places import home_expanded, is_folder, is_there, read_bytes, unreadable
from fairlead.data.decode import ENDINGS, decode_images, open_image, unwarned
from fairlead.data.hub import load_data


def images_of(given: Any, size: tuple[int, int] | None = None) -> Tensor:
    """The images that are meant, uint8 [n, c, h, w] where they are read, else the tensor as it is.

    Args:
        given: a tensor or array; a file, or a list of files; a folder, whose images are taken in the order of their
            names; a data set as ``load_data`` takes it, with ``@SPLIT`` behind it for another split than "train".
        size: (height, width) that files and data sets are brought to: shorter side resized, centre cropped.

    Raises:
        UsageError: if there is nothing of the kind, a file is broken, or the images differ in size.
    """
    several = isinstance(given, list | tuple) and any(isinstance(one, str | os.PathLike) for one in given)
    if not several and not isinstance(given, str | os.PathLike):
        return as_tensor("start", given)
    names = [str(one) for one in (given if several else [given])]
    if len(names) == 1 and is_folder(names[0]):
        folder = home_expanded(names[0])
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
        except OSError as error:
            raise UsageError(f"start: {unreadable(error, folder)}; check the path and its permissions") from error
        if not files:
            raise UsageError(f"start: folder {_named(folder)} holds no images; name the folder that they are in")
    elif all(is_there(home_expanded(name)) for name in names):
        files = [home_expanded(name) for name in names]
    elif len(names) == 1:
        name, _, split = names[0].partition("@")
        try:
            return load_data(name, split=split or "train", size=size).images
        except UsageError as error:
            raise UsageError(f"start: no file or folder {_named(names[0])}, and as a data set: {error}") from error
    else:
        missing = next(name for name in names if not is_there(home_expanded(name)))
        raise UsageError(f"start: no file {_named(missing)}; check the path")
    return decode_images([(str(path), None) for path in files], size, "start", len(files))


def mask_of(given: Any) -> Any:
    """What a mask file says, bool [h, w]; anything else as it is. True where the image is transparent, or, if it is
    nowhere, where it is bright.

    Raises:
        UsageError: if the file cannot be read.
    """
    if not isinstance(given, str | os.PathLike):
        return given
    content = read_bytes(home_expanded(str(given)), "mask")
    try:
        with unwarned(), open_image(content) as file:
            pixels = np.asarray(file.convert("RGBA")).astype(np.int64)
    except UsageError as error:
        raise UsageError(f"mask {_named(given)} {error}") from None
    except Exception as error:  # a broken file makes PIL raise anything
        raise UsageError(f"mask {_named(given)}: cannot be read ({' '.join(str(error).split())})") from error
    transparent = torch.from_numpy(pixels[..., 3] < 128)
    return transparent if bool(transparent.any()) else torch.from_numpy(pixels[..., :3].sum(-1) >= 3 * 128)


def _named(path: str | Path | os.PathLike[str]) -> str:
    return shortened(str(path), LONGEST)
