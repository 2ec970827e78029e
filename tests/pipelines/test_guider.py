"""Our guidance as the guider of a modular pipeline."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from tests.pipelines import made
from tests.pipelines.families import apart


def modular(**more: Any) -> Any:
    """Modular SDXL of the parts of the pipeline."""
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    pipe: Any = StableDiffusionXLAutoBlocks().init_pipeline()
    parts = made.sdxl(**more).components
    pipe.update_components(**{k: v for k, v in parts.items() if v is not None and k in pipe.components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, guider: Any, steps: int = 4, prompt: Any = "a cat") -> Tensor:
    pipe.update_components(guider=guider)
    call = {"height": 8, "width": 8, "output": "latents", "negative_prompt": "blurry"}
    latents: Tensor = pipe(prompt=prompt, num_inference_steps=steps, generator=made.seeded(3), **call)
    return latents


def test_cfg_is_that_of_their_guider() -> None:
    pipe = modular()
    theirs = run(pipe, diffusers.ClassifierFreeGuidance(guidance_scale=5.0))
    before = {name: id(value) for name, value in vars(pipe.unet).items()}
    assert apart(run(pipe, fl.Guider("cfg(5)", pipe.scheduler)), theirs) < 1e-4
    assert {name: id(value) for name, value in vars(pipe.unet).items()} == before
    rescaled = diffusers.ClassifierFreeGuidance(guidance_scale=5.0, guidance_rescale=0.7)
    assert apart(run(pipe, fl.Guider("cfg(5) | rescale(0.7)", pipe.scheduler)), run(pipe, rescaled)) < 1e-4


@pytest.mark.parametrize(("text", "rows"), [("cfg(5) + pag(2)", 3), ("nag(5)", 1), ("nag(5) + cfg(3)", 3)])
def test_a_perturbed_branch_is_that_of_the_attached_pipeline_in_one_network_call(text: str, rows: int) -> None:
    """A negative text is the call's negative prompt."""
    pipe = modular()
    guider = fl.Guider(text, pipe.scheduler)
    with counting() as cost:
        ours = run(pipe, guider)
    assert cost.rows == rows * 4
    other = made.sdxl()
    call = {"height": 8, "width": 8, "output_type": "latent", "negative_prompt": "blurry", "num_inference_steps": 4}
    with fl.attach(other, text):
        attached = other(prompt="a cat", generator=made.seeded(3), **call)[0]
    assert apart(ours, attached) < 1e-4
    unguided = run(pipe, diffusers.ClassifierFreeGuidance(guidance_scale=1.0))
    assert apart(run(pipe, fl.Guider("cfg(1)", pipe.scheduler)), unguided) < 1e-4


def test_an_interval_in_sigma_is_theirs_in_steps_and_costs_as_much() -> None:
    pipe = modular()
    theirs = run(pipe, diffusers.ClassifierFreeGuidance(guidance_scale=5.0, start=0.25, stop=0.75), 8)
    levels = pipe.scheduler.sigmas.tolist()
    text = f"cfg(5).during(sigma=({(levels[5] + levels[6]) / 2}, {(levels[1] + levels[2]) / 2}))"
    with counting() as cost:
        assert apart(run(pipe, fl.Guider(text, pipe.scheduler), 8), theirs) < 1e-4
    assert cost.rows == 8 + 4


def test_what_a_guidance_remembers_begins_anew() -> None:
    pipe = modular()
    guider = fl.Guider("apg(cfg(4), momentum=-0.5)", pipe.scheduler)
    first = run(pipe, guider)
    assert torch.equal(run(pipe, guider), first)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cfg(5, negative="blurry")', "which a guider cannot encode.*load the model as a DiffusionPipeline"),
        ('auto(2, weak="x")', "'x', which a guider cannot load"),
        ("cfgpp(0.6)", "where a step ends"),
    ],
)
def test_what_a_guider_cannot_do(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fl.Guider(text, made.ddim())
