"""How well an image fits a text, and how much people would like it, by pretrained networks of transformers.

    similarity("a red seven")                           cosine by CLIP (2103.00020)
    similarity("a red seven", "FOLDER or HUB/NAME")     by another CLIP or SigLIP
    preference("yuvalkirstain/PickScore_v1")            PickScore (2305.01569): the prompt of each sample
    preference("HUB/NAME", of_class="liked")            log-probability of a class of an image classifier

``similarity`` lies in [-1, 1] and is 0.1 to 0.4 for CLIP in practice, so it takes a large weight:
``100 * similarity("a red seven")``. A preference is the network's own logit. Both are differentiable, with the
network's preprocessing done without rounding. Networks come from a folder or the hub's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.arguments import shown
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError, unknown
from fairlead.core.strict_json import read_json
from fairlead.diffusers.pretrained import fetched, library, pretrained, quiet
from fairlead.guide.moment import Context
from fairlead.guide.rewards.reward import Fn, Reward
from fairlead.measure.extractors import CLIP, coloured, one_line
from fairlead.measure.preprocessing import SETTINGS, Preparation, prepared
from fairlead.measure.references import text_of


@dataclass(frozen=True, eq=False)
class TextAndImage:
    """A network that embeds images and texts in one space.

    Attributes:
        network: in evaluation mode, without gradients of its own.
        prepare: from pixels to what it sees.
        folder: of its files.
    """

    network: nn.Module
    prepare: Preparation
    folder: Path

    def images(self, x: Tensor) -> Tensor:
        """Unit embeddings [n, d] of float images [n, 1 or 3, h, w] in [-1, 1], differentiable."""
        found = _tensor(self.network.get_image_features(pixel_values=self.prepare.unrounded(coloured(x))))  # type: ignore[operator]
        return F.normalize(found, dim=1)

    def texts(self, texts: Sequence[str], what: str) -> Tensor:
        """Unit embeddings [m, d].

        Raises:
            UsageError: for a text that is longer than the network reads.
        """
        try:
            with quiet():
                tokens = library(what).AutoTokenizer.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # json, the library's own checks
            raise UsageError(
                f"{what}: the tokens of {self.folder} cannot be loaded ({one_line(error)[:160]})"
            ) from error
        settings: Any = self.network.config
        limit = int(settings.text_config.max_position_embeddings)
        with quiet():
            long = next((text for text in texts if len(tokens(text)["input_ids"]) > limit), None)
        if long is not None:
            raise UsageError(f"{what}: the network reads {limit} tokens, {shown(long)} has more; shorten it")
        given = tokens(list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            found = _tensor(self.network.get_text_features(**given.to(next(self.network.parameters()).device)))  # type: ignore[operator]
        return F.normalize(found, dim=1)

    @property
    def scale(self) -> tuple[Tensor, Tensor | float]:
        """What makes a logit of a cosine: factor and bias."""
        bias: Any = getattr(self.network, "logit_bias", 0.0)
        return self.network.logit_scale.exp(), bias  # type: ignore[operator]


@dataclass(frozen=True)
class Similarity(Reward):
    """``similarity("a red seven")``: the cosine of image and text by CLIP, differentiable.

    Attributes:
        text: None for the prompt of each sample.
        network: a folder or hub name of a CLIP or SigLIP.
    """

    text: str | None = None
    network: str = CLIP
    name: ClassVar[str] = "similarity"

    def __post_init__(self) -> None:
        _check_texts(self.name, text=self.text, network=self.network)

    def of(self, on: Context) -> Fn:
        return _cosine(str(self), self.network, self.text, on, lambda cosine, both: cosine)

    def check(self, on: Context) -> None:
        super().check(on)
        self.of(on)

    def needs_condition(self) -> bool:
        return self.text is None


@dataclass(frozen=True)
class Preference(Reward):
    """``preference("yuvalkirstain/PickScore_v1")``: what a model of human preference gives an image, differentiable.

    Attributes:
        network: a folder or hub name: a CLIP or SigLIP, as PickScore is, or a classifier of images.
        text: what a CLIP compares the image with; None for the prompt of each sample.
        of_class: the class of a classifier whose log-probability is the reward; None if it has a single output.
    """

    network: str
    text: str | None = None
    of_class: str | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "preference"

    def __post_init__(self) -> None:
        _check_texts(self.name, text=self.text, network=self.network, of_class=self.of_class)

    def of(self, on: Context) -> Fn:
        network, device = self.network, on.model.device
        if _classifies(network, self.name):
            return self._of_classifier(device)
        if self.of_class is not None:
            raise UsageError(f"{self}: this network compares image and text, it has no classes; leave of_class out")

        def logit(cosine: Tensor, both: TextAndImage) -> Tensor:
            factor, bias = both.scale
            return factor * cosine + bias

        return _cosine(str(self), network, self.text, on, logit)

    def _of_classifier(self, device: torch.device) -> Fn:
        if self.text is not None:
            raise UsageError(f"{self}: this network sees images only; leave the text out")
        network, prepare, _ = _loaded(self.network, "AutoModelForImageClassification", self.name, str(device))
        names: dict[int, str] = network.config.id2label  # type: ignore[union-attr, assignment]
        if self.of_class is None and len(names) > 1:
            raise UsageError(f"{self}: the network knows {', '.join(names.values())}; say of_class=... which counts")
        if self.of_class is not None and self.of_class not in names.values():
            raise unknown(f"class of {self}", self.of_class, names.values())
        place = None if self.of_class is None else [*names.values()].index(self.of_class)

        def liked(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
            logits: Tensor = network(pixel_values=prepare.unrounded(coloured(x0))).logits
            return logits[:, 0] if place is None else logits.log_softmax(1)[:, place]

        return liked

    def check(self, on: Context) -> None:
        super().check(on)
        self.of(on)

    def needs_condition(self) -> bool:
        return self.text is None and not _classifies(self.network, self.name)


def _cosine(
    what: str, source: str, text: str | None, on: Context, then: Callable[[Tensor, TextAndImage], Tensor]
) -> Fn:
    """A function of the cosine of each image with the text, or with its own prompt."""
    both = TextAndImage(*_loaded(source, "AutoModel", what.partition("(")[0], str(on.model.device)))
    if not all(hasattr(both.network, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
        raise UsageError(
            f"{what}: the network in {source!r} does not compare images and texts; expected a CLIP or SigLIP"
        )
    if text is None and len(on.specs) != on.condition.n:
        raise UsageError(f"{what} reads the prompts of a run: sample with fl.sample, or give a text")
    texts = [text] * on.condition.n if text is not None else [text_of(on.model, spec) for spec in on.specs]
    different = list(dict.fromkeys(texts))
    rows = torch.tensor([different.index(one) for one in texts])
    wanted = both.texts(different, what)[rows.to(on.model.device)]

    def compared(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return then((both.images(x0) * wanted).sum(1), both)

    return compared


@lru_cache(maxsize=4)
def _loaded(source: str, model: str, what: str, device: str) -> tuple[nn.Module, Preparation, Path]:
    folder = fetched(source, what, (SETTINGS,))
    network = pretrained(folder, model, what).to(device)
    return network, prepared(_settings(folder, SETTINGS, what), what), folder


def _classifies(source: str, what: str) -> bool:
    """Whether the network is a classifier of images."""
    architectures = _settings(fetched(source, what, (SETTINGS,)), "config.json", what).get("architectures") or [""]
    return str(architectures[0]).endswith("ForImageClassification")


def _settings(folder: Path, file: str, what: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(folder / file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what}: {folder / file} cannot be read ({error})") from error
    return found


def _tensor(found: Any) -> Tensor:
    """Newer versions of transformers return the embeddings inside of an output."""
    embedded: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embedded


def _check_texts(owner: str, **given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, str | None) or (value is None and name == "network") or value == "":
            raise UsageError(f"{owner}: expected {name} to be text, got {shown(value)}")
