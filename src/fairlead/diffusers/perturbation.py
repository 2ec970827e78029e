"""Perturbing and watching the layers of a diffusers network during one call, row by row.

Hooks are set before the call and gone after it, and they act in that call alone: another thread that calls the same
network, perturbed in another way or not at all, gets what it would get by itself. Attention is reached where it is
computed, in ``scaled_dot_product_attention`` or in the softmax of the scores (see ``attention.py``): processors stay
what they are. A layer whose attention was not reached in the call is an error. A compiled network runs uncompiled.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fairlead.core.errors import UsageError
from fairlead.diffusers.attention import ReachedAttention, Tokens, unreachable
from fairlead.nets.blocks import Perturb, recorded_layers, where_masked

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


_CALL: ContextVar[object | None] = ContextVar("fairlead_perturbed_call", default=None)
"""The call of :func:`perturbing` that this thread or task is in."""


@contextmanager
def perturbing(network: Any, perturb: Perturb, tokens: Tokens | None) -> Iterator[None]:
    """The call of the network inside the block applies ``perturb`` and records what :func:`attention_mass` asks for.

    Args:
        tokens: where the positions of the image are in an attention layer; None: not known.

    Raises:
        UsageError: if the attention of a layer cannot be reached, or the call did not use a layer.
    """
    recorded = recorded_layers()
    named = {layer for perturbation in perturb for layer in perturbation.layers}
    if not named and not recorded:
        yield
        return
    module, call = plain(network), object()
    skips: dict[str, list[bool]] = {}
    reached: list[ReachedAttention] = []
    with ExitStack() as stack:
        if is_compiled(network):
            stack.enter_context(_uncompiled())
        token = _CALL.set(call)
        stack.callback(_CALL.reset, token)
        for layer in sorted(named | set(recorded)):
            mine = {p: mask for p, mask in perturb.items() if layer in p.layers}
            part = module.get_submodule(layer)
            for mask in (mask for p, mask in mine.items() if p.kind == "skip"):
                used = skips.setdefault(layer, [])
                handle = part.register_forward_hook(_within(call, partial(_skip, mask, used)), with_kwargs=True)
                stack.callback(handle.remove)
            others: Perturb = {p: mask for p, mask in mine.items() if p.kind != "skip"}
            if others or layer in recorded:
                check_reachable(network, layer)
                if tokens is None:
                    raise UsageError(
                        f"layer {layer!r} cannot be perturbed or watched: which of its positions are of the image is "
                        "not known for this network; slg and s2 skip whole blocks and need not know"
                    )
                mode = ReachedAttention(layer, part, others, tokens)
                before = part.register_forward_pre_hook(_within(call, mode.begin), with_kwargs=True)
                after = part.register_forward_hook(_within(call, mode.end))
                reached.append(mode)
                stack.callback(before.remove)
                stack.callback(after.remove)
                stack.callback(mode.close)  # where the layer has raised
        yield
        for mode in reached:
            mode.check()
        for layer, used in skips.items():
            if not used:
                raise UsageError(f"layer {layer!r} was to be skipped, but the network did not call it; name another")


def check_reachable(network: Any, layer: str) -> None:
    """Raises UsageError for an attention layer whose processor is known to compute where it cannot be perturbed."""
    part = plain(network).get_submodule(layer)
    reason = unreachable(part)
    if reason:
        raise UsageError(
            f"layer {layer!r} cannot be perturbed or watched: {reason}; give the network another, "
            "set_attn_processor(AttnProcessor2_0()) or set_attention_backend('native')"
        )


def check_without_dropout(network: Any, name: str) -> None:
    """Raises UsageError for a network that drops values, or labels, at random."""
    for module in plain(network).modules():
        share = getattr(module, "p", 0.0) if isinstance(module, _DropoutNd) else getattr(module, "dropout_prob", 0.0)
        if module.training and share:
            raise UsageError(f"{name} is in training mode, so dropout is on; call {name}.eval() first")


def _within(call: object, act: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that acts in this call alone, and not in those that other threads make of the same module meanwhile."""

    def hook(module: nn.Module, *given: Any) -> Any:
        return act(module, *given) if _CALL.get() is call else None

    return hook


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
    if plain(network) is not network:
        return True
    return any(m._compiled_call_impl is not None for m in plain(network).modules())


def _skip(
    mask: Tensor,
    used: list[bool],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
) -> Tensor | tuple[Tensor | None, ...]:
    """The block's input in the rows of ``mask``, its output in the others."""
    used.append(True)
    given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | dict(kwargs)
    if isinstance(output, Tensor):
        return where_masked(mask, given["hidden_states"], output)
    names = ("encoder_hidden_states", "hidden_states")  # joint blocks return them in this order, None after the last
    pairs = zip(names, output, strict=True)
    return tuple(None if out is None else where_masked(mask, given[name], out) for name, out in pairs)
