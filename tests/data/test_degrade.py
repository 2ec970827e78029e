"""What is shown of an image: block means, and all but a box."""

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.data.degrade import DRAWS, Inpaint, SuperResolution, read_degradation
from fairlead.data.images import to_float


def images(n: int = 3, c: int = 2, s: int = 8) -> torch.Tensor:
    return torch.rand(n, c, s, s, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_super_resolution_shows_the_mean_of_every_block_and_shows_it_again_unchanged():
    x0, kind = images(), SuperResolution(4)
    shown = kind.of(x0, torch.zeros(3, DRAWS))
    for top in (0, 4):
        for left in (0, 4):
            block = (slice(None), slice(None), slice(top, top + 4), slice(left, left + 4))
            mean = x0[block].mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)
            torch.testing.assert_close(shown[block], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(kind.of(shown, torch.zeros(3, DRAWS)), shown, rtol=0, atol=1e-6)


def test_inpainting_hides_one_box_whose_sides_and_place_are_uniform():
    kind, side, n = Inpaint(0.25, 0.75), 8, 20_000
    draws = torch.rand(n, DRAWS, generator=torch.Generator().manual_seed(1))
    hidden = 1 - kind.known(draws, side, side)[:, 0]
    heights, widths = hidden.amax(2).sum(1), hidden.amax(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), heights * widths)  # a box: rows times columns
    assert sorted(set(heights.tolist())) == [2, 3, 4, 5, 6]
    assert float(heights.mean()) == pytest.approx(4.0, abs=0.05)
    ends = hidden.amax(2)
    assert float(ends[:, 0].mean()) == pytest.approx(float(ends[:, -1].mean()), abs=0.02)
    x0 = images()
    shown = kind.of(x0, draws[:3])
    known = shown[:, 2:] == 1
    assert torch.equal(shown[:, :2][known.expand(-1, 2, -1, -1)], x0[known.expand(-1, 2, -1, -1)])
    assert not bool(shown[:, :2][~known.expand(-1, 2, -1, -1)].any())


def test_files_are_read_as_what_training_would_show(tmp_path):
    pixels = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    x0 = to_float(pixels.permute(2, 0, 1)[None])
    Image.fromarray(pixels.numpy()).save(tmp_path / "whole.png")
    small = pixels[::4, ::4].contiguous()
    Image.fromarray(small.numpy()).save(tmp_path / "small.png")
    kind = SuperResolution(4)
    of_whole = kind.read(str(tmp_path / "whole.png"), (3, 8, 8))
    assert torch.equal(of_whole, kind.of(x0, torch.zeros(1, DRAWS))[0])
    assert torch.equal(kind.read(str(tmp_path / "small.png"), (3, 8, 8))[:, ::4, ::4], to_float(small.permute(2, 0, 1)))
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[2:5, 1:7] = 0
    Image.fromarray(np.concatenate([pixels.numpy(), alpha], 2)).save(tmp_path / "hole.png")
    shown = Inpaint().read(str(tmp_path / "hole.png"), (3, 8, 8))
    known = torch.from_numpy(alpha[..., 0] > 0)
    assert torch.equal(shown[3] == 1, known)
    assert torch.equal(shown[:3, known], x0[0][:, known])
    assert not bool(shown[:3, ~known].any())


@pytest.mark.parametrize("text", ["superres", "superres(factor=2)", "inpaint", "inpaint(low=0.2, high=0.5)"])
def test_it_prints_as_it_reads(text):
    assert str(read_degradation(text)) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: read_degradation("superes"), r"unknown degradation 'superes'; did you mean 'superres'\?"),
        (lambda f: read_degradation("superres(2)"), "expected a name with settings, such as superres"),
        (lambda f: read_degradation("superres(by=2)"), "superres takes numbers for factor"),
        (lambda f: read_degradation("superres(factor=1)"), "expected a factor of 2 or more"),
        (lambda f: read_degradation("inpaint(low=0.8)"), "expected sides 0 < low <= high <= 1"),
        (lambda f: SuperResolution(3).of(images(), torch.zeros(3, DRAWS)), "8x8 cannot be divided by 3"),
        (lambda f: SuperResolution(4).read(str(f / "plain.png"), (3, 16, 16)), "expected 4x4 or 16x16 pixels"),
        (lambda f: Inpaint().read(str(f / "plain.png"), (3, 8, 8)), "nothing in it is transparent"),
        (lambda f: Inpaint().read(str(f / "absent.png"), (3, 8, 8)), "cannot be read"),
        (lambda f: SuperResolution(2).read(str(f / "plain.png"), (1, 8, 8)), "expected a grey image for this model"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, make, message):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "plain.png")
    with pytest.raises(UsageError, match=message):
        make(tmp_path)
