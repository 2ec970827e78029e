"""A scale for each band of frequencies."""

import diffusers.guiders.frequency_decoupled_guidance as theirs
import pytest
import torch
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse
from fairlead.guide.methods.bands import split
from tests.guide.stored import random, stored
from tests.guide.toy import MODEL, N, call, close, images, steered

SPECS = [2, 0, 3, 2, 1]


@pytest.mark.parametrize(
    ("size", "bands"), [((8, 8), 3), ((7, 7), 3), ((5, 9), 2), ((28, 28), 5), ((33, 12), 4), ((4, 4), 1)]
)
def test_the_bands_sum_to_the_image(size: tuple[int, int], bands: int) -> None:
    x = random(2, 3, *size)
    parts = split(x, bands)
    assert [part.shape for part in parts] == [x.shape] * bands
    close(torch.stack(parts).sum(0), x, 1e-12)


def test_the_bands_of_a_constant_and_of_a_checkerboard() -> None:
    """The binomial kernel keeps a constant and cancels the highest frequency: 1 - 4 + 6 - 4 + 1 = 0."""
    flat = torch.full((1, 1, 7, 8), 3.0).double()
    coarse, middle, fine = split(flat, 3)
    close(coarse, flat, 1e-12)
    close(middle, 0 * flat, 1e-12)
    close(fine, 0 * flat, 1e-12)
    i = torch.arange(8)
    board = (1 - 2 * ((i[:, None] + i) % 2)).double()[None, None]
    coarse, middle, fine = split(board, 3)
    close(fine, board, 1e-12)
    close(coarse, 0 * board, 1e-12)


def test_a_wave_moves_to_finer_bands_as_it_gets_shorter() -> None:
    """Share of the energy in the finest band of waves of 16, 8, 4 and 2 pixels."""
    i = torch.arange(32).double()
    waves = [torch.cos(2 * torch.pi * i / length).expand(1, 1, 32, 32) for length in (16, 8, 4, 2)]
    shares = [float(split(wave, 3)[-1].square().sum() / wave.square().sum()) for wave in waves]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.99


@pytest.mark.parametrize("weight", ["3", "[3, 1, 2, 0, -1]", "ramp(1, 5)", "0"])
@pytest.mark.parametrize("more", ["", ", negative=1"])
def test_equal_weights_are_cfg_to_the_bit(weight: str, more: str) -> None:
    x_t = images()
    ours, cost = call(steered(f"bands([{weight}, {weight}, {weight}]{more})", SPECS), x_t)
    cfg, same = call(steered(f"cfg({weight}{more})", SPECS), x_t)
    assert torch.equal(ours.x0, cfg.x0)
    assert cost == same


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 6)])
def test_by_band(size: tuple[int, int]) -> None:
    """D_c + sum_l (w_l - 1) L_l(D_c - D_n)."""
    x_t, cond, null, negative = (random(N, 2, *size, seed=seed) for seed in range(4))
    coarse, fine = split(cond - null, 2)
    prediction, cost = call(stored("bands([2, 6])", cond, null), x_t)
    close(prediction.x0, cond + coarse + 5 * fine)
    assert cost.rows == 2 * N
    coarse, fine = split(cond - negative, 2)
    close(call(stored('bands([1, -1], negative="negative")', cond, null, negative), x_t)[0].x0, cond - 2 * fine)


def test_weights_a_sample() -> None:
    """A sample whose weights are all 1 is not evaluated without its condition."""
    x_t, cond, null = (random(N, 1, 6, 6, seed=seed) for seed in range(3))
    prediction, cost = call(stored("bands([[1, 2, 1, 3, 0], [1, 2, 4, 1, 1]])", cond, null), x_t)
    for i, (low, high) in enumerate(zip([1, 2, 1, 3, 0], [1, 2, 4, 1, 1], strict=True)):
        coarse, fine = split((cond - null)[i : i + 1], 2)
        close(prediction.x0[i : i + 1], cond[i : i + 1] + (low - 1) * coarse + (high - 1) * fine)
    assert cost.rows == 2 * N - 1


@pytest.mark.parametrize("size", [(8, 8), (16, 32)])
@pytest.mark.parametrize("weights", [[2.0, 6.0], [3.0, 0.0, 7.5]])
def test_the_same_as_diffusers_on_sides_that_are_powers_of_two(weights: list[float], size: tuple[int, int]) -> None:
    """Its weights are listed finest first; its pyramid is kornia's."""
    x_t, cond, null = (random(N, 3, *size, seed=seed) for seed in range(3))
    ours, _ = call(stored(f"bands({weights})", cond, null), x_t)
    close(ours.x0, theirs.FrequencyDecoupledGuidance(guidance_scales=weights[::-1])(blocks(cond, null)).pred, 1e-12)


def test_other_sides_come_back_from_diffusers_in_another_size() -> None:
    cond, null = (random(N, 3, 12, 12, seed=seed) for seed in (1, 2))
    guided = theirs.FrequencyDecoupledGuidance(guidance_scales=[6.0, 2.0])(blocks(cond, null)).pred
    assert guided.shape[-2:] == (16, 16)


def blocks(cond: Tensor, null: Tensor):
    from diffusers.modular_pipelines.modular_pipeline import BlockState

    names = "pred_cond", "pred_uncond"
    key = theirs.FrequencyDecoupledGuidance._identifier_key
    return [BlockState(**{key: name, "noise_pred": value}) for name, value in zip(names, (cond, null), strict=True)]


def test_a_band_of_weight_1_which_breaks_diffusers() -> None:
    """There such a band is taken from the level before it, and from nowhere if it is the first."""
    x_t, cond, null = (random(N, 3, 8, 8, seed=seed) for seed in range(3))
    ours, _ = call(stored("bands([4, 1])", cond, null), x_t)
    close(ours.x0, cond + 3 * split(cond - null, 2)[0])
    with pytest.raises(UnboundLocalError):
        theirs.FrequencyDecoupledGuidance(guidance_scales=[1.0, 4.0])(blocks(cond, null))


def test_at_the_door() -> None:
    with pytest.raises(UsageError, match="bands are of images"):
        steered("bands([2, 6])", SPECS, model=MODEL)
    with pytest.raises(UsageError, match="bands are of images"):
        call(stored("bands([2, 6])", random(N, 2), random(N, 2)), random(N, 2))
    with pytest.raises(UsageError, match="images of 8 x 8 have at most 3"):
        steered("bands([1, 2, 3, 4])", SPECS)
    with pytest.raises(UsageError, match="images of 4 x 7 have at most 2"):
        call(stored("bands([1, 2, 3])", *(random(N, 1, 4, 7, seed=s) for s in (1, 2))), random(N, 1, 4, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bands([])", "expected one scale per band"),
        ("bands(3)", "expected one scale per band"),
        ('bands("3")', "expected one scale per band"),
        ("bands([[1, 2], [1, 2, 3]])", "of one length"),
        ('bands([1, 1], negative="1")', "the negative is never evaluated"),
        ("apg(bands([1, 2]))", "wraps one method of two branches"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
