"""What networks share of their conditions: a class, further attributes, text, an image; each with a null of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairlead.core.arguments import shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.core.typed import check_arguments
from fairlead.nets.embeddings import LabelEmbedding, ScaleEmbedding, TimeEmbedding, read
from fairlead.nets.text_attention import TextInput, TokenStates

RESERVED = ("label", "text", "image", "scale")


class ImageInput(nn.Module):
    """The condition "image", float [n, channels, h, w] of the size of x: joined to the input, or one learned value a
    channel where it is not kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(channels))

    def forward(self, condition: Condition, x: Tensor) -> Tensor:
        value, keep = read(condition, "image")
        wanted = (len(self.null), *x.shape[2:])
        if tuple(value.shape[1:]) != wanted:
            raise UsageError(f"image condition: expected {list(wanted)} per sample, got {list(value.shape[1:])}")
        null = self.null.to(x.dtype)[:, None, None]
        return torch.cat([x, torch.where(keep[:, None, None, None], value.to(x.dtype), null)], dim=1)


class Fusion(nn.Module):
    """([n, embed] of the time, [n, embed] of the label) -> [n, embed]: both concatenated, through a two-layer MLP, of
    which their sum is a special case."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * embed, embed), nn.SiLU(), nn.Linear(embed, embed))

    def forward(self, time: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.mlp(torch.cat([time, label.to(time.dtype)], dim=1))
        return out


class ConditionedNet(nn.Module):
    """A network of noisy images, given the time and the conditions that its arguments ask for.

    Args:
        embed: width of the time embedding, to which label, attributes and pooled text are added.
        classes: number of values of the condition "label"; 0: not a condition.
        label_width: of the label's embedding.
        attributes: name -> number of values, for further conditions like a label.
        text: arguments of :class:`TextInput`, "sketch" true or false; None: no text.
        image: channels of the condition "image"; 0: not a condition.
        scale: lowest and highest value of the condition "scale", see :class:`ScaleEmbedding`; None: not a condition.
        shape: (channels, (height, width)) of the noisy images.
        fuse: whether the label's embedding is fused with that of the time by an MLP, in place of added.
    """

    def __init__(
        self,
        embed: int,
        classes: int,
        label_width: int | None = None,
        attributes: Mapping[str, int] | None = None,
        text: Mapping[str, Any] | None = None,
        image: int = 0,
        scale: Sequence[float] | None = None,
        *,
        shape: tuple[int, tuple[int, int]],
        fuse: bool = False,
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(embed)
        one_hot = label_width is not None
        self.label = LabelEmbedding(classes, label_width or embed, one_hot=one_hot) if classes else None
        if fuse and not classes:
            raise UsageError(
                "conditioning 'fuse' joins a label's embedding to that of the time, and the network is not conditioned "
                "on a "
                "label; add label to its conditions, or take another conditioning"
            )
        self.fusion = Fusion(embed) if fuse else None
        taken = set(attributes or {}) & set(RESERVED)
        if taken:
            raise UsageError(f"attributes: {sorted(taken)[0]!r} is the name of another condition; rename it")
        self.attributes = nn.ModuleDict(
            {name: LabelEmbedding(count, embed, name) for name, count in (attributes or {}).items()}
        )
        if text and text.get("zeros"):
            raise UsageError(
                "the text encoder sd3 is for networks of Stable Diffusion 3; give clip:SOURCE to a network of ours"
            )
        sketched = bool(text and text.get("sketch"))
        self.text = None
        if text:
            settings = {**text, "embed": embed, "sketch": shape if sketched else None}
            check_arguments(TextInput, settings, "text")
            self.text = TextInput(**settings)
        self.image = ImageInput(image) if image else None
        if scale is not None and len(scale) != 2:
            raise UsageError(f"scale: expected its lowest and highest value, got {shown(scale)}")
        self.scale = ScaleEmbedding(scale[0], scale[1], embed) if scale is not None else None
        self.joined = image + (shape[0] if sketched else 0)

    def joint(self, time: Tensor, label: Tensor) -> Tensor:
        """One embedding [n, embed] of both: fused where there is a ``fusion``, else their sum."""
        return time + label if self.fusion is None else self.fusion(time, label)

    def embedded(self, condition: Condition, x: Tensor) -> tuple[Tensor, list[Tensor], TokenStates | None]:
        """(x with the ``joined`` channels of its conditions; what attributes, scale and text add to the embedding,
        each [n, embed]; states for cross-attention)."""
        vectors = [embedding(condition) for embedding in self.attributes.values()]
        if self.scale is not None:
            vectors.append(self.scale(condition))
        if self.image is not None:
            x = self.image(condition, x)
        if self.text is None:
            return x, vectors, None
        encoded = self.text(condition)
        if encoded.sketch is not None:
            x = torch.cat([x, encoded.sketch.to(x.dtype)], dim=1)
        negative = None if condition.negative is None else self.text(condition.negative)
        away = None if negative is None else TokenStates(negative.states, negative.real)
        return x, [*vectors, encoded.vector], TokenStates(encoded.states, encoded.real, away)

    def embed(self, condition: Condition) -> Condition:
        """The condition with labels and token ids replaced by their embeddings, and with a scale where there is one."""
        condition = condition if self.scale is None else self.scale.embed(condition)
        labels = [part for part in (self.label, *self.attributes.values()) if isinstance(part, LabelEmbedding)]
        for part in labels:
            condition = part.embed(condition)
        return condition if self.text is None else self.text.embed(condition)

    def null_tokens(self) -> dict[str, Tensor]:
        """The network's own null token of each condition that may have another (``Condition.null``), of one sample."""
        labels = [part for part in (self.label, *self.attributes.values()) if isinstance(part, LabelEmbedding)]
        found: dict[str, Tensor] = {part.name: part.null.detach() for part in labels}
        return found if self.text is None else {**found, "text": self.text.null_token()}


def condition_names(net: Mapping[str, Any]) -> list[str]:
    """The conditions that a network of this configuration reads of the data. (The scale of a guidance is none of them:
    the term ``distilled`` gives it.)"""
    found = [
        name for name, argument in (("label", "classes"), ("text", "text"), ("image", "image")) if net.get(argument)
    ]
    attributes = net.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise UsageError(f"network: attributes is {shown(attributes)}, expected the number of values of each, by name")
    return [*found, *attributes]
