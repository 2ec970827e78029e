"""The attention inside one layer of a diffusers network, made worse in some rows or watched, whatever computes it.

Processors end in one of two ways. Most call ``scaled_dot_product_attention`` with queries, keys and values. The others
make the scores themselves, q k^T and a mask, and take their softmax: all of them (``AttnProcessor``), or some heads or
images at a time (``SlicedAttnProcessor``). Both are linear in the queries before the softmax, so that

    blurred queries      = scores blurred over the positions of the queries
    identity attention   = scores of -inf between an image position and every other one

A layer has been reached when every row and head of its call has come by. Kernels outside torch (xformers, flash
attention) are not reached, and neither are queries that come by in part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.nets.blocks import (
    Perturb,
    blurred,
    perturbed_attention,
    record_attention,
    record_mass,
    recorded_layers,
    where_masked,
)

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax)
_BACKENDS = ("native", "_native_math", "_native_efficient", "_native_cudnn")
"""Of diffusers' attention backends those that are torch's own and take masks."""
_FOREIGN = ("XFormers", "NPU", "XLA", "PAG")
"""In the names of diffusers' processors that compute elsewhere, or perturb by themselves."""


@dataclass(frozen=True)
class Tokens:
    """Where the positions of an image lie among those that an attention layer sees.

    Attributes:
        size: height and width of the latents.
        patch: edge of a transformer's patches; 0 for a U-Net, whose levels halve the image.
        text_first: in joint attention, whether text comes before the image.
    """

    size: tuple[int, int]
    patch: int = 0
    text_first: bool = False

    def image(self, length: int) -> tuple[tuple[int, int], slice]:
        """(height, width) of the map in a layer of ``length`` positions, and which of them it is."""
        size = self.size
        if self.patch:
            size = size[0] // self.patch, size[1] // self.patch
        else:
            while size[0] * size[1] > length:
                size = -(-size[0] // 2), -(-size[1] // 2)
        count = size[0] * size[1]
        if count > length or (not self.patch and count != length):
            raise UsageError(f"attention over {length} positions does not fit latents of {list(self.size)}")
        return size, slice(length - count, length) if self.text_first else slice(0, count)

    def fit(self, length: int) -> bool:
        """Whether a layer of ``length`` positions may be one of these latents."""
        try:
            self.image(length)
        except UsageError:
            return False
        return True


def processor_of(part: Any) -> str:
    """The class of what computes a layer's attention, for messages."""
    processor = getattr(part, "processor", None)
    return type(part if processor is None else processor).__name__


def unreachable(part: Any) -> str:
    """Why the attention of this layer is known not to be reached, "" if it may be."""
    kind = processor_of(part)
    if any(word in kind for word in _FOREIGN):
        return f"{kind} computes attention outside of torch, or perturbs it by itself"
    processor: Any = getattr(part, "processor", None)
    if hasattr(processor, "_attention_backend"):
        backend = processor._attention_backend or _active_backend()
        name = str(getattr(backend, "value", backend or "native"))
        if name not in _BACKENDS:
            return f"{kind} computes attention in the backend {name!r}"
    return ""


def _active_backend() -> Any:
    """Of diffusers, where a processor names none."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    active = getattr(getattr(dispatch, "_AttentionBackendRegistry", None), "get_active_backend", None)
    return None if active is None else active()[0]


class ReachedAttention(TorchFunctionMode):
    """Inside, the attention of one layer is perturbed and recorded; opened and closed by hooks around the layer.

    Args:
        layer: its name.
        part: the layer.
        perturb: perturbation -> the rows in which it acts, bool [n].
        tokens: where the positions of the image are.
    """

    def __init__(self, layer: str, part: nn.Module, perturb: Perturb, tokens: Tokens) -> None:
        super().__init__()
        self.layer, self.part, self.perturb, self.tokens = layer, part, perturb, tokens
        self.open, self.calls, self.whole = False, 0, 0
        self.rows, self.maps = 0, 0
        """Of the layer's input, and attention maps (heads of rows) that have come by."""
        self._received: list[Tensor] = []

    def begin(self, module: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """The layer is called."""
        self.rows = len(args[0] if args else (kwargs or {})["hidden_states"])
        self.maps, self._received = 0, []
        self.calls, self.open = self.calls + 1, True
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self, *_: Any) -> None:
        """The layer returns."""
        self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Raises UsageError unless all attention of the layer was reached, in every call of it."""
        if not self.calls:
            raise UsageError(f"layer {self.layer!r} was to be perturbed, but the network did not call it; name another")
        if self.whole != self.calls:
            raise UsageError(
                f"layer {self.layer!r} cannot be perturbed or watched: {processor_of(self.part)} computes its "
                "attention neither in scaled_dot_product_attention nor in one softmax; set another attention "
                "processor, or name another layer"
            )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            named |= dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
            return self._fused(func, named)
        if func in _SOFTMAX:
            return self._softmax(func, args, named)
        return func(*args, **named)

    def _taken(self, leading: tuple[int, ...], heads: int) -> slice | None:
        """Which maps an attention over [*leading, queries, keys] computes; None if they are not this layer's own."""
        total, count = self.rows * heads, math.prod(leading)
        if self.maps + count > total or any(len(mask) != self.rows for mask in self.perturb.values()):
            return None
        taken = slice(self.maps, self.maps + count)
        self.maps += count
        self.whole += self.maps == total
        return taken

    def _heads(self, leading: tuple[int, ...]) -> int:
        return leading[1] if len(leading) == 2 else int(getattr(self.part, "heads", 1))

    def _masks(self, taken: slice, heads: int, leading: tuple[int, ...]) -> Perturb:
        """The rows of every perturbation among these maps: a mask of the first axis."""
        each = heads if len(leading) == 2 else 1
        return {p: mask.repeat_interleave(heads)[taken][::each] for p, mask in self.perturb.items()}

    def _fused(self, func: Callable[..., Any], named: dict[str, Any]) -> Any:
        q, k, v, mask = (named.pop(name, None) for name in ("query", "key", "value", "attn_mask"))
        leading = tuple(q.shape[:-2])
        merged = len(leading) == 1 and q.shape[-1] == self.part.to_q.out_features  # type: ignore[union-attr]
        heads = 1 if merged else self._heads(leading)
        own = len(leading) in (1, 2) and q.shape[-2] == k.shape[-2]  # else to something else, such as an image prompt
        taken = self._taken(leading, heads) if own else None
        if taken is None:
            return func(q, k, v, attn_mask=mask, **named)
        size, image = self.tokens.image(q.shape[-2])
        perturb = self._masks(taken, heads, leading)
        together = leading == (self.rows, heads)
        if together and q.shape[-2] == size[0] * size[1] and mask is None and not any(named.values()):
            return perturbed_attention(q, k, v, size, self.layer, perturb)
        if together:  # of image positions to each other
            record_attention(self.layer, q[..., image, :], k[..., image, :], size)
        elif self.layer in recorded_layers():
            exact = torch.promote_types(q.dtype, torch.float32)
            scores = q[..., image, :].to(exact) @ k[..., image, :].to(exact).transpose(-1, -2)
            self._record(scores * q.shape[-1] ** -0.5, heads, size)
        return _joint(func, q, k, v, mask, named, perturb, size, image)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = {**named, **dict(zip(("input", "dim"), args, strict=False))}
        scores, dim = given["input"], given.get("dim")
        leading = tuple(scores.shape[:-2])
        own = len(leading) in (1, 2) and scores.shape[-1] == scores.shape[-2] and dim in (-1, scores.ndim - 1)
        if not own or not self.tokens.fit(scores.shape[-1]):
            return func(*args, **named)
        heads = self._heads(leading)
        taken = self._taken(leading, heads)
        if taken is None:
            return func(*args, **named)
        size, image = self.tokens.image(scores.shape[-1])
        if self.layer in recorded_layers():
            self._record(scores[..., image, image].to(torch.promote_types(scores.dtype, torch.float32)), heads, size)
        for perturbation, mask in self._masks(taken, heads, leading).items():
            scores = where_masked(mask, _worse(scores, perturbation, size, image), scores)
        rest = {name: value for name, value in named.items() if name != "input"}
        return func(scores, *args[1:], **rest)

    def _record(self, scores: Tensor, heads: int, size: tuple[int, int]) -> None:
        """Scores of some maps, float32 [..., h * w, h * w]; those of all rows are recorded together."""
        received = scores.softmax(-1).sum(-2)
        self._received.append(received.reshape(-1, received.shape[-1]))
        if self.maps == self.rows * heads:
            record_mass(self.layer, torch.cat(self._received).reshape(self.rows, heads, -1).mean(1), size)


def _worse(scores: Tensor, perturbation: Perturbation, size: tuple[int, int], image: slice) -> Tensor:
    """Scores [..., queries, keys] under a perturbation, as :func:`_joint`."""
    if perturbation.kind == "identity_attention":
        return scores.masked_fill(~_alone(scores.shape[-1], image.start, image.stop, scores.device), -torch.inf)
    part = scores[..., image, :]
    hidden = part == -torch.inf  # of keys that no query sees
    worse = scores.clone()
    worse[..., image, :] = blurred(part.masked_fill(hidden, 0), size, perturbation.amount).masked_fill(
        hidden, -torch.inf
    )
    return worse


def _joint(
    attend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    settings: Mapping[str, Any],
    perturb: Mapping[Perturbation, Tensor],
    size: tuple[int, int],
    image: slice,
) -> Tensor:
    """Attention of image and text together: only what image positions see of each other is made worse.

    "identity_attention": an image position attends to itself and to the text; "blur_queries": the queries of the image
    are blurred.
    """
    out = attend(q, k, v, attn_mask=mask, **settings)
    for perturbation, rows in perturb.items():
        chosen = rows.to(q.device).nonzero()[:, 0]
        q_worse, mask_worse = q[chosen], None if mask is None else mask[chosen] if len(mask) == len(q) else mask
        if perturbation.kind == "blur_queries":
            q_worse = q_worse.clone()
            q_worse[..., image, :] = blurred(q_worse[..., image, :], size, perturbation.amount)
        else:
            alone = _alone(q.shape[-2], image.start, image.stop, q.device)
            if mask_worse is None or mask_worse.dtype == torch.bool:
                mask_worse = alone if mask_worse is None else alone & mask_worse
            else:
                mask_worse = mask_worse.masked_fill(~alone, -torch.inf)
        kept = torch.empty_like(out).copy_(out)
        kept[chosen] = attend(q_worse, k[chosen], v[chosen], attn_mask=mask_worse, **settings)
        out = kept
    return out


@lru_cache(maxsize=8)
def _alone(length: int, start: int, stop: int, device: torch.device) -> Tensor:
    """bool [length, length]: everything may see everything, but image positions only themselves among each other."""
    with torch.inference_mode(False):
        allowed = torch.ones(length, length, dtype=torch.bool, device=device)
        allowed[start:stop, start:stop] = torch.eye(stop - start, dtype=torch.bool, device=device)
        return allowed
