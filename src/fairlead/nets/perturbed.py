"""Perturbing and watching the layers of a diffusers network during one call, row by row.

Hooks are set before the call and gone after it, so a network that several pipelines share is as it was. Attention is
reached where every processor ends, in ``scaled_dot_product_attention``: processors stay what they are. A compiled
network runs uncompiled in such a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.nets.blocks import Perturb, blurred, perturbed_attention, record_attention, recorded_layers, where_masked

_BLOCK = re.compile(r"(?:.*\.)?(?:single_)?transformer_blocks\.\d+")


def plain(network: Any) -> nn.Module:
    """The network inside a ``torch.compile``d one."""
    inside: nn.Module = getattr(network, "_orig_mod", network)
    return inside


def layers_of(network: Any) -> dict[str, tuple[str, ...]]:
    """Names of the layers that can be perturbed, from the input to the output: "attention" are softmax self-attentions
    (of images and text together in joint blocks), "block" are transformer blocks."""
    attention, blocks = [], []
    for name, module in plain(network).named_modules():
        if _BLOCK.fullmatch(name):
            blocks.append(name)
        if hasattr(module, "to_q") and hasattr(module, "heads") and not getattr(module, "is_cross_attention", False):
            linear = "Linear" in type(getattr(module, "processor", None)).__name__
            if name.rsplit(".", 1)[-1] != "attn2" and not linear:
                attention.append(name)
    found = {"attention": tuple(sorted(attention, key=_place)), "block": tuple(sorted(blocks, key=_place))}
    return {kind: names for kind, names in found.items() if names}


def _place(layer: str) -> int:
    """U-Nets make their middle last."""
    return 0 if layer.startswith("down") else 2 if layer.startswith("up") else 1


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


@contextmanager
def perturbing(network: Any, perturb: Perturb, tokens: Tokens) -> Iterator[None]:
    """Calls of the network inside the block apply ``perturb`` and record what :func:`attention_mass` asks for."""
    recorded = recorded_layers()
    named = {layer for perturbation in perturb for layer in perturbation.layers}
    if not named and not recorded:
        yield
        return
    module = plain(network)
    with ExitStack() as stack:
        if is_compiled(network):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for layer in named | set(recorded):
            mine = {p: mask for p, mask in perturb.items() if layer in p.layers}
            skipped = [mask for p, mask in mine.items() if p.kind == "skip"]
            part = module.get_submodule(layer)
            for mask in skipped:
                handle = part.register_forward_hook(partial(_skip, mask), with_kwargs=True)
                stack.callback(handle.remove)
            others: Perturb = {p: mask for p, mask in mine.items() if p.kind != "skip"}
            if others or layer in recorded:
                mode = _Attention(layer, others, tokens)
                before = part.register_forward_pre_hook(lambda *_, mode=mode: mode.begin())
                after = part.register_forward_hook(lambda *_, mode=mode: mode.end(), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
        yield


def is_compiled(network: Any) -> bool:
    if plain(network) is not network:
        return True
    return any(m._compiled_call_impl is not None for m in plain(network).modules())


def _skip(
    mask: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
) -> Tensor | tuple[Tensor | None, ...]:
    """The block's input in the rows of ``mask``, its output in the others."""
    given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | dict(kwargs)
    if isinstance(output, Tensor):
        return where_masked(mask, given["hidden_states"], output)
    names = ("encoder_hidden_states", "hidden_states")  # joint blocks return them in this order, None after the last
    pairs = zip(names, output, strict=True)
    return tuple(None if out is None else where_masked(mask, given[name], out) for name, out in pairs)


class _Attention(TorchFunctionMode):
    """Inside, ``scaled_dot_product_attention`` is perturbed; opened and closed around one layer."""

    def __init__(self, layer: str, perturb: Perturb, tokens: Tokens) -> None:
        super().__init__()
        self.layer, self.perturb, self.tokens = layer, perturb, tokens
        self.open = False

    def begin(self) -> None:
        self.open = True
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        if self.open:
            self.open = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **named)
        named |= dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))
        q, k, v, mask = named.pop("query"), named.pop("key"), named.pop("value"), named.pop("attn_mask", None)
        size, image = self.tokens.image(q.shape[-2])
        if q.shape[-2] == size[0] * size[1] and mask is None:
            return perturbed_attention(q, k, v, size, self.layer, self.perturb)
        record_attention(self.layer, q[..., image, :], k[..., image, :], size)  # of image positions to each other
        return _joint(func, q, k, v, mask, named, self.perturb, size, image)


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
