"""Stochastic self-guidance: the rule by hand, the draw of the blocks."""

import pytest
import torch

from fairlead.core.condition import Perturbation
from fairlead.core.denoiser import x0_of
from fairlead.core.errors import UsageError
from fairlead.guide.expression import parse
from fairlead.guide.methods.s2 import S2, RandomBlocks
from fairlead.sample.grids import trailing
from tests.guide.toy import NETWORK, SPECS, N, T, call, close, guided, images, steered

GRID = trailing(NETWORK.schedule, 7)
BLOCKS = NETWORK.layers["block"]


def skipped(index: int, share: float = 0.3, order: list[int] | None = None) -> torch.Tensor:
    denoiser = steered("s2(1)", SPECS, order, times=GRID)
    return RandomBlocks(share, BLOCKS).skipped(denoiser.moment(denoiser._step(index)))


def test_each_sample_moves_away_from_the_network_without_its_own_blocks() -> None:
    denoiser = steered("s2(2, share=0.3)", SPECS, times=GRID)
    x_t, index = images(), 3
    found = denoiser.at(index)(x_t, GRID[index], denoiser.condition).x0
    network, condition = x0_of(NETWORK.denoiser), denoiser.condition
    for i, row in enumerate(skipped(index)):
        own = condition[i : i + 1]
        worse = own
        for layer, skip in zip(BLOCKS, row.tolist(), strict=True):
            worse = worse.perturbed(Perturbation("skip", (layer,))) if skip else worse
        plain, without = (network(x_t[i : i + 1], GRID[index], c) for c in (own, worse))
        close(found[i : i + 1], plain + 2 * (plain - without), 1e-9)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.3, max(1, round(0.3 * len(BLOCKS)))), (1.0, len(BLOCKS))])
def test_a_share_of_the_blocks_is_skipped_and_at_least_one(share: float, count: int) -> None:
    assert skipped(2, share).sum(1).tolist() == [count] * N


def test_blocks_are_drawn_anew_in_every_step_and_by_the_samples_own_streams() -> None:
    assert not torch.equal(skipped(1), skipped(2))
    order = [3, 0, 4, 1, 2]
    assert torch.equal(skipped(2, order=order), skipped(2)[order])


def test_blocks_are_chosen_among_those_that_are_named() -> None:
    denoiser = steered(f'cfg(2) + s2(1, layers="{BLOCKS[0]}")', SPECS, times=GRID)
    slg = steered(f'cfg(2) + slg(1, layers="{BLOCKS[0]}")', SPECS, times=GRID)
    (one, cost), (other, _) = call(denoiser, images(), T), call(slg, images(), T)
    close(one.x0, other.x0, 1e-12)
    assert (cost.rows, cost.calls) == (3 * N, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse("s2(1, share=0)"), r"s2: expected share in \(0, 1\], such as 0.1, got 0"),
        (lambda: parse("s2(1, share=1.5)"), r"s2: expected share in \(0, 1\]"),
        (lambda: S2("x"), "s2: expected scale to be a finite number"),  # type: ignore[arg-type]
        (lambda: guided("s2(1)"), "s2: this model names no block layers"),
        (lambda: steered('s2(1, layers="nowhere")', SPECS), "unknown block layer 'nowhere'"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
