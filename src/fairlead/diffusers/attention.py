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
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.diffusers.layers import heads_of, processor_of
from fairlead.diffusers.negative_text import JointReading
from fairlead.diffusers.positions import LayerInput, Place, of_rows
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


class ReachedAttention(TorchFunctionMode):
    """Inside, the attention of one layer is perturbed and recorded; opened and closed by hooks around the layer.

    Args:
        layer: its name.
        part: the layer.
        perturb: perturbation -> the rows in which it acts, bool [n].
        given: what the layer is given, which says where the positions of the image are.
        negative: of a negative text among the positions; None: there is none.
    """

    def __init__(
        self, layer: str, part: nn.Module, perturb: Perturb, given: LayerInput, negative: JointReading | None = None
    ) -> None:
        super().__init__()
        self.layer, self.part, self.given, self.negative = layer, part, given, negative
        self._samples = self.perturb = perturb
        self.open, self.calls, self.whole = False, 0, 0
        self.rows, self.maps = 0, 0
        """Of the layer's input, and attention maps (heads of rows) that have come by."""
        self._received: list[Tensor] = []

    def begin(self, module: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """The layer is called."""
        self.rows = self.given.begin(args, kwargs or {})
        self.perturb = {p: of_rows(mask, self.rows) for p, mask in self._samples.items()}
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
                f"layer {self.layer!r} cannot be perturbed or recorded: {processor_of(self.part)} computes its "
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
            return self._with_negative(func, named)
        if func in _SOFTMAX and self.negative is None:
            return self._softmax(func, args, named)
        return func(*args, **named)

    def _taken(self, leading: tuple[int, ...], heads: int) -> slice | None:
        """Which maps an attention over [*leading, queries, keys] computes; None if they are not this layer's own."""
        total, count = self.rows * heads, math.prod(leading)
        if self.maps + count > total:
            return None
        taken = slice(self.maps, self.maps + count)
        self.maps += count
        self.whole += self.maps == total
        return taken

    def _image(
        self, length: int, values: Tensor | None, taken: slice, heads: int, leading: tuple[int, ...]
    ) -> tuple[tuple[int, int], Place]:
        """(height, width) of the map, one row where that makes no difference, and where it is, for the first axis of
        these maps."""
        try:
            place = self.given.image(length, values)
        except UsageError as error:
            raise UsageError(f"layer {self.layer!r} cannot be perturbed or recorded: {error}") from error
        count = place.count
        assert count is not None
        flat = all(p.kind == "identity_attention" or p.amount == math.inf for p in self.perturb)
        if place.size is None and not (flat and self.layer not in recorded_layers()):
            raise UsageError(
                f"layer {self.layer!r}: how its {count} positions lie in height and width is not known; pag and "
                "seg without a blur of its own need not know"
            )
        if len(place.starts) > 1:
            starts = _of_maps(torch.tensor(place.starts), taken, heads, leading)
            place = replace(place, starts=tuple(starts.tolist()))
        return place.size or (1, count), place

    def _heads(self, leading: tuple[int, ...]) -> int:
        return leading[1] if len(leading) == 2 else heads_of(self.part)

    def _masks(self, taken: slice, heads: int, leading: tuple[int, ...]) -> Perturb:
        """The rows of every perturbation among these maps: a mask of the first axis."""
        return {p: _of_maps(mask, taken, heads, leading) for p, mask in self.perturb.items()}

    def _with_negative(self, func: Callable[..., Any], named: dict[str, Any]) -> Any:
        if self.negative is None:
            return self._fused(func, named)
        q, k, v, mask = (named.pop(name, None) for name in ("query", "key", "value", "attn_mask"))
        if q.shape[-2] != k.shape[-2] or q.ndim != 4:
            return func(q, k, v, attn_mask=mask, **named)

        def own(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Any:
            return self._fused(func, {"query": q, "key": k, "value": v, "attn_mask": attn_mask, **named})

        return self.negative.attend(partial(func, **named), (q, k, v), mask, own)

    def _fused(self, func: Callable[..., Any], named: dict[str, Any]) -> Any:
        q, k, v, mask = (named.pop(name, None) for name in ("query", "key", "value", "attn_mask"))
        leading = tuple(q.shape[:-2])
        merged = len(leading) == 1 and q.shape[-1] == self.part.to_q.out_features  # type: ignore[union-attr]
        heads = 1 if merged else self._heads(leading)
        own = len(leading) in (1, 2) and q.shape[-2] == k.shape[-2]  # else to something else, such as an image prompt
        taken = self._taken(leading, heads) if own else None
        if taken is None:
            return func(q, k, v, attn_mask=mask, **named)
        if not self.perturb and self.layer not in recorded_layers():  # a negative text is all
            return func(q, k, v, attn_mask=mask, **named)
        together = leading == (self.rows, heads)
        size, place = self._image(q.shape[-2], v if together else None, taken, heads, leading)
        perturb = self._masks(taken, heads, leading)
        if together and q.shape[-2] == size[0] * size[1] and mask is None and not any(named.values()):
            return perturbed_attention(q, k, v, size, self.layer, perturb)
        if together:  # of image positions to each other
            record_attention(self.layer, place.of(q), place.of(k), size)
        elif self.layer in recorded_layers():
            exact = torch.promote_types(q.dtype, torch.float32)
            scores = place.of(q).to(exact) @ place.of(k).to(exact).transpose(-1, -2)
            self._record(scores * q.shape[-1] ** -0.5, heads, size)
        return _joint(func, q, k, v, mask, named, perturb, size, place)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = {**named, **dict(zip(("input", "dim"), args, strict=False))}
        scores, dim = given["input"], given.get("dim")
        leading = tuple(scores.shape[:-2])
        own = len(leading) in (1, 2) and scores.shape[-1] == scores.shape[-2] and dim in (-1, scores.ndim - 1)
        if not own or not self.given.fit(scores.shape[-1]):
            return func(*args, **named)
        heads = self._heads(leading)
        taken = self._taken(leading, heads)
        if taken is None:
            return func(*args, **named)
        size, place = self._image(scores.shape[-1], None, taken, heads, leading)
        if self.layer in recorded_layers():
            mutual = place.of(place.of(scores).transpose(-1, -2)).transpose(-1, -2)
            self._record(mutual.to(torch.promote_types(scores.dtype, torch.float32)), heads, size)
        for perturbation, mask in self._masks(taken, heads, leading).items():
            for image, rows in place.by_start(mask):
                scores = where_masked(rows, _worse(scores, perturbation, size, image), scores)
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


def _of_maps(rows: Tensor, taken: slice, heads: int, leading: tuple[int, ...]) -> Tensor:
    """What each row has, [n], for the first axis of the maps that are taken."""
    each = heads if len(leading) == 2 else 1
    return rows.repeat_interleave(heads)[taken][::each]


def _joint(
    attend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    settings: Mapping[str, Any],
    perturb: Mapping[Perturbation, Tensor],
    size: tuple[int, int],
    place: Place,
) -> Tensor:
    """Attention of image and text together: only what image positions see of each other is made worse.

    "identity_attention": an image position attends to itself and to the text; "blur_queries": the queries of the image
    are blurred.
    """
    out = attend(q, k, v, attn_mask=mask, **settings)
    parts = [(p, image, part) for p, rows in perturb.items() for image, part in place.by_start(rows)]
    for perturbation, image, rows in parts:
        chosen = rows.to(q.device).nonzero()[:, 0]
        by_row = mask is not None and mask.ndim > 2 and len(mask) == len(q)
        q_worse, mask_worse = q[chosen], mask[chosen] if mask is not None and by_row else mask
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


def check_by_running(layer: str, part: nn.Module) -> None:
    """Run a layer whose processor is somebody's own on four positions, to see whether its attention is reached. Layers
    that want more than that, or are not at hand (offloaded, quantised), are only seen in the network's own call.

    Raises:
        UsageError: if it is not.
    """
    weight, processor = getattr(getattr(part, "to_q", None), "weight", None), getattr(part, "processor", None)
    own = processor is not None and not type(processor).__module__.startswith("diffusers.")
    hooked = part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook")
    at_hand = isinstance(weight, Tensor) and weight.is_floating_point() and weight.device.type != "meta"
    if not own or hooked or not at_hand:
        return
    assert isinstance(weight, Tensor)
    x = torch.linspace(-1, 1, 8 * weight.shape[1], device=weight.device).to(weight.dtype).reshape(2, 4, -1)
    worse = {Perturbation("identity_attention", (layer,)): torch.tensor([True, False])}
    mode = ReachedAttention(layer, part, worse, LayerInput(part, None, alone=True))
    try:
        with torch.no_grad():
            mode.begin(part, (x,))
            part(x)
    except Exception:  # whatever somebody's code raises for want of arguments
        return
    finally:
        mode.close()
    mode.check()


@lru_cache(maxsize=8)
def _alone(length: int, start: int, stop: int, device: torch.device) -> Tensor:
    """bool [length, length]: everything may see everything, but image positions only themselves among each other."""
    with torch.inference_mode(False):
        allowed = torch.ones(length, length, dtype=torch.bool, device=device)
        allowed[start:stop, start:stop] = torch.eye(stop - start, dtype=torch.bool, device=device)
        return allowed
