"""Null tokens of one's own: the network's own change nothing, others change the null branch alone, and the optimised
ones bring guided sampling back to the image."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.guide.engine import GuidedDenoiser
from fairlead.models.model import Model
from fairlead.nets.unet import UNet
from fairlead.sample.edit.inversion import invert
from fairlead.sample.edit.null_text import NullTokens, optimised
from fairlead.sample.grids import make_grid
from fairlead.sample.run import sample
from tests.guide.toy import NETWORK, ONLY_LABELS, images
from tests.sample.edit.test_start import IMAGES

T = torch.tensor(0.45, dtype=torch.float64)
TIMES = make_grid("trailing", NETWORK.schedule, 3)


def own_tokens(n: int, model: Model = NETWORK) -> dict[str, Tensor]:
    assert model.null_tokens is not None
    return {name: token.expand(n, *token.shape).clone() for name, token in model.null_tokens().items()}


@pytest.mark.parametrize("batching", ["fused", "sequential"])
@pytest.mark.parametrize("guidance", ["cfg(3)", "cfg(3) + pag(1)", "apg(cfg(3))", "cads(0.1) + cfg(2)"])
def test_the_networks_own_tokens_change_nothing(guidance: str, batching: Any) -> None:
    condition, x_t = NETWORK.encode(["one", "two", "three"]), images(n=3)
    null = replace(NETWORK.encode([None] * 3), null=own_tokens(3))
    draw = lambda number, shape: torch.randn(3, *shape, generator=torch.Generator().manual_seed(number % 1000))  # noqa: E731
    options: dict[str, Any] = {"times": TIMES, "batching": batching, "draw": draw}
    found = GuidedDenoiser.of(NETWORK, guidance, condition, null=[null] * 3, **options)
    plain = GuidedDenoiser.of(NETWORK, guidance, condition, **options)
    torch.testing.assert_close(found(x_t, T, condition).x0, plain(x_t, T, condition).x0, rtol=1e-12, atol=1e-12)


def test_other_tokens_change_the_null_branch_of_their_step_alone() -> None:
    """D_c + 2 (D_c - D_u') with D_u' from the network itself, with the tokens of the step."""
    condition, x_t, n = NETWORK.encode(["one", "two", "three"]), images(n=3), 3
    nulls = []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        tokens = {name: token + torch.randn(token.shape, generator=generator) for name, token in own_tokens(n).items()}
        nulls.append(replace(NETWORK.encode([None] * n), null=tokens))
    found = GuidedDenoiser.of(NETWORK, "cfg(3)", condition, null=nulls, times=TIMES)
    for i in range(3):
        d_c, d_u = (NETWORK.denoiser(x_t, TIMES[i], each).x0 for each in (condition, nulls[i]))
        torch.testing.assert_close(found.at(i)(x_t, TIMES[i], condition).x0, d_c + 2 * (d_c - d_u))
        own = NETWORK.denoiser(x_t, TIMES[i], NETWORK.encode([None] * n)).x0
        assert not torch.allclose(d_u, own)


def test_a_condition_in_the_place_of_null_is_merged_with_its_equal() -> None:
    condition, x_t = NETWORK.encode(["one", "two"]), images(n=2)
    same = GuidedDenoiser.of(NETWORK, "cfg(5)", condition, null=NETWORK.encode(["one", "two"]), times=TIMES)
    assert torch.equal(same(x_t, T, condition).x0, NETWORK.denoiser(x_t, T, condition).x0)
    assert list(same.coefficients(same._step(0)).values()) == [1.0]


@pytest.mark.parametrize("model", [NETWORK, ONLY_LABELS], ids=["text", "labels"])
@pytest.mark.parametrize("guidance", [None, "cfg(1)"])
def test_null_text_without_guidance_is_inversion(model: Model, guidance: str | None) -> None:
    """The tokens stay the network's own, and the way back is that of plain inversion, to the bit."""
    found = invert(model, IMAGES, "two", method="null-text", guidance=guidance, steps=3)
    plain = invert(model, IMAGES, "two", steps=3)
    assert torch.equal(found.x_t, plain.x_t)
    assert torch.equal(found.back, plain.back)
    for name, own in own_tokens(3, model).items():
        assert torch.equal(found.tokens[name], own.float().expand(3, *own.shape))
    assert found.cost.rows == plain.cost.rows + 3 * 3  # each guided step is taken once


@pytest.mark.parametrize("model", [NETWORK, ONLY_LABELS], ids=["text", "labels"])
def test_null_text_brings_guided_sampling_closer_to_every_image(model: Model) -> None:
    found = invert(model, IMAGES, "two", method="null-text", guidance="cfg(3)", steps=3, rounds=10)
    start = invert(model, IMAGES, "two", steps=3)
    guided = sample(model, "two", start=start, steps=3, guidance="cfg(3)").x0
    without = (guided - found.x0).square().flatten(1).mean(1).sqrt()
    assert bool((found.error < 0.9 * without).all())
    again = sample(model, "two", start=found, steps=3, guidance="cfg(3)").x0
    torch.testing.assert_close(again, found.back)


def test_optimised_tokens_reach_the_path_where_they_can() -> None:
    """F(x; tokens) = x + tokens: the path is reached, for each image alone, with the tokens of its step."""
    path = [torch.zeros(2, 3), torch.tensor([[0.05, -0.03, 0.0], [0.0, 0.0, 0.0]]), torch.full((2, 3), 0.04)]

    def step(i: int, x: Tensor, tokens: NullTokens) -> Tensor:
        return x + tokens["a"]

    found = optimised(step, path, {"a": torch.zeros(2, 3)}, 200)
    x = path[0]
    for i, tokens in enumerate(found):
        x = step(i, x, tokens)
        assert float((x - path[i + 1]).square().mean(1).max()) < 1e-5
    assert torch.equal(found[0]["a"][1], torch.zeros(3))  # which was there already
    alone = optimised(step, [each[:1] for each in path], {"a": torch.zeros(1, 3)}, 200)
    assert all(torch.equal(a["a"], b["a"][:1]) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize(("numbers", "rate"), [(2, 0.1), (77 * 768, 0.0098693)])
def test_optimised_is_adam(numbers: int, rate: float) -> None:
    """Three iterations against torch's; at the size of Stable Diffusion's tokens the rate is the authors' 0.01."""
    target = torch.tensor([[1.0, -2.0]]).repeat(1, numbers // 2)
    token = torch.nn.Parameter(torch.zeros(1, numbers))
    adam = torch.optim.Adam([token], lr=rate)
    for _ in range(3):
        adam.zero_grad()
        (token - target).square().flatten(1).mean(1).sum().backward()
        adam.step()
    zero = torch.zeros(1, numbers)
    found = optimised(lambda i, x, tokens: x + tokens["a"], [zero, target], {"a": zero}, 3)
    torch.testing.assert_close(found[0]["a"], token.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("null", ["learned", "empty"])
def test_tokens_of_text_are_those_of_the_network(null: Any) -> None:
    """Its own tokens given from outside are its own null to the bit, for token ids and for embeddings, and are named
    apart from others."""
    torch.manual_seed(0)
    text = {"width": 8, "length": 5, "vocabulary": 8, "depth": 1, "heads": 2, "null": null, "sketch": True}
    network = UNet(1, 8, 4, channels=8, multipliers=(1, 2), blocks=1, embed=16, text=text).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.tensor([[3, 1, 0, 0, 0], [2, 5, 1, 0, 0]])
    plain = Condition.of(label=[1, 2], text=ids).drop(torch.tensor([True, False]))
    own = {name: token.expand(2, *token.shape) for name, token in network.null_tokens().items()}
    assert set(own) == {"label", "text"}
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([300.0, 300.0])
    with torch.no_grad():
        for condition in (plain, network.embed(plain)):
            expected = network(x, time, condition)
            torch.testing.assert_close(network(x, time, replace(condition, null=own)), expected, rtol=1e-5, atol=1e-5)
            other = replace(condition, null={**own, "text": own["text"] + 0.5})
            changed = network(x, time, other)
            assert not torch.allclose(changed[0], expected[0], atol=1e-3)
            torch.testing.assert_close(changed[1], expected[1], rtol=1e-5, atol=1e-5)


def test_conditions_carry_their_tokens() -> None:
    condition = Condition.of(label=[0, 1, 2]).drop(torch.tensor([False, True, True]))
    tokens = torch.arange(6.0).reshape(3, 2)
    with_null = replace(condition, null={"label": tokens})
    assert torch.equal(with_null[1:].null["label"], tokens[1:])
    assert torch.equal(with_null[[2, 0]].null["label"], tokens[[2, 0]])
    assert torch.equal(Condition.cat([with_null, with_null[:1]]).null["label"], torch.cat([tokens, tokens[:1]]))
    assert torch.equal(with_null.drop().null["label"], tokens)
    assert with_null.equals(replace(condition, null={"label": tokens.clone()}))
    assert not with_null.equals(condition)
    assert not with_null.equals(replace(condition, null={"label": tokens + 1}))
    kept = Condition.of(label=[0, 1, 2])
    assert replace(kept, null={"label": tokens}).equals(kept)  # which reads none of them
    with pytest.raises(UsageError, match="some have null tokens"):
        Condition.cat([with_null, condition])
    with pytest.raises(UsageError, match="null tokens of 3 samples"):
        replace(condition, null={"label": tokens[:2]})
    with pytest.raises(UsageError, match="null tokens of 3 samples"):
        replace(condition, null={"text": tokens})
