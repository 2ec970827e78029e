"""Which layers of a diffusers network can be perturbed, by their names; what a block passes on, and what computes the
attention in it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from fairlead.diffusers.negative_text import READERS, reading_layers
from fairlead.diffusers.network_calls import CALLED, JOINED, text_tokens
from fairlead.diffusers.packing import PATCH
from fairlead.diffusers.positions import Place, Tokens
from fairlead.diffusers.pretrained import inner_network, setting

_LISTS = "transformer_blocks|(?:single|joint)_transformer_blocks"
_STACKS = f"{_LISTS}|blocks|layers|(?:single|double)(?:_stream)?_blocks"
_BLOCK = re.compile(rf"(?:{_STACKS})\.\d+|(?:down_blocks|mid_block|up_blocks)\.(?:.*\.)?transformer_blocks\.\d+")
"""Blocks of a transformer, and those inside the levels of a U-Net."""
_OTHER_POSITIONS = re.compile(
    r"motion_modules|temp_attentions|temporal_|transformer_in|refiner|text_fusion|context_embedder"
)
"""Parts whose positions are frames, or the tokens of a text."""
_OTHER_ATTENTION = re.compile(r"attn2|.*cross_att.*|audio_.*|.*_to_.*")
"""Last parts of the names of layers that read something else than the image, or hear."""

_BACKENDS = ("native", "_native_math", "_native_efficient", "_native_cudnn")
"""Of diffusers' attention backends those that are torch's own and take masks."""
_FOREIGN = ("XFormers", "NPU", "XLA", "PAG")
"""In the names of diffusers' processors that compute elsewhere, or perturb by themselves."""


def layers_of(network: Any) -> dict[str, tuple[str, ...]]:
    """Names of the layers that can be perturbed, from the input to the output: "attention" are softmax self-attentions
    (of images and text together in joint blocks), "block" are transformer blocks that pass on what they are given."""
    attention, blocks = [], []
    for name, module in inner_network(network).named_modules():
        if _OTHER_POSITIONS.search(name):
            continue
        kind: Any = type(module)
        if _BLOCK.fullmatch(name) and passed_on(kind):
            blocks.append(name)
        if hasattr(module, "to_q") and heads_of(module) and not getattr(module, "is_cross_attention", False):
            linear = "Linear" in type(getattr(module, "processor", None)).__name__
            other = "Perceiver" in type(module).__name__
            if not _OTHER_ATTENTION.fullmatch(name.rsplit(".", 1)[-1]) and not linear and not other:
                attention.append(name)
    found = {"attention": _in_order(attention), "block": _in_order(blocks)}
    return {kind: names for kind, names in found.items() if names}


def text_layers(network: Any) -> dict[str, tuple[str, ...]]:
    """ "text" -> names of the layers in which a network reads its text; empty where none can be perturbed."""
    names = _in_order(reading_layers(inner_network(network)))
    return {"text": names} if names else {}


def _in_order(names: list[str]) -> tuple[str, ...]:
    """U-Nets make their middle last."""
    return tuple(sorted(names, key=lambda layer: 0 if layer.startswith("down") else 2 if layer.startswith("up") else 1))


@lru_cache(maxsize=256)
def passed_on(kind: Any) -> tuple[tuple[str, ...], ...]:
    """What blocks of a class return, in names of their arguments: one tuple for each way to return that consists of
    arguments alone. Empty where there is none, so that the block cannot be skipped."""
    known, found = set(inspect.signature(inspect.unwrap(kind.forward)).parameters), []
    for node in _source_of(kind):
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            names = tuple(part.id for part in parts if isinstance(part, ast.Name) and part.id in known)
            if len(names) == len(parts):
                found.append(names)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=256)
def shown_text(kind: Any, part: str) -> bool:
    """Whether blocks of a class give ``part``, a layer of attention in them, something beside the image."""
    for node in _source_of(kind):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == part:
            named = {keyword.arg: ast.dump(keyword.value) for keyword in node.keywords}
            given = [
                *map(ast.dump, node.args),
                *(named[n] for n in ("hidden_states", "encoder_hidden_states") if n in named),
            ]
            if len(set(given[:2])) == 2 and ast.dump(ast.Constant(None)) != given[1]:
                return True
    return False


def _source_of(kind: Any) -> list[ast.AST]:
    """Everything in the source of its ``forward``; nothing where there is none."""
    try:
        return list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward))))))
    except (OSError, TypeError, SyntaxError):
        return []


def beside_cross_attention(network: nn.Module, layer: str) -> bool:
    """Whether the text is read elsewhere in the layer's block, so that the layer itself sees the image alone where it
    is given nothing else."""
    block = network.get_submodule(layer.rpartition(".")[0])
    return any(_OTHER_ATTENTION.fullmatch(name) and not name.startswith("audio") for name, _ in block.named_children())


def joined_before(network: nn.Module, layer: str) -> bool:
    """Whether text and image come to a layer of a transformer as one sequence, which does not tell where the image
    is."""
    if "UNet" in type(network).__name__:
        return False  # text is never among the positions
    block, _, part = layer.rpartition(".")
    arguments = inspect.signature(type(network).forward).parameters
    words = "encoder_hidden_states", "cap_feats", "text", "input_ids"
    reads = any(word in name for name in arguments for word in words)
    kind: Any = type(network.get_submodule(block))
    return reads and not beside_cross_attention(network, layer) and not shown_text(kind, part)


def tells_image(network: nn.Module, layer: str) -> bool:
    """Whether the call of a network tells where the image is in a layer that :func:`joined_before` is about."""
    block: Any = type(network.get_submodule(layer.rpartition(".")[0]))
    kind: Any = type(network)
    return not _OTHER_POSITIONS.search(layer) and (kind.__name__ in JOINED or _text_first(block) or _text_first(kind))


def joined_image(network: nn.Module, layer: str, arguments: Mapping[str, Any]) -> Place | None:
    """Where the image is in the sequence that a layer of :func:`joined_before` is given; None where that is not known,
    and for other layers.

    Args:
        arguments: of the network's call, by name.
    """
    if not joined_before(network, layer) or not tells_image(network, layer):
        return None
    if type(network).__name__ in JOINED:
        return JOINED[type(network).__name__](network, arguments)
    text = text_tokens(arguments)
    registers = getattr(network, "register_tokens", None)  # AuraFlow's, before its text
    return None if text is None else Place((text + (registers.shape[1] if isinstance(registers, Tensor) else 0),))


@lru_cache(maxsize=256)
def _text_first(kind: Any) -> bool:
    """Whether a class joins text and image as one sequence, in this order."""
    wanted = "torch.cat([encoder_hidden_states, hidden_states], dim=1)"
    return any(isinstance(node, ast.Call) and ast.unparse(node) == wanted for node in _source_of(kind))


def heads_of(part: Any) -> int:
    """How many heads a layer of attention has; 0 for other parts."""
    return int(getattr(part, "heads", 0) or getattr(part, "num_heads", 0))


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


def well_known(network: Any) -> bool:
    """Whether a network is of a class whose call is written down here: all its arguments with as many rows as samples
    are of the samples, and it is known which positions of its attention layers are of the image."""
    return type(inner_network(network)).__name__ in (*CALLED, *READERS)


def image_tokens(network: Any, x_t: Tensor, patches: bool = False) -> Tokens | None:
    """Where the positions of a picture are among those of an attention layer; None: not known.

    Args:
        patches: whether the network takes patches of the picture in a row.
    """
    patch = PATCH if patches else setting(network, "patch_size", 0)
    if x_t.ndim != 4 or not isinstance(patch, int):
        return None
    reader = READERS.get(type(inner_network(network)).__name__)
    text_first = reader is not None and reader.text_first
    return Tokens((x_t.shape[-2], x_t.shape[-1]), patch, text_first, alone=not well_known(network))
