"""Blocks shared by the U-Net and the noisy-image classifier. All take and return [n, c, h, w]."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Perturbation
from fairlead.core.denoiser import autocast

Perturb = Mapping[Perturbation, Tensor]
"""Of a condition: perturbation -> bool [n]."""
M = TypeVar("M", bound=nn.Module)


def groups_of(channels: int) -> int:
    """8 groups, or fewer when the channels cannot be divided by 8."""
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)


def zeroed(module: M) -> M:
    """The module with all parameters 0, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``F.group_norm`` of [n, c, h, w], in float32 where that is faster, and then back in the precision of ``x``.

    On a CPU in bf16 and channels-last memory the kernel works number by number when a group has fewer than 16 channels,
    and took 40 % of a training step of a small network, 7 times the time that it takes in float32 (torch 2.13, AMX).
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[1] < 16 * groups:
        return F.group_norm(x.float(), groups, weight, bias, eps).to(x.dtype)
    return F.group_norm(x, groups, weight, bias, eps)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` by :func:`group_norm`; 0 groups are as many as :func:`groups_of` has for so many channels."""

    def __init__(self, channels: int, groups: int = 0) -> None:
        super().__init__(groups or groups_of(channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and shift come from an embedding: norm(x) (1 + scale) + shift (2105.05233, 3)."""

    def __init__(self, channels: int, embed: int) -> None:
        super().__init__()
        self.groups = groups_of(channels)
        self.project = zeroed(nn.Linear(embed, 2 * channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.project(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, group_norm(x, self.groups), 1 + scale)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input.

    The embedding [n, embed] enters either through the scale and shift of the second norm (``adaptive``) or by addition
    after the first convolution, as in DDPM.
    """

    def __init__(self, inputs: int, outputs: int, embed: int, adaptive: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = GroupNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.adaptive = adaptive
        if adaptive:
            self.norm2: nn.Module = AdaptiveGroupNorm(outputs, embed)
        else:
            self.norm2 = GroupNorm(outputs)
            self.add = nn.Linear(embed, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h, embedding) if self.adaptive else self.norm2(h + self.add(embedding)[:, :, None, None])
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return out


def attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(c)) v for [..., length, c]: torch's fused kernel, save where its backward pass is slow.
    ``real`` is a bool mask of the keys that broadcasts against [..., queries, keys], None for all.

    On a CPU in bf16 the fused backward takes 3 to 8 times as long as the three plain products (torch 2.13, AMX, lengths
    16 to 256), and dominated a training step of a small network.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if real is not None:
            weights = weights.masked_fill(~real, -math.inf)
        out: Tensor = weights.softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, real)
    return out


def perturbed_attention(
    q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int], layer: str = "", perturb: Perturb | None = None
) -> Tensor:
    """:func:`attention` of [n, heads, h * w, c], with the rows that ``perturb`` names for this layer made worse.

    "identity_attention" returns v (Ahn 2024, 2403.17377, eq. 16); "blur_queries" blurs q over the h x w positions
    (Hong 2024, 2408.00760, section 4.1). What :func:`attention_mass` asks for is recorded.
    """
    active = [(p, mask) for p, mask in (perturb or {}).items() if layer in p.layers]
    for perturbation, mask in active:
        if perturbation.kind == "blur_queries":
            q = where_masked(mask, blurred(q, size, perturbation.amount), q)
    out = attention(q, k, v)
    record_attention(layer, q, k, size)
    for perturbation, mask in active:
        if perturbation.kind == "identity_attention":
            out = where_masked(mask, v, out)
    return out


def where_masked(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a in the rows of ``mask`` (bool [n], on any device), b in the others, in the memory layout of b: which kernel the
    next layer takes, and so its rounding, must not hang on a mask."""
    if a.stride() != b.stride():
        a = torch.empty_like(b).copy_(a)
    return torch.where(mask.to(b.device).reshape(-1, *([1] * (b.ndim - 1))), a, b)


def blurred(q: Tensor, size: tuple[int, int], std: float) -> Tensor:
    """q [..., h * w, c] blurred over space by a Gaussian of ``std`` positions whose weights sum to 1 at every position,
    also at the border; inf is the mean of all positions, 0 changes nothing."""
    if std == math.inf:
        return q.mean(-2, keepdim=True).expand_as(q)
    if std == 0:
        return q
    vertical, horizontal = (_gaussian_rows(edge, std, q.dtype, q.device) for edge in size)
    image = q.reshape(*q.shape[:-2], *size, q.shape[-1])
    image = torch.einsum("ij,...jwc->...iwc", vertical, image)
    return torch.einsum("ij,...hjc->...hic", horizontal, image).flatten(-3, -2)


def blurred_images(x: Tensor, std: float) -> Tensor:
    """x [n, c, h, w], every channel blurred as :func:`blurred` does."""
    if std == math.inf:
        return x.mean((-2, -1), keepdim=True).expand_as(x)
    if std == 0:
        return x
    return along_axes(x, *(_gaussian_rows(edge, std, x.dtype, x.device) for edge in x.shape[-2:]))


def along_axes(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """vertical [h', h] @ every channel of x [n, c, h, w] @ horizontal^T [w, w']."""
    planes = x.flatten(0, 1)
    down, across = (matrix.expand(planes.shape[0], -1, -1) for matrix in (vertical, horizontal.T))
    return down.bmm(planes).bmm(across).reshape(*x.shape[:2], vertical.shape[0], horizontal.shape[0])


@lru_cache(maxsize=64)
def _gaussian_rows(edge: int, std: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        position = torch.arange(edge, device=device, dtype=torch.float64)
        return (-0.5 * ((position[:, None] - position) / std) ** 2).softmax(-1).to(dtype)


INTERNAL = "internal"
"""In place of a layer's name: the head in the middle of a network, whose record is its own output, [n, c, s, s]."""
_MASS: ContextVar[dict[str, Tensor | None] | None] = ContextVar("fairlead_attention_mass", default=None)


@contextmanager
def attention_mass(layers: Sequence[str]) -> Iterator[dict[str, Tensor | None]]:
    """Record, in network calls inside the block, the attention that each position of these layers receives.

    Yields layer -> [n, h, w]: the attention weights averaged over heads and summed over queries, so that their mean
    is 1 (Hong 2022, 2210.00939, eq. 14). :data:`INTERNAL` is the output of a head, [n, c, s, s], and carries gradients.
    Rows are those of the last call.
    """
    store: dict[str, Tensor | None] = dict.fromkeys(layers)
    token = _MASS.set(store)
    try:
        yield store
    finally:
        _MASS.reset(token)


def recorded_layers() -> tuple[str, ...]:
    """The layers whose attention the block around this call wants to be recorded."""
    return tuple(_MASS.get() or ())


def record_attention(layer: str, q: Tensor, k: Tensor, size: tuple[int, int]) -> None:
    """Called by a layer with its queries and keys [n, heads, h * w, c]; nothing unless :func:`attention_mass` asks."""
    store = _asked()
    if store is not None and layer in store:
        exact = torch.promote_types(q.dtype, torch.float32)
        with autocast(q.device, None):
            weights = ((q.to(exact) * q.shape[-1] ** -0.5) @ k.to(exact).transpose(-1, -2)).softmax(-1)
        store[layer] = weights.mean(1).sum(1).reshape(len(q), *size)


def record_mass(layer: str, mass: Tensor, size: tuple[int, int]) -> None:
    """:func:`record_attention` of what a layer has worked out itself, [n, h * w]."""
    store = _asked()
    if store is not None and layer in store:
        store[layer] = mass.reshape(len(mass), *size)


def record_internal(head: Callable[[], Tensor]) -> None:
    """Called by a network in its middle with a function that evaluates its head there; nothing unless asked for."""
    store = _asked()
    if store is not None and INTERNAL in store:
        store[INTERNAL] = head()


def _asked() -> dict[str, Tensor | None] | None:
    """What the block around this call records. Compiled code records nothing, and is not called
    where something is asked for, see :func:`fairlead.nets.compiling.compile_in_place`."""
    return None if torch.compiler.is_compiling() else _MASS.get()


class SelfAttention(nn.Module):
    """Every position attends to every other; residual. As many heads of at least ``head`` channels as divide them."""

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        self.heads = next(h for h in range(max(1, channels // head), 0, -1) if channels % h == 0)
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, layer: str = "", perturb: Perturb | None = None) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        mixed = perturbed_attention(q, k, v, (h, w), layer, perturb).transpose(-1, -2).reshape(n, c, h, w)
        out: Tensor = x + self.out(mixed)
        return out
