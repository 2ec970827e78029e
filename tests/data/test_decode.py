import io

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.data import decode
from fairlead.data.decode import decode_images, in_colour, resize_images

GREY = np.array([[0, 50, 100], [150, 200, 255]], dtype=np.uint8)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(*images: Image.Image, size: int | None = None) -> torch.Tensor:
    return decode_images([(f"{i}.png", encoded(image)) for i, image in enumerate(images)], size, "set")


def test_grey_stays_grey_and_colour_is_channels_first():
    assert torch.equal(decoded(Image.fromarray(GREY)), torch.from_numpy(GREY)[None, None])
    assert torch.equal(decoded(Image.fromarray(COLOUR))[0], torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_a_mix_becomes_colour_with_three_equal_channels_for_grey():
    mixed = decoded(Image.fromarray(GREY), Image.fromarray(COLOUR))
    assert torch.equal(mixed[0], torch.from_numpy(GREY).expand(3, 2, 3))
    assert torch.equal(mixed[1], torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_alpha_is_laid_on_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    assert decoded(Image.fromarray(pixels, "RGBA"))[0, :, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), "LA")
    assert decoded(grey)[0].tolist() == [[[10, 255]]]


def test_a_palette_is_colour():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([1, 2, 3, 200, 100, 50])
    assert decoded(image)[0, :, 0].T.tolist() == [[1, 2, 3], [200, 100, 50]]


def test_one_bit_and_sixteen_bit_grey_keep_their_range():
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    deep = Image.fromarray(np.array([[0, 257 * 80, 65535]], dtype=np.uint16))
    assert decoded(bits)[0].tolist() == [[[0, 255]]]
    assert decoded(deep)[0].tolist() == [[[0, 80, 255]]]


def test_camera_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = encoded(Image.fromarray(GREY), exif=exif)
    assert torch.equal(decode_images([("a", turned)], None, "set")[0, 0], torch.from_numpy(GREY[::-1, ::-1].copy()))


def test_32_bit_pixels_are_refused():
    deep = encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF")
    with pytest.raises(UsageError, match=r"data 'set': a.tif has 32-bit pixels .* save it with 8 or 16 bits"):
        decode_images([("a.tif", deep)], None, "set")


@pytest.mark.parametrize("content", [b"", b"no image", encoded(Image.fromarray(COLOUR))[:50]])
def test_a_broken_image_is_named_in_one_line(content):
    good = encoded(Image.fromarray(GREY))
    with pytest.raises(UsageError, match=r"data 'set': cannot read image bad\.png \(.*repair or remove it") as error:
        decode_images([("good.png", good), ("bad.png", content)], None, "set")
    assert "\n" not in str(error.value)


def test_more_pixels_than_the_bound_are_refused_by_the_head_of_the_file(monkeypatch):
    monkeypatch.setattr(decode, "MOST_PIXELS", 5)
    with pytest.raises(
        UsageError,
        match=r"'set': 0\.png has 2x3 \(height x width\) pixels, more than the 5 that are read; make it smaller",
    ):
        decoded(Image.fromarray(GREY))
    assert decoded(Image.fromarray(GREY[:1])).shape == (1, 1, 1, 3)


def test_what_is_in_colour_is_decided_by_the_pixels():
    grey = torch.from_numpy(GREY).expand(3, 2, 3)
    one = grey.clone()
    one[2, 0, 0] += 1
    assert in_colour(torch.stack([grey, one])).tolist() == [False, True]
    assert in_colour(grey[None, :1]).tolist() == [False]


def test_differing_sizes_need_a_size():
    with pytest.raises(UsageError, match=r"0\.png is 2x3, 1\.png is 3x2, height x width\); give a size"):
        decoded(Image.fromarray(GREY), Image.fromarray(GREY.T.copy()))
    both = decoded(Image.fromarray(GREY), Image.fromarray(GREY.T.copy()), size=2)
    assert tuple(both.shape) == (2, 1, 2, 2)


def test_resizing_takes_the_centre_of_the_longer_side():
    """Left and right bars of a 12 x 4 image are cut away; the flat centre stays what it is at any size."""
    pixels = np.zeros((4, 12), dtype=np.uint8)
    pixels[:, 4:8] = 77
    wide = Image.fromarray(pixels)
    assert bool((decoded(wide, size=4) == 77).all())
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        centre = decoded(image, size=8)[0, 0, 2:-2, 2:-2]
        assert bool((centre.int() - 77).abs().max() <= 8)


@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_resizing_decoded_images_equals_resizing_while_decoding(array):
    plain = decoded(Image.fromarray(array))
    assert torch.equal(resize_images(plain, 2), decoded(Image.fromarray(array), size=2))
    square = plain[..., :2]
    assert resize_images(square, 2) is square
