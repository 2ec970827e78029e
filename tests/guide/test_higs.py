"""History-guided sampling: the mean, the weight, the projection and the filter (2509.22300)."""

import math

import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.schedule import RectifiedFlow
from fairlead.guide.engine import GuidedDenoiser
from fairlead.guide.expression import parse
from fairlead.guide.methods.higs import HiGS, cosines, highpass
from fairlead.guide.per_sample import dot
from fairlead.guide.step import Step
from fairlead.models.toy import toy_model
from fairlead.sample.grids import trailing
from tests.guide.stored import random, stored
from tests.guide.toy import MIXTURE, N, close

FLOW = RectifiedFlow()
GRID = trailing(FLOW, 5)
X_T = random(N, 2, 6, 5)


def along(t: float, seed: int) -> Tensor:
    return random(N, 2, 6, 5, seed=seed) + t * random(N, 2, 6, 5, seed=seed + 50)


def at(sigma: float) -> Step:
    return Step(0.5, sigma, 0.0)


def test_the_weight_by_hand() -> None:
    """The square root of where the noise lies between 0.4 and 1, and 0 outside."""
    higs = HiGS(2, low=0.36, high=0.84)
    times = {0.84: 2, 0.48: 1, 0.37: 2 * math.sqrt(0.01 / 0.48), 0.36: 0, 0.2: 0, 0.85: 0, 0.0: 0}
    assert [higs.weight_at(at(t / (1 - t))) for t in times] == pytest.approx([*times.values()], abs=1e-7)
    assert HiGS(1.75).weight_at(at(math.inf)) == 1.75
    assert HiGS(1.75).weight_at(at(7 / 3)) == pytest.approx(1.75 * math.sqrt(0.5))


@pytest.mark.parametrize("cutoff", [0.0, 0.05, 0.7])
def test_the_filter_beside_scipy(cutoff: float) -> None:
    """sigmoid(50 (R - cutoff)) of the orthonormal cosine transform of type 2, sides of different lengths."""
    image = random(2, 3, 6, 5)
    rows, columns = torch.arange(6).double() / 6, torch.arange(5).double() / 5
    kept = torch.sigmoid(50 * ((rows[:, None] ** 2 + columns**2).sqrt() - cutoff))
    spectrum = torch.from_numpy(dctn(image.numpy(), axes=(2, 3), norm="ortho"))
    close(highpass(image, cutoff), torch.from_numpy(idctn((kept * spectrum).numpy(), axes=(2, 3), norm="ortho")))


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_transform_keeps_lengths(size: int) -> None:
    close(cosines(size) @ cosines(size).T, torch.eye(size, dtype=torch.float64), 1e-12)


def test_a_change_of_colour_is_held_back_by_sigmoid_of_minus_two_and_a_half() -> None:
    flat = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    close(highpass(flat, 0.05), flat / (1 + math.exp(2.5)), 1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("cutoff", [None, 0.05])
def test_by_hand_over_a_run(eta: float, cutoff: float | None) -> None:
    text = f"cfg(3) | higs(1.2, eta={eta}, alpha=0.75, cutoff={cutoff}, low=0.3, high=0.9)"
    ours = stored(text, lambda t: along(t, 1), lambda t: along(t, 2), schedule=FLOW, times=GRID)
    mean: Tensor | None = None
    for step, t in enumerate(GRID[:-1].tolist()):
        x0 = along(t, 2) + 3 * (along(t, 1) - along(t, 2))
        expected = x0
        if mean is not None:
            change = x0 - mean
            change = change - (1 - eta) * dot(change, x0) / dot(x0, x0) * x0
            change = change if cutoff is None else highpass(change, cutoff)
            expected = x0 + (1.2 * math.sqrt((t - 0.3) / 0.6) if 0.3 < t <= 0.9 else 0) * change
        close(ours.at(step)(X_T, GRID[step], ours.condition).x0, expected)
        mean = 0.75 * x0 + 0.25 * (0 if mean is None else mean)


def test_a_whole_projection_changes_no_length_to_first_order() -> None:
    """With eta = 0 what is added to D is orthogonal to it, per sample, where nothing is filtered."""
    ours = stored("none | higs(1.5, cutoff=None)", lambda t: along(t, 1), X_T, schedule=FLOW, times=GRID)
    for step in range(2):
        x0 = ours.at(step)(X_T, GRID[step], ours.condition).x0
    plain = along(float(GRID[1]), 1)
    assert float((x0 - plain).abs().max()) > 0.1
    close(dot(x0 - plain, plain), torch.zeros(N, 1, 1, 1).double(), 1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('none | higs("a")', "higs: expected weight to be a number"),
        ("none | higs(eta=2)", r"higs: expected eta in \[0, 1\]"),
        ("none | higs(alpha=0)", r"higs: expected alpha in \(0, 1\]"),
        ("none | higs(cutoff=-1)", r"higs: expected cutoff in \[0, 1.5\], or None"),
        ("none | higs(low=0.5, high=0.5)", "higs: expected 0 <= low < high <= 1, got low=0.5, high=0.5"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_a_filter_of_samples_that_are_no_images_is_refused_before_the_run() -> None:
    model = toy_model(MIXTURE, FLOW)
    with pytest.raises(UsageError, match=r"its filter needs images \[channels, height, width\], the model has \[2\]"):
        GuidedDenoiser.of(model, "none | higs()", model.encode([0]))
