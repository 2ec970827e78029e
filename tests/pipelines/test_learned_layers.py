"""Layers of networks whose pipelines are in no table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.made import seeded
from tests.pipelines.test_learned import told
from tests.pipelines.test_learned_model import learned


@pytest.mark.parametrize(("name", "layer"), [("qwen", "transformer_blocks.0.attn"), ("wan", "blocks.0.attn1")])
def test_attention_of_the_image_is_perturbed_where_its_size_is_not_known(name: str, layer: str) -> None:
    """Patches in a row beside text, and frames: pag and seg as tests/pipelines/test_networks.py has them by hand."""
    pipe, arguments, _ = told(name)
    with fl.attach(pipe, "cfg(2)"):
        plain = run(pipe, arguments, 2)
    for text in ("pag(2", "seg(2"):
        with fl.attach(pipe, f"cfg(2) + {text}, layers='{layer}')") as attached:
            found = run(pipe, arguments, 2)
        assert apart(found, plain) > 1e-4
        assert attached.cost.rows == 2 * 2 * 3
    blurred = f"cfg(2) + seg(2, blur=1, layers='{layer}')"
    with pytest.raises(UsageError, match="height and width is not known"), fl.attach(pipe, blurred):
        run(pipe, arguments, 1)


@pytest.mark.parametrize(("name", "layer"), [("qwen", "transformer_blocks.0"), ("wan", "blocks.0")])
def test_a_perturbed_branch_of_one_image_is_that_of_one_of_two(name: str, layer: str) -> None:
    """One image does not tell which arguments have rows, so that each branch is a call."""
    text = f"cfg(3) + slg(1, layers='{layer}')"
    pipe, arguments, _ = told(name, 2)
    with fl.attach(pipe, text):
        both = run(pipe, arguments, 2)
    first = {k: v[:1] if isinstance(v, Tensor) else v for k, v in arguments.items()}
    pipe, _, _ = told(name, 1)
    with fl.attach(pipe, text) as attached:
        assert apart(run(pipe, first, 2), both[:1]) < 1e-4
    assert attached.cost.rows == 6


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
