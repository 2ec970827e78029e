"""Noise is a pure function of (seed, step): the same bits in any batch, and standard normal."""

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.sample.noise import NoiseStream

SEEDS = (5, 0, 2**63 - 1, 7)


def test_the_bits_are_these() -> None:
    """Pinned: another machine or numpy that changes them changes every seeded image."""
    stream = NoiseStream((7,), (4,))
    expected = torch.tensor([[-1.4470675, -0.9134207, -0.5155607, 1.8603299]])
    assert torch.equal(stream(2), expected)
    assert stream(2).dtype == torch.float32


def test_any_batch_order_or_split_gives_the_same_bits() -> None:
    whole = NoiseStream(SEEDS, (3, 4))
    for draw in (NoiseStream.start, lambda s: s(0), lambda s: s(41)):
        alone = torch.cat([draw(NoiseStream((seed,), (3, 4))) for seed in SEEDS])
        assert torch.equal(draw(whole), alone)
        assert torch.equal(draw(whole), torch.cat([draw(whole[:1]), draw(whole[1:])]))
        assert torch.equal(draw(whole).flip(0), draw(NoiseStream(SEEDS[::-1], (3, 4))))
    assert whole[1:3].seeds == SEEDS[1:3]


def test_steps_may_be_asked_in_any_order() -> None:
    stream = NoiseStream(SEEDS, (3,))
    forward = [stream(i) for i in range(5)]
    assert all(torch.equal(forward[i], stream(i)) for i in reversed(range(5)))


def test_distinct_keys_give_distinct_noise() -> None:
    """Neither seed + step nor seed * step: (0, 1), (1, 0) and their neighbours are all different."""
    draws = [NoiseStream((seed,), (4,)).start() for seed in range(20)]
    draws += [NoiseStream((seed,), (4,))(step) for seed in range(20) for step in range(20)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 20 * 21


def test_standard_normal_and_independent() -> None:
    """Mean, variance, fourth moment and correlations of 1e5 numbers within 5 standard errors."""
    n = 100_000
    stream = NoiseStream((11, 12), (n,))
    a, b = stream(0).double()
    later, start = stream(1).double()[0], stream.start().double()[0]
    for x in (a, b, later, start):
        assert abs(float(x.mean())) < 5 * n**-0.5
        assert abs(float(x.square().mean()) - 1) < 5 * (2 / n) ** 0.5
        assert abs(float(x.pow(4).mean()) - 3) < 5 * (96 / n) ** 0.5
    for x, y in ((a, b), (a, later), (a, start), (start, later), (a[1:], a[:-1])):
        assert abs(float((x * y).mean())) < 5 * n**-0.5


def test_one_number_from_many_keys_is_standard_normal() -> None:
    """Across neighbouring seeds and steps, not only along one stream."""
    x = torch.stack([NoiseStream(tuple(range(500)), (1,))(step) for step in range(20)]).double()
    n = x.numel()
    assert abs(float(x.mean())) < 5 * n**-0.5
    assert abs(float(x.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((x[1:] * x[:-1]).mean())) < 5 * n**-0.5
    assert abs(float((x[:, 1:] * x[:, :-1]).mean())) < 5 * n**-0.5


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "3"])
def test_a_seed_that_is_not_one_is_refused(seed: object) -> None:
    with pytest.raises(UsageError) as error:
        NoiseStream((1, seed), (2,))  # type: ignore[arg-type]
    assert str(error.value) == f"seed {seed!r}: expected an integer from 0 to 2**63 - 1; give one per sample"


def test_the_start_is_not_a_negative_step() -> None:
    with pytest.raises(UsageError, match=r"noise of step -1: expected a step from 0; use start\(\) for the start"):
        NoiseStream((1,), (2,))(-1)
