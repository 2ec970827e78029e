"""The conditions of training batches: labels, attributes and text, looked up by the indices of the samples.

Text is encoded once, each different caption one time; what a pretrained encoder made is kept on disk for the next run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.data.degrade import DRAWS, Degradation, read_degradation
from fairlead.data.images import ImageData, stream
from fairlead.data.tensor_cache import cached
from fairlead.data.text import TextEncoder, encoder_from_config, make_encoder
from fairlead.nets.inputs import condition_names
from fairlead.train.checkpoint import find_checkpoint, step_folder, steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.reading import values_of

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class DataConditions:
    """What a network reads of the samples of a set.

    Attributes:
        labels: name -> int64 [n], -1 where the condition does not apply to a sample: it is then null.
        text: one row for each different caption, None: no text.
        caption: int64 [n, k], the rows of each sample's captions, the last ones repeated where it has fewer.
        captions: int64 [n], how many it has; None: one each.
        image: what is shown of the images themselves.
    """

    labels: Mapping[str, Tensor]
    text: Tensor | None = None
    caption: Tensor | None = None
    image: Degradation | None = None
    captions: Tensor | None = None

    @classmethod
    def of(
        cls,
        data: ImageData,
        net: Mapping[str, Any],
        text: Mapping[str, Any],
        image: str = "",
    ) -> DataConditions:
        """
        Args:
            net: configuration of the network.
            text: configuration of the text encoder, {} if there is none.
            image: spec of the image condition, "" if there is none.

        Raises:
            UsageError: if the network reads what the data or the encoder does not give.
        """
        names = condition_names(net)
        labels = {"label": data.labels} if "label" in names else {}
        for name, count in (net.get("attributes") or {}).items():
            if name not in data.attributes:
                raise unknown(f"attribute of data {data.name!r}", name, data.attributes)
            attribute = data.attributes[name]
            if len(attribute.values) != count:
                raise UsageError(
                    f"attribute {name!r} of data {data.name!r} has {len(attribute.values)} values, the network is made "
                    f"for {count}"
                )
            labels[name] = attribute.labels
        if ("text" in names) != bool(text):
            raise UsageError(
                "a network that reads text and a text encoder go together: got "
                f"{'no ' if 'text' not in names else ''}text in the network, {'an' if text else 'no'} encoder"
            )
        kind = read_degradation(image) if image else None
        if (kind.channels(data.shape[0]) if kind is not None else 0) != (net.get("image") or 0):
            raise UsageError(
                f"image condition {image or 'none'}: the network is made for {net.get('image') or 0} channels; make it "
                "with what asked(...) returns"
            )
        if not text:
            return cls(labels, image=kind)
        if not data.captions:
            raise UsageError(f"data {data.name!r} has no captions to train on; take a captioned set, such as scenes")
        encoder = encoder_from_config(text)
        made, gives = net["text"], _text_net(encoder, data)
        unlike = [name for name in ("width", "length", "vocabulary") if made.get(name, 0) != gives.get(name, 0)]
        if unlike:
            raise UsageError(
                f"the text encoder gives {_sizes(gives)}, the network is made for {_sizes(made)}; make it with what "
                "asked(...) returns"
            )
        for name in ("frozen", "sketch", "says"):
            mine, theirs = made.get(name) or None, gives.get(name) or None
            if mine != theirs and not (name == "says" and mine is None):  # a sketch may be of the vector as it is
                raise UsageError(
                    f"the text of the network has {name}={mine!r}, data {data.name!r} and the text encoder give "
                    f"{theirs!r}; make it with what asked(...) returns"
                )
        sentences = [data.sentences(i) for i in range(len(data))]
        different = sorted({sentence for own in sentences for sentence in own})
        row = {sentence: i for i, sentence in enumerate(different)}
        counts = torch.tensor([len(own) for own in sentences])
        most = int(counts.max())
        index = torch.tensor([[row[own[min(k, len(own) - 1)]] for k in range(most)] for own in sentences])
        states = encoded_prompts(encoder, different)
        return cls(labels, states, index, kind, counts if most > 1 else None)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """A row for each caption of each sample, in order: the sample and the row of ``text``, int64 [p] each."""
        assert self.caption is not None
        counts = torch.ones(len(self.caption), dtype=torch.int64) if self.captions is None else self.captions
        sample = torch.arange(len(counts)).repeat_interleave(counts)
        turn = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
        return sample, self.caption[sample, turn]

    def at(
        self,
        index: Tensor,
        x0: Tensor | None = None,
        draws: Tensor | None = None,
        which: Tensor | None = None,
    ) -> Condition:
        """The condition of the samples at ``index`` (int64 [b]).

        Args:
            x0: the images of those samples [b, c, s, s], and ``draws`` of theirs, uniform [b, DRAWS]; needed where
                something is shown of the images.
            which: uniform [b] in [0, 1), decides among the captions of a sample; None: its first.
        """
        values = {name: labels[index] for name, labels in self.labels.items()}
        keep = {name: value >= 0 for name, value in values.items()}
        values = {name: value.clamp(min=0) for name, value in values.items()}
        if self.text is not None and self.caption is not None:
            turn = torch.zeros(len(index), dtype=torch.int64)
            if which is not None and self.captions is not None:
                turn = (which * self.captions[index]).long()
            rows = self.text[self.caption[index, turn]]
            values["text"] = rows.float() if rows.is_floating_point() else rows
            keep["text"] = torch.ones(len(index), dtype=torch.bool)
        if self.image is not None:
            assert x0 is not None
            assert draws is not None
            values["image"] = self.image.of(x0, draws)
            keep["image"] = torch.ones(len(index), dtype=torch.bool)
        return Condition(len(index), values, keep)

    def drawn(
        self, index: Tensor, x0: Tensor, config: TrainConfig, step: int, rank: int = 0, world: int = 1
    ) -> Condition:
        """The condition of the samples at ``index``, with images ``x0``, that are this process's share of a training
        step: what is shown of each is a pure function of (seed, step)."""

        def share(purpose: str, *each: int) -> Tensor:
            generator = stream(purpose, config.seed, step)
            return torch.rand(config.batch_size, *each, generator=generator).chunk(world)[rank]

        draws = None if self.image is None else share("image condition", DRAWS)
        which = None if self.captions is None else share("caption")
        return self.at(index, x0, draws, which)


def asked(
    data: ImageData,
    names: Sequence[str],
    text: str = "words",
    null: str = "learned",
    settings: Mapping[str, Any] | None = None,
    image: str = "superres",
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """What a network on ``data`` needs to be conditioned on ``names`` ("label", "text", "image", attributes of the
    data).

    Args:
        text: spec of the text encoder, see :func:`fairlead.data.text.make_encoder`; ``settings`` are its settings.
        null: what stands for no text, "learned" or "empty".
        image: what "image" shows, see :mod:`fairlead.data.degrade`.

    Returns:
        classes, further arguments of ``net_config``, configuration of the text encoder ({}: no text).

    Raises:
        UsageError: for a condition that the data does not give, or one given twice.
    """
    known = ["label", *(["text"] if data.captions else []), "image", *data.attributes]
    for name in names:
        if name == "text" and not data.captions:
            raise UsageError(f"data {data.name!r} has no captions to train text on; take a captioned set, e.g. scenes")
        if name not in known:
            raise unknown(f"condition of data {data.name!r}", name, known)
    if len(set(names)) < len(names):
        raise UsageError(f"conditions {', '.join(names)}: one is given twice; give each once")
    changes: dict[str, Any] = {}
    attributes = {name: len(data.attributes[name].values) for name in names if name not in ("label", "text", "image")}
    if attributes:
        changes["attributes"] = attributes
    config: dict[str, Any] = {}
    if "image" in names:
        kind = read_degradation(image)
        kind.of(torch.zeros(1, *data.shape), torch.zeros(1, DRAWS))  # refuses sizes that it cannot have
        changes["image"] = kind.channels(data.shape[0])
    if "text" in names:
        corpus = [sentence for i in range(len(data)) for sentence in data.sentences(i)]
        encoder = make_encoder(text, corpus, **(settings or {}))
        config = encoder.config()
        changes["text"] = {**_text_net(encoder, data), "null": null}
    return (len(data.classes) if "label" in names else 0), changes, config


def rule_of_words(run: Path) -> dict[str, Any]:
    """The setting of the text encoder "words" with which a run in this folder, if there is one, can be resumed."""
    if not (steps := steps_of(run)):
        return {}
    text = find_checkpoint(step_folder(run, steps[-1])).about["train"].get("text") or {}
    return {"rule": text.get("rule", "letters")} if text.get("name") == "words" else {}


def _text_net(encoder: TextEncoder, data: ImageData) -> dict[str, Any]:
    """Arguments of the network's ``TextInput``: the encoder's own, and what a sketch knows of the data."""
    net = encoder.net()
    says = [values_of(attribute) for attribute in data.attributes.values()] if net.get("sketch") else []
    return net | ({"says": says} if says else {})


def _sizes(text: Mapping[str, Any]) -> str:
    words = f", {text['vocabulary']} token ids" if text.get("vocabulary") else ""
    return f"{text.get('length')} tokens of width {text.get('width')}{words}"


def encoded_prompts(
    encoder: TextEncoder,
    prompts: Sequence[str],
    folder: Path | None = None,
) -> Tensor:
    """What ``encoder`` makes of ``prompts``: ids as they are; states as float16, from the cache where they are there.

    Args:
        folder: of the cache, see :func:`fairlead.data.tensor_cache.cached`.
    """
    if encoder.net().get("vocabulary"):
        return encoder(prompts)
    shape = (len(prompts), 1 + encoder.length, encoder.width + 1)

    def make() -> Tensor:
        states = torch.empty(shape, dtype=torch.float16)
        for start in range(0, len(prompts), _CHUNK):
            part = encoder(prompts[start : start + _CHUNK])
            states[start : start + len(part)] = part.to(torch.float16)
        return states

    return cached("text", [encoder.config(), list(prompts)], shape, torch.float16, make, folder)
