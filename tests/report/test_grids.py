"""Grids: every source pixel is where the layout says, as large as it says."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.report.image_grid import grid_layout, image_grid


def _read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("row_labels", "col_labels", "title"),
    [
        (None, None, ""),
        (["cfg(1)", "a much longer setting | rescale(0.7)"], ["0", "nine", "a wide label of words"], "Title " * 20),
        (["", ""], None, "t"),
        (["a label\nof two lines", "one\ntwo\nthree\nfour"], ["0", "1", "2"], ""),
        (None, ["", "", ""], ""),
    ],
)
def test_every_source_pixel_is_a_square_at_its_place(channels, row_labels, col_labels, title):
    images = torch.randint(0, 256, (2, 3, channels, 6, 5), dtype=torch.uint8)
    arguments = (images, row_labels, col_labels, title, 7)
    layout, picture = grid_layout(*arguments), _read(image_grid(*arguments))
    assert picture.shape == (layout.size[1], layout.size[0], 3)
    for row, top in enumerate(layout.rows):
        for column, left in enumerate(layout.columns):
            found = picture[top : top + 42, left : left + 35]
            source = images[row, column].permute(1, 2, 0).expand(-1, -1, 3).numpy()
            assert np.array_equal(found, np.kron(source, np.ones((7, 7, 1), dtype=np.uint8)))


def test_images_neither_overlap_nor_leave_the_picture_and_labels_stay_outside():
    black = torch.zeros(3, 4, 1, 8, 8, dtype=torch.uint8)
    labels = ["first", "second", "third"], ["zero", "one", "two", "three"]
    layout, picture = grid_layout(black, *labels, "T"), _read(image_grid(black, *labels, "T"))
    side = 8 * layout.upscale
    assert side == 64
    assert all(b - a >= side for a, b in zip(layout.columns, layout.columns[1:], strict=False))
    assert layout.columns[-1] + side <= layout.size[0]
    assert layout.rows[-1] + side <= layout.size[1]
    outside = np.ones(picture.shape[:2], dtype=bool)
    for top in layout.rows:
        for left in layout.columns:
            outside[top : top + side, left : left + side] = False
    # images are pure black, text never is: nothing of an image lies outside its cell
    assert not (picture[outside] == 0).all(axis=-1).any()
    # row labels left of the images, column labels above them
    assert (picture[layout.rows[0] :, : layout.columns[0]] < 255).any()
    assert (picture[: layout.rows[0], layout.columns[0] :] < 255).any()


def test_provenance_travels_inside_the_picture():
    png = image_grid(torch.zeros(1, 1, 1, 2, 2, dtype=torch.uint8), provenance={"guidance": "cfg(4)"})
    assert Image.open(io.BytesIO(png)).info["guidance"] == "cfg(4)"


def test_wrong_input_is_refused():
    images = torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(UsageError, match="1 row labels for 2 rows"):
        image_grid(images, row_labels=["one"])
    with pytest.raises(UsageError, match=r"expected uint8 \[rows, cols, c, h, w\]"):
        image_grid(images.float())
    with pytest.raises(UsageError, match="c = 1 or 3"):
        image_grid(torch.zeros(1, 1, 2, 4, 4, dtype=torch.uint8))
    with pytest.raises(UsageError, match="upscale >= 1"):
        image_grid(images, upscale=0)
