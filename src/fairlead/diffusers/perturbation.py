"""Perturbing and watching the layers of a diffusers network during one call, row by row.

Hooks are set before the call and gone after it, and they act in that call alone: another thread that calls the same
network, perturbed in another way or not at all, gets what it would get by itself. Attention is reached where it is
computed, in ``scaled_dot_product_attention`` or in the softmax of the scores (see ``attention.py``): processors stay
what they are. A layer whose attention was not reached in the call is an error. A compiled network runs uncompiled.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.diffusers.attention import ReachedAttention, check_by_running
from fairlead.diffusers.layers import (
    beside_cross_attention,
    joined_before,
    joined_image,
    passed_on,
    tells_image,
    unreachable,
)
from fairlead.diffusers.layers import layers_of as layers_of
from fairlead.diffusers.layers import text_layers as text_layers
from fairlead.diffusers.negative_text import (
    NOT_KNOWN,
    JointReading,
    TextReading,
    away_rows,
    placed_alike,
    reader_of,
    reading_layers,
)
from fairlead.diffusers.positions import LayerInput, TextTokens, Tokens, of_rows
from fairlead.diffusers.pretrained import inner_network as inner_network
from fairlead.nets.blocks import Perturb, recorded_layers, where_masked

_CALL: ContextVar[object | None] = ContextVar("fairlead_perturbed_call", default=None)
"""The call of :func:`perturbing` that this thread or task is in."""


@contextmanager
def perturbing(
    network: Any,
    perturb: Perturb,
    tokens: Tokens | None,
    text: TextTokens | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """The call of the network inside the block applies ``perturb`` and records what :func:`attention_mass` asks for.

    Args:
        tokens: where the positions of the image are in an attention layer; None: not known.
        text: of a call with a negative text behind the own one, how many tokens both have.
        arguments: of the call, by name, which tell where the image is in layers that get it as one sequence with the
            text; None: such layers are refused.

    Raises:
        UsageError: if the attention of a layer cannot be reached, or the call did not use a layer.
    """
    recorded = set(recorded_layers())
    named = {layer for perturbation in perturb for layer in perturbation.layers}
    if not named and not recorded and text is None:
        yield
        return
    module = inner_network(network)
    skips, reached = _by_layer(perturb, ("skip",)), _by_layer(perturb, ("identity_attention", "blur_queries"))
    away = _by_layer(away_rows(perturb), ("negative_text",))
    if away and text is None:
        raise UsageError(NOT_KNOWN)
    with ExitStack() as stack:
        if is_compiled(network):
            stack.enter_context(_uncompiled())
        hooks = _Hooks(stack)
        checks = [_skipping(hooks, module, layer, mine) for layer, mine in skips.items()]
        beside: dict[str, JointReading] = {}
        reader = reader_of(module)
        if text is not None and reader is not None:
            rows = torch.stack([mask for each in away.values() for mask in each.values()]).any(0)
            if reader.places:
                hooks.after(module.get_submodule(reader.places), partial(placed_alike, text))
            for layer in reading_layers(module):
                mine = away.get(layer, {})
                if reader.joint:
                    beside[layer] = JointReading(text, reader.text_first, mine, rows)
                else:
                    checks.append(_reading(hooks, TextReading(layer, module.get_submodule(layer), text, mine)))
        for layer in sorted({*reached, *recorded, *beside}):
            part = module.get_submodule(layer)
            behind = 0 if layer not in beside else beside[layer].text.negative
            joined = None if arguments is None else joined_image(module, layer, arguments)
            if joined is not None and behind:  # the negative is not among the positions of a layer that reads it aside
                joined = replace(joined, starts=tuple(start - behind for start in joined.starts))
            given = LayerInput(part, tokens, beside_cross_attention(module, layer), behind, joined)
            checks.append(_reaching(hooks, part, layer, reached.get(layer, {}), given, beside.get(layer)))
        yield
        for check in checks:
            check()


def _by_layer(perturb: Perturb, kinds: Sequence[str]) -> dict[str, dict[Perturbation, Tensor]]:
    """Layer -> its perturbations of these kinds."""
    found: dict[str, dict[Perturbation, Tensor]] = {}
    for perturbation, mask in perturb.items():
        for layer in perturbation.layers if perturbation.kind in kinds else ():
            found.setdefault(layer, {})[perturbation] = mask
    return found


class _Hooks:
    """Hooks that act in the calls of this block alone, and not in those that other threads make of the same module
    meanwhile; gone after it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self._call = stack, object()
        token = _CALL.set(self._call)
        stack.callback(_CALL.reset, token)

    def before(self, module: nn.Module, act: Callable[..., Any]) -> None:
        """``act(module, args, kwargs)`` before a call; returns None, or the arguments in their place."""
        self.stack.callback(module.register_forward_pre_hook(self._mine(act), with_kwargs=True).remove)

    def after(self, module: nn.Module, act: Callable[..., Any]) -> None:
        """``act(module, args, kwargs, output)`` after it; returns None, or the output in its place."""
        self.stack.callback(module.register_forward_hook(self._mine(act), with_kwargs=True).remove)

    def _mine(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def hook(*given: Any) -> Any:
            return act(*given) if _CALL.get() is self._call else None

        return hook


def _skipping(hooks: _Hooks, module: nn.Module, layer: str, perturb: Perturb) -> Callable[[], None]:
    used: list[bool] = []
    for mask in perturb.values():
        hooks.after(module.get_submodule(layer), partial(_skip, mask, layer, used))

    def check() -> None:
        if not used:
            raise UsageError(f"layer {layer!r} was to be skipped, but the network did not call it; name another")

    return check


def _reading(hooks: _Hooks, reading: TextReading) -> Callable[[], None]:
    hooks.before(reading.part, reading.begin)
    hooks.before(reading.part.to_out[0], reading.leave)  # type: ignore[index, arg-type]
    return reading.check


def _reaching(
    hooks: _Hooks, part: nn.Module, layer: str, perturb: Perturb, given: LayerInput, negative: JointReading | None
) -> Callable[[], None]:
    _check_processor(layer, part)
    mode = ReachedAttention(layer, part, perturb, given, negative)
    for name in ("to_v", "to_qkv"):
        if isinstance(getattr(part, name, None), nn.Module):
            hooks.after(part.get_submodule(name), given.projected)
    hooks.before(part, mode.begin)
    hooks.after(part, mode.end)
    hooks.stack.callback(mode.close)  # where the layer has raised
    return mode.check


def check_reachable(network: Any, layer: str) -> None:
    """Refuse, before sampling starts, an attention layer that cannot be perturbed: its processor computes elsewhere, or
    nothing tells which of its positions are of the image. What cross-attention has read is reached whatever computes
    it.

    Raises:
        UsageError: naming the layer.
    """
    part = inner_network(network).get_submodule(layer)
    if getattr(part, "is_cross_attention", False):
        return
    _check_processor(layer, part)
    if joined_before(inner_network(network), layer) and not tells_image(inner_network(network), layer):
        raise UsageError(
            f"layer {layer!r} cannot be perturbed or recorded: text and image come to it as one sequence, so which "
            "positions are of the image is not known; name a layer that is given both, or slg, which skips whole blocks"
        )
    check_by_running(layer, part)


def _check_processor(layer: str, part: nn.Module) -> None:
    if reason := unreachable(part):
        raise UsageError(
            f"layer {layer!r} cannot be perturbed or recorded: {reason}; give the network another, "
            "set_attn_processor(AttnProcessor2_0()) or set_attention_backend('native')"
        )


def check_without_dropout(network: Any, name: str) -> None:
    """Raises UsageError for a network that drops values, or labels, at random."""
    for module in inner_network(network).modules():
        share = getattr(module, "p", 0.0) if isinstance(module, _DropoutNd) else getattr(module, "dropout_prob", 0.0)
        if module.training and share:
            raise UsageError(f"{name} is in training mode, so dropout is on; call {name}.eval() first")


_STANCE = threading.Lock()
_EAGER = ExitStack()
_eager_calls = 0


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled networks run uncompiled inside, and as before after the last of the blocks of all threads."""
    global _eager_calls
    with _STANCE:
        if not _eager_calls:
            _EAGER.enter_context(torch.compiler.set_stance("force_eager"))
        _eager_calls += 1
    try:
        yield
    finally:
        with _STANCE:
            _eager_calls -= 1
            if not _eager_calls:
                _EAGER.close()


def is_compiled(network: Any) -> bool:
    if inner_network(network) is not network:
        return True
    return any(m._compiled_call_impl is not None for m in inner_network(network).modules())


def _skip(
    mask: Tensor,
    layer: str,
    used: list[bool],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
) -> Tensor | tuple[Tensor | None, ...]:
    """The block's input in the rows of ``mask``, its output in the others."""
    used.append(True)
    given = dict(zip(inspect.signature(type(module).forward).parameters, (module, *args), strict=False)) | dict(kwargs)
    outputs = (output,) if isinstance(output, Tensor) else tuple(output)
    kind: Any = type(module)
    names = next((names for names in passed_on(kind) if len(names) == len(outputs)), ())
    kept = [_kept(mask, given.get(name), out) for name, out in zip(names, outputs, strict=False)]
    if not kept or any(part is None and out is not None for part, out in zip(kept, outputs, strict=True)):
        raise UsageError(
            f"layer {layer!r} cannot be skipped: {type(module).__name__} does not pass on what it is given; name others"
        )
    return kept[0] if isinstance(output, Tensor) else tuple(kept)  # type: ignore[return-value]


def _kept(mask: Tensor, given: Any, output: Any) -> Tensor | None:
    """None for what is no tensor, as after the last block of a text, or of another shape."""
    if not isinstance(output, Tensor) or not isinstance(given, Tensor) or given.shape != output.shape:
        return None
    return where_masked(of_rows(mask, len(output)), given, output)
