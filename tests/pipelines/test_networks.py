"""Layers are perturbed in every network of diffusers, as by hand, or refused in a line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead.core.condition import Perturbation
from fairlead.core.errors import UsageError
from fairlead.diffusers.network_calls import CALLED, tokens_of
from fairlead.diffusers.perturbation import check_reachable, layers_of, perturbing
from tests.pipelines.families import apart
from tests.pipelines.networks import ALL, FIRST, LAST, NETWORKS, NONE, OTHERS, Net

ROWS = torch.tensor([True, False])
"""Of the two samples the one that is perturbed."""
CLOSE = 1e-4


WITHOUT_BLOCKS = ("UNet2DModel", "HiDreamImageTransformer2DModel", "ErnieImageTransformer2DModel")
"""Networks that have none, or whose blocks do not pass on what they are given."""
COUNTED = ("ChromaTransformer2DModel", "LatteTransformer3DModel", "UNetSpatioTemporalConditionModel")
"""Networks that go through other things with as many entries as blocks: modulations, blocks over time."""


def answer(network: nn.Module, net: Net, perturbation: Perturbation | None = None, rows: Tensor = ROWS) -> Tensor:
    """What a network returns for two samples, [2, ...]."""
    name = type(network).__name__
    tokens = tokens_of(network, (8, 8)) if name in CALLED else None
    perturb = {} if perturbation is None else {perturbation: rows}
    with torch.no_grad(), perturbing(network, perturb, tokens, None, net.call):
        output = network(**net.call, return_dict=False)[0]
    return torch.stack(output) if isinstance(output, list) else output


def is_perturbed(found: Tensor, plain: Tensor, by_hand: Tensor) -> None:
    """The first sample is as by hand, the second as it was."""
    assert apart(found[0], by_hand[0]) < CLOSE
    assert apart(found[0], plain[0]) > 10 * CLOSE
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in WITHOUT_BLOCKS])
def test_a_skipped_block_is_a_block_removed(name: str) -> None:
    """The last of its stack, so that the others keep their places."""
    net = NETWORKS[name]
    network = net.make(name)
    plain = answer(network, net)
    stack = layers_of(network)["block"][0].rpartition(".")[0]
    blocks = network.get_submodule(stack)
    layer = f"{stack}.{len(blocks) - 1}"
    found = answer(network, net, Perturbation("skip", (layer,)))
    if name in COUNTED:
        blocks[-1].register_forward_hook(_as_given, with_kwargs=True)
    else:
        del blocks[-1]
    is_perturbed(found, plain, answer(network, net))


def _as_given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Of every output the input of its shape."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if isinstance(output, Tensor):
        return next(value for value in given if value.shape == output.shape)
    return tuple(next(value for value in given if value.shape == out.shape) for out in output)


def test_what_cannot_be_skipped_is_not_named() -> None:
    assert all("block" not in layers_of(NETWORKS[name].make(name)) for name in WITHOUT_BLOCKS)


@contextmanager
def attention_by_hand(part: nn.Module, worse: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within calls of a layer attention is softmax(worse(q k^T / sqrt(c)) + mask) v."""
    attend, inside = F.scaled_dot_product_attention, [False]

    def by_hand(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
    ) -> Tensor:
        if not inside[0] or query.shape[-2] != key.shape[-2]:
            return attend(query, key, value, attn_mask, *rest, **more)
        q, *kv = (part.double() for part in (query, key, value))
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in kv)
        scores = worse(q @ k.transpose(-1, -2) * (more.get("scale") or q.shape[-1] ** -0.5))
        if attn_mask is not None:
            hidden = torch.zeros(attn_mask.shape, dtype=torch.float64).masked_fill(attn_mask == 0, -torch.inf)
            scores = scores + (hidden if attn_mask.dtype == torch.bool else attn_mask)
        return (scores.softmax(-1) @ v).to(query.dtype)

    hooks = [
        part.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True)),
        part.register_forward_hook(lambda *_: inside.__setitem__(0, False)),
    ]
    F.scaled_dot_product_attention = by_hand
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attend
        for hook in hooks:
            hook.remove()


def image_of(net: Net, length: int) -> slice:
    if isinstance(net.image, slice):
        return net.image
    return {ALL: slice(0, length), FIRST: slice(0, length - net.text), LAST: slice(net.text, length)}[net.image]


def identity(net: Net) -> Callable[[Tensor], Tensor]:
    """An image position sees itself, and all of the text."""

    def worse(scores: Tensor) -> Tensor:
        scores, image = scores.clone(), image_of(net, scores.shape[-1])
        part = scores[..., image, image]
        alone = torch.eye(part.shape[-1], dtype=torch.bool)
        scores[..., image, image] = part.masked_fill(~alone, -torch.inf)
        return scores

    return worse


def mean_query(net: Net) -> Callable[[Tensor], Tensor]:
    """Every image position asks what all of them ask in the mean."""

    def worse(scores: Tensor) -> Tensor:
        scores, image = scores.clone(), image_of(net, scores.shape[-1])
        scores[..., image, :] = scores[..., image, :].mean(-2, keepdim=True)
        return scores

    return worse


KINDS = {
    "pag": (Perturbation("identity_attention", ()), identity),
    "seg": (Perturbation("blur_queries", (), math.inf), mean_query),
}


BOTH = ("FluxTransformer2DModel", "SD3Transformer2DModel", "QwenImageTransformer2DModel", "WanTransformer3DModel")


def attentive() -> Iterator[Any]:
    """All networks under pag, and under seg those that differ most in how they attend; the others are slow."""
    for name, net in NETWORKS.items():
        if net.image in (ALL, FIRST, LAST):
            yield pytest.param(name, "pag")
            yield pytest.param(name, "seg", marks=[] if name in BOTH else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "kind"), attentive())
def test_attention_of_the_image_is_perturbed_wherever_it_is(name: str, kind: str) -> None:
    net, (perturbation, worse) = NETWORKS[name], KINDS[kind]
    network = net.make(name)
    layer = layers_of(network)["attention"][0]
    check_reachable(network, layer)
    plain = answer(network, net)
    found = answer(network, net, Perturbation(perturbation.kind, (layer,), perturbation.amount))
    with attention_by_hand(network.get_submodule(layer), worse(net)):
        is_perturbed(found, plain, answer(network, net))


@pytest.mark.parametrize("name", [name for name, net in NETWORKS.items() if net.image not in (ALL, FIRST, LAST)])
def test_or_refused_in_a_line(name: str) -> None:
    net = NETWORKS[name]
    network = net.make(name)
    layers = layers_of(network).get("attention", ())
    if net.image == NONE:  # which is what pag says then
        assert not layers
        return

    def perturbed() -> None:
        check_reachable(network, layers[0])
        answer(network, net, Perturbation("identity_attention", (layers[0],)))

    assert isinstance(net.image, str)
    with pytest.raises(UsageError, match=net.image) as caught:
        perturbed()
    assert "\n" not in str(caught.value)


SINGLE = "single_transformer_blocks.0.attn"
JOINED = ("Chroma", "AuraFlow", "Flux", "OvisImage", "Bria")
"""Networks whose last blocks get text and image as one sequence, in this order."""


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_over_text_and_image_as_one_sequence(name: str, kind: str) -> None:
    name, (perturbation, worse) = f"{name}Transformer2DModel", KINDS[kind]
    net = NETWORKS[name]
    network = net.make(name)
    check_reachable(network, SINGLE)
    plain = answer(network, net)
    found = answer(network, net, Perturbation(perturbation.kind, (SINGLE,), perturbation.amount))
    with attention_by_hand(network.get_submodule(SINGLE), worse(replace(net, image=LAST))):
        is_perturbed(found, plain, answer(network, net))


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_where_its_own_caption_ends(kind: str) -> None:
    """Lumina 2 puts images right behind the real tokens of their captions, and padding at the end."""
    name, layer, (perturbation, worse) = "Lumina2Transformer2DModel", "layers.0.attn", KINDS[kind]
    net, both = NETWORKS[name], torch.tensor([True, True])
    net = replace(net, call={**net.call, "encoder_attention_mask": torch.arange(6) < torch.tensor([[4], [6]])})
    network = net.make(name)
    plain = answer(network, net)
    found = answer(network, net, replace(perturbation, layers=(layer,)), both)

    def by_hand(scores: Tensor) -> Tensor:
        images = slice(4, 20), slice(6, 22)
        return torch.stack([worse(replace(net, image=image))(row) for row, image in zip(scores, images, strict=True)])

    with attention_by_hand(network.get_submodule(layer), by_hand):
        expected = answer(network, net)
    assert apart(found, expected) < CLOSE
    assert min(apart(a, b) for a, b in zip(found, plain, strict=True)) > 10 * CLOSE


def test_where_the_number_of_text_positions_is_not_known_the_layer_is_refused() -> None:
    net = NETWORKS["ChromaTransformer2DModel"]
    network, worse = net.make("ChromaTransformer2DModel"), Perturbation("identity_attention", (SINGLE,))
    with (
        pytest.raises(UsageError, match="it is not known which of them belong to the image"),
        perturbing(network, {worse: ROWS}, None),
    ):
        network(**net.call)


def test_a_finite_blur_needs_height_and_width() -> None:
    net = NETWORKS["WanTransformer3DModel"]
    with pytest.raises(UsageError, match="32 positions lie in height and width is not known"):
        answer(net.make("WanTransformer3DModel"), net, Perturbation("blur_queries", ("blocks.0.attn1",), 1.0))


def test_every_class_of_diffusers_is_here() -> None:
    found = set()
    for name in dir(diffusers):
        if name.endswith(("Blocks", "Pipeline")):  # some need newer transformers than the oldest that we take
            continue
        kind = getattr(diffusers, name, None)
        places = ("diffusers.models.transformers", "diffusers.models.unets")
        if inspect.isclass(kind) and kind.__module__.startswith(places) and issubclass(kind, diffusers.ModelMixin):
            found.add(name)
    assert found - set(NETWORKS) == {name for names in OTHERS.values() for name in names.split()}
