"""How networks of diffusers are called: their arguments for text and labels, and what their configs say of sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.core.arguments import as_mapping, chosen
from fairlead.core.errors import UsageError, unknown
from fairlead.diffusers.positions import Place, Tokens
from fairlead.diffusers.pretrained import inner_network, setting

STATES, MASK, LABELS = "encoder_hidden_states", "encoder_attention_mask", "class_labels"
POOLED, POOLED_XL = "pooled_projections", "added_cond_kwargs.text_embeds"
"""Arguments for text and labels; those inside another one behind a dot."""


@dataclass(frozen=True)
class Called:
    """What a class of networks is given beside the sample and the time.

    Attributes:
        states: setting with the width of the text states it attends to; "" if it reads no text.
        masked: whether it takes a mask of the real tokens; else it reads padding too.
        pooled: setting with the width of a pooled vector that it takes beside the states, "" if it takes none.
        labels: setting with the number of its class embeddings; "" if it has none.
        labels_beyond: whether the table has one more row than the setting says, which is null; else the last row is.
        needs_label: whether it cannot be called without a label.
    """

    states: str = ""
    masked: bool = False
    pooled: str = ""
    labels: str = ""
    labels_beyond: bool = False
    needs_label: bool = False

    def texts(self) -> tuple[str, ...]:
        """Names of its arguments for text: states, mask, pooled vector."""
        pairs = ((STATES, self.states), (MASK, self.masked), (POOLED, self.pooled))
        return tuple(name for name, has in pairs if has)


CALLED: dict[str, Called] = {
    "UNet2DModel": Called(labels="num_class_embeds"),
    "UNet2DConditionModel": Called("cross_attention_dim", labels="num_class_embeds"),
    "DiTTransformer2DModel": Called(labels="num_embeds_ada_norm", labels_beyond=True, needs_label=True),
    "PixArtTransformer2DModel": Called("caption_channels", masked=True),
    "SanaTransformer2DModel": Called("caption_channels", masked=True),
    "SD3Transformer2DModel": Called("joint_attention_dim", pooled="pooled_projection_dim"),
}
"""The networks that can be trained from their configuration."""


def called(network: str) -> Called:
    """Of a class of networks.

    Raises:
        UsageError: for one that is not known here.
    """
    chosen("network of diffusers", network, CALLED)
    return CALLED[network]


def null_label(network: Any) -> int:
    """The index of the class embedding that stands for no class."""
    names = next(CALLED[base.__name__] for base in type(network).__mro__ if base.__name__ in CALLED)
    return int(setting(network, names.labels)) - (not names.labels_beyond)


def nested(flat: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """Arguments by path -> arguments of the call, on the device of ``like`` and, where floating, in its dtype."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        if isinstance(value, Tensor):
            value = value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        *outer, last = path.split(".")
        place = found.setdefault(outer[0], {}) if outer else found
        place[last] = value
    return found


def computes_in(part: Any) -> torch.dtype:
    """The dtype that a network of diffusers takes its inputs in: that of its weights, unless these are only stored in
    theirs (layerwise casting) or are no numbers (quantised)."""
    inside: Any = inner_network(part)
    dtype: torch.dtype = inside.dtype
    return dtype


def stored_lower(network: Any) -> bool:
    """Whether layers cast their weights for each call (layerwise casting), which no gradient gets through."""
    registries = (getattr(module, "_diffusers_hook", None) for module in inner_network(network).modules())
    return any("layerwise_casting" in getattr(registry, "hooks", {}) for registry in registries)


def check_differentiable(network: Any) -> None:
    """Raises UsageError for a network that no gradient gets through."""
    if stored_lower(network):
        raise UsageError(
            f"{type(inner_network(network)).__name__} casts its weights for each call (enable_layerwise_casting), so "
            "no gradient gets through it; load it without, or leave out terms that need one, such as energy"
        )


def latent_channels(network: Any, packed: bool = False) -> int:
    """Channels of the samples: fewer than the network's inputs where masks or images are stacked on them, fewer than
    its outputs where it predicts a variance too.

    Args:
        packed: whether it takes patches of 2 x 2 in a row (Flux).
    """
    inputs = setting(network, "in_channels")
    outputs = setting(network, "out_channels") or inputs
    if packed:
        return int(inputs) // 4
    return int(inputs if outputs == 2 * inputs else outputs)


def time_scale(network: Any, packed: bool = False) -> float:
    """What the network is given, over the scheduler's timestep."""
    return 1e-3 if packed else float(setting(network, "timestep_scale", 1.0))


def tokens_of(network: Any, size: tuple[int, int], packed: bool = False) -> Tokens:
    """Where its attention layers have the positions of latents of this height and width."""
    patch = 2 if packed else int(setting(network, "patch_size", 0))
    return Tokens(size, patch, text_first=packed)


def text_tokens(arguments: Mapping[str, Any]) -> int | None:
    """How many tokens of text a network is given in a call; None where it is given none, or in another form."""
    states = arguments.get(STATES)
    return states.shape[1] if isinstance(states, Tensor) and states.ndim > 2 else None


def _ernie_image(network: Any, arguments: Mapping[str, Any]) -> Place:
    """The image, then all tokens of the text."""
    size = _patches(arguments["hidden_states"], int(setting(network, "patch_size")))
    return Place((0,), size[0] * size[1], size)


def _lumina2(network: Any, arguments: Mapping[str, Any]) -> Place:
    """The real tokens of each sample's text, its image, and padding."""
    size = _patches(arguments["hidden_states"], int(setting(network, "patch_size")))
    return Place(tuple(arguments[MASK].sum(1).int().tolist()), size[0] * size[1], size)


def _z_image(network: Any, arguments: Mapping[str, Any]) -> Place | None:
    """The image, tokens that fill it up to a multiple of 32, and the text; other images (Omni) come in nested lists."""
    x = arguments["x"]
    if not all(isinstance(part, Tensor) and part.shape == x[0].shape for part in x):
        return None
    frames = x[0].shape[1] // arguments.get("f_patch_size", 1)
    size = _patches(x[0], arguments.get("patch_size", 2))
    return Place((0,), frames * size[0] * size[1], size if frames == 1 else None)


def _patches(x: Tensor, edge: int) -> tuple[int, int]:
    return x.shape[-2] // edge, x.shape[-1] // edge


JOINED: dict[str, Callable[[Any, Mapping[str, Any]], Place | None]] = {
    "ErnieImageTransformer2DModel": _ernie_image,
    "Lumina2Transformer2DModel": _lumina2,
    "ZImageTransformer2DModel": _z_image,
}
"""Networks that make text and image one sequence in another order than text first -> where the image is in it, from a
network and the arguments of its call."""


def settings_of(network: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings ``given`` of a class of networks without the library's notes, "_class_name" and such.

    Args:
        known: its arguments.

    Raises:
        UsageError: for settings of another class, and those that it does not have.
    """
    given = as_mapping(f"settings of {network}", given)
    of = given.get("_class_name", network)
    if of != network:
        raise UsageError(f"these settings are of {of}, the network is {network}; give those of one")
    found = {name: value for name, value in given.items() if not name.startswith("_")}
    for name in found:
        if name not in known:
            raise unknown(f"setting of {network}", name, known)
    return found
