"""Normalised attention guidance in our networks: the paper's equations on one layer, and what it leaves alone."""

import math

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition, Perturbation
from fairlead.core.errors import UsageError
from fairlead.nets.text_attention import CrossAttention, TokenStates, away_from
from tests.nets.test_text import INSIDE, OUTSIDE, WIDTH, net, states
from tests.nets.tiny import inputs, shaken

IDS = torch.tensor([[4, 7, 1, 0, 0, 0], [9, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 1]])
MASK = torch.tensor([True, False, True])


def nag(layers: tuple[str, ...], scale: float = 4.0, limit: float = 1.2, blend: float = 0.3) -> Perturbation:
    return Perturbation("negative_text", layers, scale, limit, blend)


def by_hand(positive: Tensor, negative: Tensor, phi: float, tau: float, alpha: float) -> Tensor:
    """2505.21179, section 3: extrapolation, L1 normalisation, refinement, of one position after the other, [l, c]."""
    found = []
    for z, other in zip(positive.tolist(), negative.tolist(), strict=True):
        extrapolated = [a + phi * (a - b) for a, b in zip(z, other, strict=True)]
        ratio = sum(map(abs, extrapolated)) / sum(map(abs, z))
        normalised = [min(ratio, tau) / ratio * value for value in extrapolated]
        found.append([alpha * a + (1 - alpha) * b for a, b in zip(normalised, z, strict=True)])
    return torch.tensor(found, dtype=torch.float64)


def read_by_hand(cross: CrossAttention, q: Tensor, tokens: Tensor) -> Tensor:
    """What queries [l, 8] read of real tokens [m, width], heads of four channels one after the other."""
    k, v = cross.kv(tokens).chunk(2, dim=-1)
    heads = [slice(0, 4), slice(4, 8)]
    return torch.cat([torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(4), -1) @ v[:, h] for h in heads], -1)


@pytest.mark.parametrize(("scale", "limit", "blend"), [(4.0, 1.2, 0.3), (6.0, 2.5, 0.25), (0.0, math.inf, 1.0)])
def test_one_layer_is_the_equations_of_the_paper(scale: float, limit: float, blend: float) -> None:
    cross = shaken(CrossAttention(8, WIDTH, head=4))
    x, value = torch.randn(3, 8, 2, 3, dtype=torch.float64), states()
    own = TokenStates(
        value[:, 1:, :-1], value[:, 1:, -1] > 0, TokenStates(value.flip(0)[:, 1:, :-1], value.flip(0)[:, 1:, -1] > 0)
    )
    shortened = 0
    with torch.no_grad():
        out = cross(x, own, "here", {nag(("here",), scale, limit, blend): MASK})
        q = cross.q(cross.norm(x)).flatten(2).transpose(1, 2)
        for i, (count, others) in enumerate(((4, 6), (2, 2), (6, 4))):
            positive = read_by_hand(cross, q[i], value[i, 1 : 1 + count, :-1])
            away = read_by_hand(cross, q[i], value[2 - i, 1 : 1 + others, :-1])
            read = by_hand(positive, away, scale - 1, limit, blend) if MASK[i] else positive
            expected = x[i] + cross.out(read.T.reshape(1, 8, 2, 3))[0]
            torch.testing.assert_close(out[i], expected, rtol=0, atol=1e-12)
            away = positive + (scale - 1) * (positive - away)
            shortened += int((away.abs().sum(1) > limit * positive.abs().sum(1)).sum())
        plain = cross(x, own)
    assert torch.equal(out[1], plain[1])
    assert float((out - plain)[MASK].abs().max()) > 1e-3
    assert shortened > 0 or limit > 2


def test_the_norm_is_limited_position_by_position_and_zeros_stay_finite() -> None:
    own = torch.tensor([[[1.0, -1.0], [0.0, 0.0], [3.0, 1.0]]])
    negative = torch.tensor([[[-9.0, 9.0], [1.0, 0.0], [3.0, 1.0]]])
    read = away_from(negative, own, nag((), 2.0, 2.5, 1.0), (-1,))
    assert read.tolist() == [[[2.5, -2.5], [0.0, 0.0], [3.0, 1.0]]]
    low = away_from(negative.half() * 1000, own.half() * 1000, nag((), 2.0, 2.5, 1.0), (-1,))
    assert low.tolist() == [[[2500.0, -2500.0], [0.0, 0.0], [3000.0, 1000.0]]]


@pytest.mark.parametrize("text", [OUTSIDE, INSIDE], ids=["outside", "inside"])
@pytest.mark.parametrize("name", ["unet-adaptive", "dit"])
def test_rows_are_as_if_alone_and_the_own_text_as_negative_changes_nothing(name: str, text: dict) -> None:
    network, (x, time) = net(name, text), inputs(3)
    value = IDS if "vocabulary" in text else states()
    condition, negative = (
        Condition.of(text=value),
        Condition.of(text=value.flip(0)).drop(torch.tensor([True, False, False])),
    )
    layers = network.layers()["text"]
    mixed, whole = (condition.perturbed(nag(layers), rows, negative) for rows in (MASK, None))
    with torch.no_grad():
        plain, partly, wholly = (network(x, time, c) for c in (condition, mixed, whole))
        alone = network(x[2:], time[2:], mixed[2:])
        joined = network(x, time, Condition.cat([mixed[:1], condition[1:2], mixed[2:]]))
        same = network(x, time, condition.perturbed(nag(layers), None, condition))
        one = network(x, time, condition.perturbed(nag(layers[:1]), None, negative))
    assert torch.equal(partly[~MASK], plain[~MASK])
    assert torch.equal(partly[MASK], wholly[MASK])
    assert torch.equal(joined, partly)
    torch.testing.assert_close(alone, wholly[2:], rtol=0, atol=1e-11)
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-11)
    for other in (plain, one):
        assert float((wholly - other)[MASK].abs().amax(dim=(1, 2, 3)).min()) > 1e-6


def test_conditions_carry_their_negative() -> None:
    condition, negative = Condition.of(text=IDS), Condition.of(text=IDS.flip(0))
    away = condition.perturbed(nag(("middle.0",)), MASK, negative)
    later = away[1:].negative
    assert later is not None
    assert later.equals(negative[1:])
    assert away.equals(condition.perturbed(nag(("middle.0",)), MASK, Condition.of(text=IDS.flip(0))))
    assert not away.equals(condition.perturbed(nag(("middle.0",)), MASK, condition))
    joined = Condition.cat([away, condition])
    assert joined.negative is not None
    assert joined.negative.equals(Condition.cat([negative, condition]))
    assert joined.perturb[nag(("middle.0",))].tolist() == [True, False, True, False, False, False]
    with pytest.raises(UsageError, match="needs a negative"):
        condition.perturbed(nag(("middle.0",)))
    with pytest.raises(UsageError, match="a negative of 3 samples, got one of 2"):
        condition.perturbed(nag(("middle.0",)), None, negative[:2])


def test_networks_without_text_name_no_layers_of_it() -> None:
    assert "text" not in net("unet-adaptive", {}, classes=2).layers()
    assert net("unet-adaptive", OUTSIDE).layers()["text"] == (
        "down.0.0",
        "down.1.0",
        "middle.0",
        "middle.1",
        "up.0.0",
        "up.1.0",
    )
