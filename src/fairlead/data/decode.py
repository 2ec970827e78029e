"""Image files to uint8 tensors, with PIL: grey stays one channel, colour becomes three.

Alpha is laid on white. 16-bit grey is scaled to 8 bit. Camera rotation (EXIF) is applied. Of several frames the first
is taken. Every image of the project is opened here, by its content and as one of ``FORMATS``: PIL knows others, and
some of those start programs (Ghostscript, for EPS).
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.places import is_file
from fairlead.data.own.fitting import MOST_PIXELS, Fit, as_size, fitted_to, size_text

_AVIF = find_spec("PIL.AvifImagePlugin") is not None
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(["AVIF"] if _AVIF else []))
"""What is opened, by its content."""
ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *([".avif"] if _AVIF else [])),
)
"""Endings of the files of a folder that are taken for images."""
GIVE_SIZE = "give a size, e.g. --size 64 (size=64 in Python)"
ANOTHER_SIZE = f"{GIVE_SIZE}, to resize the shorter side and crop the centre, or a height and width such as 64x96"
"""What to do about images that differ in size."""


_TURNED = 5
"""EXIF orientations from here on exchange height and width."""


class BrokenImageError(Exception):
    """A file that is no image, or one that cannot be decoded; the text says why."""


@contextmanager
def unwarned() -> Iterator[None]:
    """What Pillow warns of is not shown inside the block: of images above its own bound, which is not ours, and of a
    broken part that is not needed; what is needed raises. For the whole of a job: filters of warnings are shared by
    threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(source: str | Path | bytes) -> Image.Image:
    """An image of one of ``FORMATS``, its pixels not yet read; to be used in a ``with`` statement, inside
    :func:`unwarned`.

    Args:
        source: a path, or the content of a file.

    Raises:
        UsageError: if it is of no such format, or larger than ``MOST_PIXELS``; the text follows the name of the file.
        Exception: whatever PIL raises for a broken file.
    """
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f"none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"has more than the {MOST_PIXELS:,} pixels that are read; make it smaller") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise UsageError(
            f"has {height}x{width} (height x width) pixels, more than the {MOST_PIXELS:,} that are read; make it "
            "smaller"
        )
    return image


def decode_images(
    files: Iterable[tuple[str, bytes | None]], size: int | tuple[int, int] | None, what: str, count: int = 1
) -> Tensor:
    """uint8 [n, c, h, w]; c is 1 if all images are grey, else 3.

    Args:
        files: (name, content) of each image; content None reads the file of that name.
        size: of the result, a side or (height, width), of which the images are resized to the centre; None keeps the
            images, which must then agree in size.
        what: the data set, for messages.
        count: how many files there are.

    Raises:
        UsageError: naming the broken file, or the first of another size when ``size`` is None; if ``size`` or so many
            images do not fit in memory.
    """
    wanted = as_size(size, f"data {what!r}")
    arrays: list[NDArray[np.uint8]] = []
    first = ""
    for name, content in files:
        try:
            with unwarned():
                array = decoded_image(name if content is None else content, wanted)
        except BrokenImageError as error:
            raise UsageError(f"data {what!r}: cannot read image {name} ({error}); repair or remove it") from error
        except UsageError as error:
            raise UsageError(f"data {what!r}: {name} {error}") from None
        if not arrays:
            first = name
            check_memory(count, array.shape, f"data {what!r}")
        elif array.shape[:2] != arrays[0].shape[:2]:
            raise UsageError(
                f"data {what!r}: images differ in size ({first} is {size_text(arrays[0].shape[:2])}, {name} is "
                f"{size_text(array.shape[:2])}, height x width); {ANOTHER_SIZE}"
            )
        arrays.append(array)
    # [h, w] beside [h, w, 3] only if grey and colour are mixed
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2) for array in arrays]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(arrays))[:, None]


def resize_images(images: Tensor, size: int | tuple[int, int], what: str = "images", fit: Fit = "centre") -> Tensor:
    """uint8 [n, c, h, w] -> [n, c, *size], each brought to the size as ``fit`` says.

    Raises:
        UsageError: if the result is more than fits in memory.
    """
    wanted = as_size(size, f"data {what!r}")
    if wanted is None or tuple(images.shape[2:]) == wanted:
        return images
    check_memory(len(images), (*wanted, images.shape[1]), f"data {what!r}")
    grey = images.shape[1] == 1
    arrays = (images[:, 0] if grey else images.permute(0, 2, 3, 1)).contiguous().numpy()
    resized = torch.from_numpy(np.stack([np.asarray(fitted_to(Image.fromarray(a), wanted, fit)) for a in arrays]))
    return resized[:, None] if grey else resized.permute(0, 3, 1, 2).contiguous()


def saved_in_colour(path: Path) -> bool:
    """Whether a file would be read with three channels, by its head; False for one that cannot be opened."""
    try:
        with unwarned(), open_image(path) as image:
            return image.mode not in ("1", "L", "LA", "La") and not image.mode.startswith(("I", "F"))
    except Exception:  # it is named when it is read itself
        return False


def in_colour(images: Tensor) -> Tensor:
    """bool [n]: which of uint8 ``images`` [n, c, h, w] have a pixel whose channels differ; grey ones saved as RGB do
    not."""
    if images.shape[1] == 1:
        return torch.zeros(len(images), dtype=torch.bool)
    parts = [(part[:, 1:] != part[:, :1]).flatten(1).any(dim=1) for part in torch.split(images, 256)]
    return torch.cat(parts)


def check_memory(count: int, shape: tuple[int, ...], what: str) -> None:
    """Raise UsageError if ``count`` images (h, w) or (h, w, c), which are held twice while they are put together, are
    more than this machine's memory."""
    there, wanted = machine_memory(), 2 * count * int(np.prod(shape))
    if there is not None and wanted > there:
        raise UsageError(
            f"{what}: {count:,} images of {size_text(shape[:2])} need {wanted / 1e6:,.1f} MB of memory, this machine "
            f"has {there / 1e6:,.1f} MB; give a smaller size or a limit"
        )


def decoded_image(
    source: str | bytes | NDArray[np.uint8], size: tuple[int, int] | None, fit: Fit = "centre"
) -> NDArray[np.uint8]:
    """One image, uint8 [h, w] or [h, w, 3]; to be called inside :func:`unwarned`.

    Args:
        source: a path, the content of a file, or pixels uint8 [h, w] or [h, w, 3].
        size: (height, width) to bring it to as ``fit`` says; None keeps it.

    Raises:
        BrokenImageError: if it cannot be decoded.
        UsageError: if it has pixels that are not read; the text follows its name.
    """
    if isinstance(source, np.ndarray):
        return source if size is None else np.asarray(fitted_to(Image.fromarray(source), size, fit))
    try:
        with open_image(source) as image:
            image.load()
            plain = _plain(image)
    except UsageError:
        raise
    except Exception as error:  # a broken file makes PIL raise anything from OSError to SyntaxError and struct.error
        raise _broken(source, error) from error
    return np.asarray(plain if size is None else fitted_to(plain, size, fit))


def _broken(source: str | bytes, error: Exception) -> BrokenImageError:
    if isinstance(source, str) and is_file(Path(source)) and not Path(source).stat().st_size:
        return BrokenImageError("the file is empty")
    return BrokenImageError(f"{type(error).__name__}: {' '.join(str(error).split())}" if source else "there is none")


def size_of(source: str | bytes | NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) that :func:`decoded_image` would find, by the head of a file.

    Raises:
        BrokenImageError, UsageError: as :func:`decoded_image`, as far as the head shows it.
    """
    if isinstance(source, np.ndarray):
        return source.shape[0], source.shape[1]
    try:
        with open_image(source) as image:
            turned = "exif" in image.info and image.getexif().get(0x0112, 1) >= _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except UsageError:
        raise
    except Exception as error:
        raise _broken(source, error) from error


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Those of a picture that is decoded already, uint8 [h, w] or [h, w, 3].

    Raises:
        UsageError: if it has pixels that are not read; the text follows its name.
    """
    return np.asarray(_plain(image))


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


def machine_memory() -> int | None:
    """Bytes that this process may have: the machine's memory, or less where its control group is limited; None where
    that cannot be asked."""
    try:
        bytes_there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            bytes_there = min(bytes_there, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return bytes_there
