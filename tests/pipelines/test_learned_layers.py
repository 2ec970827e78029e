"""Layers of networks whose pipelines are in no table."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers.packing import unpacked
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.made import seeded, spread
from tests.pipelines.networks import Net
from tests.pipelines.test_learned import family
from tests.pipelines.test_learned_model import learned
from tests.pipelines.test_networks import KINDS, attention_by_hand
from tests.small_pipelines.build import arguments, make
from tests.small_pipelines.build import run as run_small
from tests.small_pipelines.table import SMALL


@pytest.mark.parametrize(("name", "layer"), [("qwen", "transformer_blocks.0.attn"), ("wan", "blocks.0.attn1")])
def test_attention_of_the_image_is_perturbed_where_its_size_is_not_known(name: str, layer: str) -> None:
    """Patches in a row beside text, and frames: pag and seg as tests/pipelines/test_networks.py has them by hand."""
    pipe, arguments, _ = family(name)
    with fl.attach(pipe, "cfg(2)"):
        plain = run(pipe, arguments, 2)
    for text in ("pag(2", "seg(2"):
        with fl.attach(pipe, f"cfg(2) + {text}, layers='{layer}')") as attached:
            found = run(pipe, arguments, 2)
        assert apart(found, plain) > 1e-4
        assert attached.cost.rows == 2 * 2 * 3
    blurred = f"cfg(2) + seg(2, blur=1, layers='{layer}')"
    if name == "wan":
        with pytest.raises(UsageError, match="height and width is not known"), fl.attach(pipe, blurred):
            run(pipe, arguments, 1)
        return
    results = []
    for blur in ("inf", "1000", "0"):  # a wide blur is the mean, one of no width is none
        with fl.attach(pipe, f"cfg(2) + seg(2, blur={blur}, layers='{layer}')"):
            results.append(run(pipe, arguments, 2))
    assert apart(results[1], results[0]) < 1e-4
    assert apart(results[2], plain) < 1e-5


SEQUENCES = {
    "Lumina2Pipeline": ("layers.0.attn", slice(8, 24)),
    "ZImagePipeline": ("layers.0.attention", slice(0, 64)),
    "ErnieImagePipeline": ("layers.0.self_attention", slice(0, 64)),
    "Krea2Pipeline": ("transformer_blocks.0.attn", slice(-4, None)),
}
"""Pipeline -> a layer that gets text and image as one sequence, and where the image is in it."""


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_text_and_image_as_one_sequence(name: str, kind: str) -> None:
    """Away from a layer that is perturbed is away from a network whose layer attends as it does by hand."""
    layer, image = SEQUENCES[name]
    pipe, call = make(name, SMALL[name]), arguments(name, SMALL[name], 2)
    if name == "Lumina2Pipeline":
        call |= {"height": 64, "width": 64}
    call["num_inference_steps"] = 1
    spread(pipe.transformer, 3)
    weak = copy.deepcopy(pipe.transformer)
    net = Net({}, {}, image)
    with (
        attention_by_hand(weak.get_submodule(layer), KINDS[kind][1](net)),
        fl.attach(pipe, 'cfg(5) + auto(2, weak="weak")', resources={"weak": weak}),
    ):
        expected = run_small(pipe, call)
    with fl.attach(pipe, f"cfg(5) + {kind}(1, layers='{layer}')"):
        assert apart(run_small(pipe, call), expected) < 1e-4
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run_small(pipe, call), expected) > 1e-3


@pytest.mark.parametrize("name", ["FluxPipeline", "ChromaPipeline", "BriaPipeline"])
def test_patches_in_a_row_are_a_picture(name: str) -> None:
    """A scale in a quarter of the picture: there the one guidance, elsewhere the other."""
    pipe, call = make(name, SMALL[name]), {**arguments(name, SMALL[name]), "num_inference_steps": 1}
    results = []
    for text in ("cfg(region(5, 2, [0, 0, 0.5, 0.5]))", "cfg(5)", "cfg(2)"):
        with fl.attach(pipe, text):
            patches = run_small(pipe, call)
        rows = patches.reshape(1, -1, pipe.transformer.config.in_channels)
        edge = 2 * math.isqrt(rows.shape[1])
        results.append(unpacked(rows, (edge, edge)))
    found, inside, outside = results
    half = found.shape[-1] // 2
    assert apart(inside, outside) > 1e-3
    expected = outside.clone()
    expected[..., :half, :half] = inside[..., :half, :half]
    assert apart(found, expected) < 1e-5


@pytest.mark.parametrize(("name", "layer"), [("qwen", "transformer_blocks.0"), ("wan", "blocks.0")])
def test_a_perturbed_branch_of_one_image_is_that_of_one_of_two(name: str, layer: str) -> None:
    """One image does not tell which arguments have rows, so that each branch is a call."""
    text = f"cfg(3) + slg(1, layers='{layer}')"
    pipe, arguments, _ = family(name, 2)
    with fl.attach(pipe, text):
        both = run(pipe, arguments, 2)
    first = {k: v[:1] if isinstance(v, Tensor) else v for k, v in arguments.items()}
    pipe, _, _ = family(name, 1)
    with fl.attach(pipe, text) as attached:
        assert apart(run(pipe, first, 2), both[:1]) < 1e-4
    assert attached.cost.rows == 6


def test_a_learned_model_noises_embeddings_as_the_table_has_it() -> None:
    pipe = FAMILIES["sd"].make()
    known = fl.load(pipe)
    models = known, learned(pipe, known.shape[-1])
    plain, first, second = (
        fl.sample(model, "a cat", guidance=text, seeds=(5,), steps=3).x0
        for model, text in ((known, "cfg(4)"), *((model, "cfg(4) + cads(0.3)") for model in models))
    )
    assert apart(second, first) < 1e-4
    assert apart(plain, first) > 1e-2


@pytest.mark.parametrize("text", ['nag(5, negative="blurry")', 'nag([5, 1]) + cfg(3, negative="a")'])
def test_a_learned_model_reads_a_negative_as_the_table_has_it(text: str) -> None:
    pipe = FAMILIES["sd"].make()
    known = fl.load(pipe)
    model = learned(pipe, known.shape[-1])
    x_t, t = torch.randn(2, *known.shape, generator=seeded(1)).double(), torch.tensor(0.5, dtype=torch.float64)
    found = []
    for each in (known, model):
        condition = each.encode(["a cat", "red"])
        found.append(fl.GuidedDenoiser.of(each, text, condition)(x_t, t, condition).x0)
    assert apart(found[1], found[0]) < 1e-5
    assert apart(found[0], known.denoiser(x_t, t, known.encode(["a cat", "red"])).x0) > 1e-2
