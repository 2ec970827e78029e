"""Blocks and embeddings against their formulas, written out."""

import math

import pytest
import torch

from fairlead.nets.blocks import AdaptiveGroupNorm, GroupNorm, SelfAttention, groups_of
from fairlead.nets.embeddings import sinusoidal


def normalised(x: torch.Tensor, groups: int) -> torch.Tensor:
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(dim=2, keepdim=True)
    return (centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (32, 1), (64, 2), (80, 2), (112, 2)])
def test_self_attention_is_softmax_qk_over_root_d_times_v(channels, heads):
    """112 channels cannot have three heads of 32 or more."""
    block = SelfAttention(channels).double()
    assert block.qkv.bias is not None
    torch.nn.init.normal_(block.out.weight)
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    h = normalised(x, groups_of(channels)) * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    qkv = torch.einsum("oc,nchw->nohw", block.qkv.weight[:, :, 0, 0], h) + block.qkv.bias[:, None, None]
    q, k, v = qkv.flatten(2).chunk(3, dim=1)
    d = channels // heads
    mixed = torch.empty(2, channels, 12, dtype=torch.float64)
    for head in range(heads):
        mine = slice(head * d, (head + 1) * d)
        scores = q[:, mine].transpose(1, 2) @ k[:, mine] / math.sqrt(d)
        mixed[:, mine] = v[:, mine] @ scores.softmax(dim=-1).transpose(1, 2)
    out = torch.einsum("oc,ncl->nol", block.out.weight[:, :, 0, 0], mixed)
    assert block.heads == heads
    torch.testing.assert_close(block(x), x + out.reshape(x.shape), rtol=0, atol=1e-11)


def test_adaptive_group_norm_is_norm_times_one_plus_scale_plus_shift():
    block = AdaptiveGroupNorm(16, 6).double()
    torch.nn.init.normal_(block.project.weight)
    torch.nn.init.normal_(block.project.bias)
    x, e = torch.randn(3, 16, 4, 4, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    projected = e @ block.project.weight.T + block.project.bias
    scale, shift = projected[:, :16, None, None], projected[:, 16:, None, None]
    torch.testing.assert_close(block(x, e), normalised(x, 8) * (1 + scale) + shift, rtol=0, atol=1e-12)


def test_a_fresh_adaptive_group_norm_is_plain_and_ignores_its_embedding():
    block, x = AdaptiveGroupNorm(8, 6).double(), torch.randn(3, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x, torch.full((3, 6), 1e3).double()), normalised(x, 8), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 64, 128, 192])  # fewer than 16 channels a group, and more
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_norm_and_its_gradient_are_exact_to_the_rounding_of_its_input(channels, dtype, layout):
    norm = GroupNorm(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, channels, 4, 6).to(dtype).to(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight, bias = norm.weight.detach().double()[:, None, None], norm.bias.detach().double()[:, None, None]
    expected = normalised(exact, groups_of(channels)) * weight + bias
    out, towards = norm(x), torch.randn(x.shape).to(dtype)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    out.backward(towards)
    expected.backward(towards.double())
    assert x.grad is not None
    assert exact.grad is not None
    near = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=near, atol=near)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=near, atol=near)


def test_groups_divide_the_channels():
    assert [groups_of(channels) for channels in (8, 48, 12, 6, 7)] == [8, 8, 4, 2, 1]


def test_sinusoidal_features_are_sines_and_cosines_of_geometric_frequencies():
    features = sinusoidal(torch.tensor([0.0, 1.0, 250.5]), 6)
    for row, time in zip(features.tolist(), (0.0, 1.0, 250.5), strict=True):
        angles = [time * 10_000 ** (-i / 3) for i in range(3)]
        assert row == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], abs=3e-5)
