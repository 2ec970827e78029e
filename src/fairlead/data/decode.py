"""Image files to uint8 tensors, with PIL: grey stays one channel, colour becomes three.

Alpha is laid on white. 16-bit grey is scaled to 8 bit. Camera rotation (EXIF) is applied.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fairlead.core.errors import UsageError


def decode_images(files: Iterable[tuple[str, bytes | None]], size: int | None, what: str) -> Tensor:
    """uint8 [n, c, h, w]; c is 1 if all images are grey, else 3.

    Args:
        files: (name, content) of each image; content None reads the file of that name.
        size: shorter side and centre crop of the result; None keeps the images, which must then agree in size.
        what: the data set, for messages.

    Raises:
        UsageError: naming the broken file, or the first of another size when ``size`` is None.
    """
    arrays: list[NDArray[np.uint8]] = []
    first = ""
    for name, content in files:
        array = _decode(name, content, size, what)
        first = first or name
        if arrays and array.shape[:2] != arrays[0].shape[:2]:
            raise UsageError(
                f"data {what!r}: images differ in size ({first} is {_extent(arrays[0])}, {name} is {_extent(array)}); "
                "give a size, e.g. size=64, to resize the shorter side and crop the centre"
            )
        arrays.append(array)
    # [h, w] beside [h, w, 3] only if grey and colour are mixed
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(arrays))[:, None]


def resize_images(images: Tensor, size: int) -> Tensor:
    """uint8 [n, c, h, w] -> [n, c, size, size]: shorter side resized, centre cropped."""
    if tuple(images.shape[2:]) == (size, size):
        return images
    grey = images.shape[1] == 1
    arrays = (images[:, 0] if grey else images.permute(0, 2, 3, 1)).contiguous().numpy()
    resized = torch.from_numpy(np.stack([np.asarray(_fit(Image.fromarray(array), size)) for array in arrays]))
    return resized[:, None] if grey else resized.permute(0, 3, 1, 2).contiguous()


def _decode(name: str, content: bytes | None, size: int | None, what: str) -> NDArray[np.uint8]:
    """uint8 [h, w] or [h, w, 3]."""
    try:
        with Image.open(name if content is None else io.BytesIO(content)) as image:
            image.load()
            plain = _plain(image)
    except UsageError as error:
        raise UsageError(f"data {what!r}: {name} {error}") from None
    except Exception as error:  # a broken file makes PIL raise anything from OSError to SyntaxError and struct.error
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data {what!r}: cannot read image {name} ({type(error).__name__}: {reason}); repair or remove it"
        ) from error
    return np.asarray(plain if size is None else _fit(plain, size))


def _plain(image: Image.Image) -> Image.Image:
    """In mode L or RGB."""
    if image.mode not in ("L", "RGB") and image.mode.startswith(("I", "F")):
        return _eight_bit(image)
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        grey = image.mode in ("L", "LA", "La")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("L" if grey else "RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    # PIL's own conversion clips at 255, which turns a 16-bit image white
    if not image.mode.startswith("I;16"):
        raise UsageError(f"has 32-bit pixels (PIL mode {image.mode!r}) of unknown range; save it with 8 or 16 bits")
    wide = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.round(wide / 257).astype(np.uint8))


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size`` (antialiased bicubic), then the centre size x size."""
    return image if image.size == (size, size) else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _extent(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
