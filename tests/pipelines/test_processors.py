"""Attention is perturbed and watched whatever computes it; where it cannot be reached the run is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models import attention_processor as processors
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run

TERMS = ("pag(2)", "seg(2, blur=0.8)", "sag(0.7)")


class Products:
    """Attention as many write it themselves."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        n = len(hidden_states)
        q, k, v = (
            part.reshape(n, -1, attn.heads, part.shape[-1] // attn.heads).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(other), attn.to_v(other))
        )
        weights = torch.softmax(torch.einsum("nhic,nhjc->nhij", q, k) * attn.scale, dim=-1)
        return self.out(attn, (weights @ v).transpose(1, 2).reshape(hidden_states.shape))

    def out(self, attn: Any, mixed: Tensor) -> Tensor:
        answer: Tensor = attn.to_out[0](mixed)
        return answer


class ByImage(Products):
    """One image at a time, through the fused kernel."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = zip(attn.to_q(hidden_states), attn.to_k(other), attn.to_v(other), strict=True)
        mixed = []
        for part in parts:
            q, k, v = (one.reshape(1, len(one), attn.heads, -1).transpose(1, 2) for one in part)
            mixed.append(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.out(attn, torch.cat(mixed))


class ByHead(Products):
    """All heads along the first axis, through the fused kernel, as old processors do."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = (attn.to_q(hidden_states), attn.to_k(other), attn.to_v(other))
        q, k, v = (attn.head_to_batch_dim(part) for part in parts)
        return self.out(attn, attn.batch_to_head_dim(torch.nn.functional.scaled_dot_product_attention(q, k, v)))


class Opaque(Products):
    """Through a kernel that nobody sees."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(other), attn.to_v(other))
        )
        scores = (q @ k.transpose(-1, -2) * attn.scale).exp()
        return self.out(attn, attn.batch_to_head_dim(scores / scores.sum(-1, keepdim=True) @ v))


class ByQuery(Opaque):
    """A softmax over some queries at a time."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = (attn.to_q(hidden_states), attn.to_k(other), attn.to_v(other))
        q, k, v = (attn.head_to_batch_dim(part) for part in parts)
        halves = [(part @ k.transpose(-1, -2) * attn.scale).softmax(-1) @ v for part in q.chunk(2, 1)]
        return self.out(attn, attn.batch_to_head_dim(torch.cat(halves, 1)))


SETTINGS: dict[str, Callable[[Any], object]] = {
    "explicit": lambda pipe: pipe.unet.set_attn_processor(processors.AttnProcessor()),
    "default": lambda pipe: pipe.unet.set_default_attn_processor(),
    "sliced": lambda pipe: pipe.enable_attention_slicing(),
    "sliced, most": lambda pipe: pipe.enable_attention_slicing("max"),
    "sliced by 3": lambda pipe: pipe.unet.set_attn_processor(processors.SlicedAttnProcessor(3)),
    "fused projections": lambda pipe: pipe.unet.fuse_qkv_projections(),
    "products": lambda pipe: pipe.unet.set_attn_processor(Products()),
    "by image": lambda pipe: pipe.unet.set_attn_processor(ByImage()),
    "by head": lambda pipe: pipe.unet.set_attn_processor(ByHead()),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_perturbation_is_the_same_whatever_computes_attention(setting: str) -> None:
    """Two samples, so that heads, rows and slices are distinguished; all layers and the middle."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(2)
    plain = run(pipe, arguments, 1)
    layers = list(fl.load(pipe).layers["attention"])
    everywhere = f"pag(1, layers={layers}) + seg(1, blur=1, layers={layers}) + sag(1, layers={layers})"
    wanted = {}
    for text in ("pag(2)", "seg(2)", everywhere):
        with fl.attach(pipe, text):
            wanted[text] = run(pipe, arguments, 1)
        assert apart(wanted[text], plain) > 1e-3
    SETTINGS[setting](pipe)
    before = [type(part) for part in pipe.unet.attn_processors.values()]
    for text, latents in wanted.items():
        with fl.attach(pipe, text):
            assert apart(run(pipe, arguments, 1), latents) < 1e-4, text
    assert [type(part) for part in pipe.unet.attn_processors.values()] == before


@pytest.mark.parametrize("family", ["pixart alpha", "dit", "unconditional"])
def test_other_networks(family: str) -> None:
    pipe = made.unconditional() if family == "unconditional" else FAMILIES[family].make()
    more = {"batch_size": 2, "output_type": "pt"} if family == "unconditional" else FAMILIES[family].arguments(2)
    network = pipe.unet if family == "unconditional" else pipe.transformer
    wanted = {}
    for text in TERMS:
        with fl.attach(pipe, text):
            wanted[text] = run(pipe, more, 2)
    for part in network.modules():
        if isinstance(part, processors.Attention):
            part.set_processor(processors.AttnProcessor())
    for text, latents in wanted.items():
        with fl.attach(pipe, text):
            assert apart(run(pipe, more, 2), latents) < 1e-4, text


@pytest.mark.parametrize("kind", [Opaque, ByQuery])
@pytest.mark.parametrize("text", ["pag(2)", "sag(0.7)", "seg(1).during(sigma=(0, 0.1))"])
def test_attention_that_cannot_be_reached_is_refused_before_sampling_starts(kind: type[Products], text: str) -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    pipe.unet.set_attn_processor(kind())
    plain = run(pipe, arguments, 1)
    with pytest.raises(UsageError, match=f"mid_block.*{kind.__name__}") as caught, fl.attach(pipe, text):
        raise AssertionError("attached")
    assert "\n" not in str(caught.value)
    with fl.attach(pipe, "cfg(3) + slg(1)"):
        run(pipe, arguments, 1)  # blocks are skipped all the same
    with pytest.raises(UsageError, match=f"mid_block.*{kind.__name__}"):
        fl.sample(fl.load(pipe), "red", guidance=text, steps=1)
    assert torch.equal(run(pipe, arguments, 1), plain)


class Demanding(Opaque):
    """Wants an argument that only the network gives it, so that it cannot be tried beforehand."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, needed: bool = False, **_: Any
    ) -> Tensor:
        if not needed:
            raise ValueError("needed is missing")
        return super().__call__(attn, hidden_states, encoder_hidden_states)


def test_what_cannot_be_tried_beforehand_is_refused_at_the_first_call() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), {**case.arguments(1), "cross_attention_kwargs": {"needed": True}}
    pipe.unet.set_attn_processor(Demanding())
    with pytest.raises(UsageError, match=r"mid_block.*Demanding"), fl.attach(pipe, "pag(2)"):
        run(pipe, arguments, 1)


class XFormersAttnProcessor(Products):
    """By its name alone."""


def test_what_is_known_to_compute_elsewhere_is_refused_before_sampling_starts() -> None:
    pipe = made.sd()
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(XFormersAttnProcessor())
    for text in ("pag(2)", "sag(1)", "apg(seg(2))", "pag(2).during(sigma=(0, 0.1))"):
        with (
            pytest.raises(UsageError, match=r"mid_block.*XFormersAttnProcessor.*set_attn_processor"),
            fl.attach(pipe, text),
        ):
            pass
        with pytest.raises(UsageError, match=r"mid_block.*XFormersAttnProcessor"):
            fl.sample(fl.load(pipe), "red", guidance=text, steps=1)
    layer = next(name for name in fl.load(pipe).layers["attention"] if not name.startswith("mid"))
    with fl.attach(pipe, f"pag(2, layers='{layer}')"):
        run(pipe, FAMILIES["sd"].arguments(1), 1)
    flux = made.flux()
    for block in flux.transformer.transformer_blocks:
        block.attn.processor._attention_backend = "flash"
    with (
        pytest.raises(UsageError, match=r"in the backend 'flash'.*set_attention_backend\('native'\)"),
        fl.attach(flux, "pag(2, layers='transformer_blocks.0.attn')"),
    ):
        pass


def test_a_layer_that_the_network_does_not_call_is_no_layer_that_was_perturbed() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    middle = pipe.unet.mid_block
    middle.forward = lambda hidden_states, *_, **__: hidden_states
    for text in ("pag(2)", "slg(2)", "seg(1)", "sag(1)"):
        with (
            pytest.raises(UsageError, match=r"mid_block.*did not call it|recorded no attention"),
            fl.attach(pipe, text),
        ):
            run(pipe, arguments, 1)
