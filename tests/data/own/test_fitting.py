"""How images come to a size; height before width."""

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.batches import Batches
from fairlead.data.hub import load_data
from fairlead.data.own.fitting import FITS, as_size, covering, fitted_to


@pytest.mark.parametrize(
    ("given", "size"),
    [(None, None), (64, (64, 64)), ("64", (64, 64)), ("64x96", (64, 96)), ([64, 96], (64, 96)), ((8,), (8, 8)),
     (" 64 X 96 ", (64, 96)), (np.int64(3), (3, 3))],
)  # fmt: skip
def test_a_size_is_a_side_or_height_and_width(given: object, size: tuple[int, int] | None) -> None:
    assert as_size(given, "data") == size


@pytest.mark.parametrize("given", [0, -3, "64x", "64x96x3", "x", [1, 2, 3], 2.5, True, "0x4", {}])
def test_other_sizes_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"expected a size, a side such as 64 or .*, whole numbers from 1, got "):
        as_size(given, "data")


def ramp(height: int, width: int) -> Image.Image:
    """Grey levels that rise from left to right, equal in every row."""
    return Image.fromarray(np.broadcast_to(np.linspace(40, 240, width), (height, width)).round().astype(np.uint8))


def test_centre_crop_resizes_the_shorter_side_and_takes_the_middle() -> None:
    fitted = np.asarray(fitted_to(ramp(10, 40), (10, 20), "centre"))
    assert np.array_equal(fitted, np.asarray(ramp(10, 40))[:, 10:30])


def test_resize_stretches_all_of_the_image() -> None:
    fitted = np.asarray(fitted_to(ramp(10, 40), (20, 20), "resize"))
    assert fitted.shape == (20, 20)
    assert (abs(int(fitted[0, 0]) - 41) <= 3, abs(int(fitted[0, -1]) - 239) <= 3) == (True, True)


def test_pad_keeps_all_of_the_image_on_black() -> None:
    fitted = np.asarray(fitted_to(ramp(10, 40), (40, 40), "pad"))
    assert np.array_equal(fitted[15:25], np.asarray(ramp(10, 40)))
    assert not fitted[:15].any()
    assert not fitted[25:].any()


@pytest.mark.parametrize("image", [(10, 40), (40, 10), (33, 47), (8, 8), (5, 900)])
def test_what_covers_a_size_touches_it_and_keeps_its_proportions(image: tuple[int, int]) -> None:
    height, width = covering(image, (16, 24))
    assert (height >= 16, width >= 24, height == 16 or width == 24) == (True, True, True)
    assert abs(height / width - image[0] / image[1]) <= max(1 / width, 1 / height) * (1 + image[0] / image[1])


@pytest.mark.parametrize("fit", FITS)
def test_an_image_of_the_size_stays_as_it_is(fit: str) -> None:
    image = ramp(12, 18)
    assert fitted_to(image, (12, 18), fit) is image  # type: ignore[arg-type]


@pytest.fixture
def panoramas(tmp_path):
    """Images 8 high and up to 40 wide: column x of image i has level 4 x + i."""
    for i in range(12):
        width = 40 if i % 2 else 12
        levels = np.broadcast_to(np.arange(width) * 4 + i, (8, width)).astype(np.uint8)
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / "set" / f"{i:02d}.png")
    (tmp_path / "set" / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(12))
    )
    return tmp_path / "set"


def test_random_crops_see_every_part_and_depend_on_seed_and_step_alone(panoramas) -> None:
    data = load_data(str(panoramas), size="8x8", fit="random")
    number = torch.tensor([int(name) for name in data.classes])
    assert data.images.shape[1:] == (1, 8, 8)
    for i, label in enumerate(data.labels.tolist()):  # measuring sees the centre
        width = 40 if int(number[label]) % 2 else 12
        assert int(data.images[i, 0, 0, 0]) == ((width - 8) // 2) * 4 + int(number[label])
    batches, again = Batches(data, 6, seed=3), Batches(load_data(str(panoramas), size="8x8", fit="random"), 6, seed=3)
    lefts: dict[int, set[int]] = {}
    for step in range(150):
        x, labels = batches.batch(step)
        other = torch.cat([again.batch(step, rank, 2)[0] for rank in (0, 1)])
        assert torch.equal(x, other)
        levels = ((x + 1) * 127.5).round().long()
        for row, label in zip(levels[:, 0], labels.tolist(), strict=True):
            own = int(number[label])
            left = (int(row[0, 0]) - own) // 4
            assert torch.equal(row, (torch.arange(left, left + 8) * 4 + own).expand(8, 8))
            lefts.setdefault(own, set()).add(left)
    for own, found in lefts.items():
        assert len(found) > 22 if own % 2 else found == {0, 1, 2, 3, 4}
    crops, most = data.crops, 1 - 2**-24
    assert crops is not None
    wide = int((crops.sizes[:, 1] == 40).nonzero()[0])
    corners = crops.at(torch.tensor([wide, wide]), torch.tensor([[0.0, 0.0], [most, most]]))[:, 0, 0, 0].tolist()
    assert corners[1] - corners[0] == 4 * 32  # the first and the last place that there is
    assert not torch.equal(batches.batch(0)[0], Batches(data, 6, seed=4).batch(0)[0])
    part = data.subset(torch.tensor([3, 1]))
    assert part.crops is not None
    assert data.crops is not None
    assert torch.equal(part.crops.whole(0), data.crops.whole(3))
    assert part.fingerprint != data.subset(torch.tensor([1, 3])).fingerprint


def test_ways_to_fit_give_other_data_and_say_so(panoramas) -> None:
    found = {fit: load_data(str(panoramas), size="8x12", fit=fit) for fit in FITS}
    assert len({data.fingerprint for data in found.values()}) == len(FITS)
    assert "size 8x12 (height x width): images of other sizes are stretched to it" in found["resize"].notes
    with pytest.raises(UsageError, match="--fit pad says how to resize images; give --size"):
        load_data(str(panoramas), fit="pad")
    with pytest.raises(UsageError, match="unknown fit 'center'; did you mean 'centre'"):
        load_data(str(panoramas), size=8, fit="center")


def test_random_crops_of_latents_are_refused_before_images_are_read(tmp_path, capsys) -> None:
    command = ["train", "--data", str(tmp_path), "--size", "64", "--fit", "random", "--latents", "none"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "latents are encoded once, of the same part of each image; take --fit centre" in capsys.readouterr().err


def test_a_size_that_no_network_fits_is_refused_before_images_are_read(tmp_path, capsys) -> None:
    for size, message in (
        ("100x60", "no network preset fits images of 100x60; pass --size 96x64"),
        ("0", "whole numbers from 1"),
    ):
        assert main(["train", "--data", str(tmp_path / "none"), "--size", size, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    command = [
        "train",
        "--data",
        str(tmp_path / "none"),
        "--size",
        "60",
        "--net",
        "64x64",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(command) == 2
    assert "takes images whose sides are multiples of 16, not 60x60" in capsys.readouterr().err
