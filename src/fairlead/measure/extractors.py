"""What turns images into features: pretrained networks, the classifier of a data set, a random network.

Two distances compare only under the same extractor, so its name carries a hash of the weights and one of the
preprocessing: ``dinov2:dinov2-small-d384@0123456789ab/01234567``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fairlead.core.errors import UsageError
from fairlead.core.registry import lookup
from fairlead.core.strict_json import read_json
from fairlead.data.hub import load_data
from fairlead.data.images import ImageData, to_float
from fairlead.data.tensor_cache import cached, digest
from fairlead.diffusers.pretrained import fetched, library, pretrained, quiet, weight_hash
from fairlead.measure.judge import Classifier, cached_classifier
from fairlead.measure.preprocessing import SETTINGS, prepared, resized
from fairlead.models.load import usable_device

DINOV2 = "facebook/dinov2-small"
CLIP = "openai/clip-vit-base-patch32"
RANDOM_SEED = 60_303
RANDOM_VERSION = 1
"""Raise it whenever a change below changes the features of :func:`random`."""

_PIXELS = 2**24
"""At most so many input values are held as float32 at once (64 MB), however large the images are."""


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """What a network makes of some texts.

    Attributes:
        values: float [m, d], a row per text.
        truncated: how many of the texts are longer than the network reads, and were cut.
        name: of the network with a hash of its weights, for protocols.
    """

    values: Tensor
    truncated: int
    name: str


@dataclass(frozen=True, eq=False)
class Extractor:
    """Maps images of any size to ``d`` features.

    Attributes:
        kind: as registered: "dinov2", "clip", "inception", "efficientnet", "classifier" or "random".
        name: kind, source, d and hashes of weights and preprocessing; for protocols and the feature cache.
        d: number of features.
        embed: uint8 [m, c, h, w] with c = 1 or 3 -> float [m, d].
        chunk: images that ``embed`` gets at once, at most.
        texts: texts -> their features beside those of the images, for the cosine of an image and its prompt; None for
            networks that read no text.
    """

    kind: str
    name: str
    d: int
    embed: Callable[[Tensor], Tensor]
    chunk: int = 64
    texts: Callable[[Sequence[str]], TextFeatures] | None = None

    @property
    def distance(self) -> str:
        """What the Fréchet distance of these features is called: "FID" under the Inception weights alone."""
        return "FID" if self.kind == "inception" else "Fréchet distance"

    def features(self, images: Tensor, progress: Callable[[int], object] | None = None) -> Tensor:
        """float32 [n, d] on the CPU of ``images`` uint8 [n, c, h, w], c = 1 or 3; no gradients.

        Args:
            progress: called with the number of images of each chunk that is done.

        Raises:
            UsageError: for images of another form, or features that are not finite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
            raise UsageError(
                f"extractor {self.kind!r}: expected uint8 images [n, 1 or 3, h, w], got {images.dtype} "
                f"{list(images.shape)}; quantise to uint8 first"
            )
        at_once = max(1, min(self.chunk, _PIXELS // (3 * math.prod(images.shape[2:]))))
        parts = []
        with torch.no_grad():
            for part in torch.split(images, at_once):
                parts.append(self.embed(part).to("cpu", torch.float32))
                if progress is not None:
                    progress(len(part))
        found = torch.cat(parts)
        if not bool(found.isfinite().all()):
            raise UsageError(f"extractor {self.name!r} gives features that are not finite; its weights are damaged")
        return found


def cached_features(
    extractor: Extractor,
    images: Tensor,
    folder: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """float32 [n, d], as ``extractor.features(images)``, computed once for the values of ``images`` uint8 [n, c, h, w].

    Args:
        folder: see :func:`fairlead.data.tensor_cache.cached`.
        progress: called with a number of images as they are done; not at all when the features are read.
    """
    shape = len(images), extractor.d
    return cached(
        f"features-{extractor.kind}",
        [extractor.name, list(images.shape), digest(images)],
        shape,
        torch.float32,
        lambda: extractor.features(images, progress).contiguous(),
        folder,
    )


def extractor(text: str, data: ImageData | None = None, device: str | torch.device = "auto") -> Extractor:
    """The extractor that ``text`` names: KIND or KIND:ARGUMENT.

    Args:
        text: ``dinov2``, ``clip`` (or ``dinov2:NAME`` with a hub name or a folder), ``inception``, ``efficientnet``,
            ``classifier:DATA``, ``random``.
        data: what ``classifier`` without an argument was trained on, or is trained on now.
        device: "auto" takes a GPU when there is one; ``classifier`` stays on the CPU.

    Raises:
        UsageError: for an unknown kind, an argument that fits nothing, or weights that cannot be had.
    """
    kind, _, argument = text.strip().partition(":")
    made: Extractor = lookup("extractor", kind)(argument, data, usable_device(device))
    return made


def default_extractor(device: str | torch.device = "auto") -> tuple[Extractor, str]:
    """``dinov2`` where its weights are at hand or can be downloaded, else ``random``; and a sentence that says why."""
    try:
        made = extractor("dinov2", device=device)
        return made, f"features: {made.name}, the default"
    except UsageError as error:
        made = extractor("random", device=device)
        return made, f"features: {made.name}, because {str(error).partition(';')[0]}"


def dinov2(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """DINOv2 (Oquab et al. 2023, 2304.07193): the class token after the last norm.

    As features for a Fréchet distance: Stein et al. 2023, 2306.04675.
    """
    return _transformer("dinov2", argument or DINOV2, "AutoModel", "pooler_output", device)[0]


def clip(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """CLIP (Radford et al. 2021, 2103.00020): the projected image embedding, not normalised; texts likewise."""
    made, folder = _transformer("clip", argument or CLIP, "CLIPVisionModelWithProjection", "image_embeds", device)
    return replace(made, texts=partial(_clip_texts, folder))


def classifier(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """The cached feature classifier of a data set: ``cached_classifier(data, "features")``.

    Images of another shape are brought to that of the data set, see :func:`fitted`.
    """
    if not argument and data is None:
        raise UsageError("features 'classifier': no data set; say which, e.g. classifier:digits")
    data = load_data(argument) if argument else data
    assert data is not None
    return of_classifier(cached_classifier(data, "features"))


def of_classifier(network: Classifier) -> Extractor:
    """What ``network.features`` gives, of images of any shape."""

    def embed(images: Tensor) -> Tensor:
        return network.features(fitted(images, network.data.shape))

    return Extractor("classifier", f"classifier:{network.name}", network.recipe.features, embed, chunk=512)


def random(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    """A fixed convolutional network with random orthogonal weights, d = 64: needs no download and knows nothing.

    Random embeddings tell distributions apart where pretrained ones do not fit the images (Naeem et al. 2020,
    2002.09797). Images are resized to 64 x 64: detail finer than that is not seen. The weights are drawn in float64
    from a seeded generator and rounded to multiples of 2^-16, so that they are the same on every machine.
    """
    if argument:
        raise UsageError(f"features 'random' take no argument, got {argument!r}; write random")
    network = _random_network().to(device)

    def embed(images: Tensor) -> Tensor:
        found: Tensor = network(to_float(resized(coloured(images).to(device), (64, 64))))
        return found

    name = f"random:cnn-d64-s{RANDOM_SEED}@{weight_hash(network)}/bicubic-64-v{RANDOM_VERSION}"
    return Extractor("random", name, 64, embed, chunk=256)


def fitted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [n, c, h, w] -> uint8 [n, *shape]: grey to three channels or colour to grey (ITU-R 601 luma), resized."""
    images = coloured(images) if shape[0] == 3 else _grey(images)
    return images if images.shape[2:] == shape[1:] else resized(images, shape[1:]).to(torch.uint8)


def _transformer(kind: str, source: str, model: str, output: str, device: torch.device) -> tuple[Extractor, Path]:
    """The extractor and the folder of its files."""
    other = ", which embeds no text" if kind == "clip" else ""
    instead = f", as in {kind}:PATH, or use --features random{other}"
    folder = fetched(source, f"features {kind!r}", (SETTINGS,), instead)
    network = pretrained(folder, model, f"features {kind!r}").to(device)
    try:
        settings = read_json(folder / SETTINGS)
    except (OSError, ValueError) as error:
        raise UsageError(f"features {kind!r}: {folder / SETTINGS} cannot be read ({error})") from error
    prepare = prepared(settings, f"features {kind!r}")

    def embed(images: Tensor) -> Tensor:
        found = getattr(network(pixel_values=prepare(coloured(images).to(device))), output, None)
        if found is None:
            raise UsageError(f"features {kind!r}: the network in {source!r} has no {output}; expected a {kind} model")
        return found  # type: ignore[no-any-return]

    probe = embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    label = re.sub(r"[^\w.-]", "_", source.rstrip("/").split("/")[-1])
    name = f"{kind}:{label}-d{probe.shape[1]}@{weight_hash(network)}/{prepare.hash}"
    return Extractor(kind, name, probe.shape[1], embed), folder


def _clip_texts(folder: Path, texts: Sequence[str]) -> TextFeatures:
    """The projected text embeddings of the CLIP in ``folder``, on the CPU."""
    what = "prompts"
    network = pretrained(folder, "CLIPTextModelWithProjection", what)
    try:
        with quiet():
            tokens = library(what).AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # json, the library's own checks
        raise UsageError(f"{what}: the tokens of {folder} cannot be loaded ({one_line(error)[:160]})") from error
    limit = int(network.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
    with quiet():
        truncated = sum(len(ids) > limit for ids in tokens(list(texts))["input_ids"])
    parts = []
    for start in range(0, len(texts), 64):
        batch = tokens(
            list(texts[start : start + 64]), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.no_grad():
            parts.append(network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).text_embeds)
    return TextFeatures(torch.cat(parts), truncated, f"clip-text@{weight_hash(network)}")


def _random_network() -> nn.Module:
    generator = torch.Generator().manual_seed(RANDOM_SEED)

    def orthogonal(layer: nn.Conv2d | nn.Linear, gain: float) -> nn.Module:
        rows, columns = len(layer.weight), layer.weight[0].numel()
        q, r = torch.linalg.qr(torch.randn(columns, rows, generator=generator, dtype=torch.float64))
        weight = (q * r.diagonal().sign()).T * gain
        layer.weight.data = (torch.round(weight * 2**16) / 2**16).to(torch.float32).reshape(layer.weight.shape)
        return layer

    def stage(before: int, after: int) -> list[nn.Module]:
        return [orthogonal(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), 2**0.5), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):  # the layers' own initialisation is thrown away
        last = orthogonal(nn.Linear(128 * 16, 64, bias=False), 1.0)
        stages = [*stage(3, 24), *stage(24, 64), *stage(64, 128)]
        network = nn.Sequential(*stages, nn.AvgPool2d(2), nn.Flatten(), last)
    return network.requires_grad_(False).eval()


def coloured(images: Tensor) -> Tensor:
    """Images [n, 1 or 3, h, w] with three channels."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    luma = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return (images.to(torch.float32) * luma).sum(dim=1, keepdim=True).round().clamp(0, 255).to(torch.uint8)


def one_line(error: Exception) -> str:
    """What an error of a library says, for a message of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
