"""A guidance attached to one small pipeline or two of every pattern in which pipelines call their networks."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch

import fairlead as fl
from tests.pipelines import made
from tests.pipelines.families import apart
from tests.small_pipelines import measure
from tests.small_pipelines.build import arguments, make, run
from tests.small_pipelines.measure import measured, state
from tests.small_pipelines.table import SMALL

PATTERNS = {
    "BriaPipeline": measure.BATCH,  # tokens
    "LattePipeline": measure.BATCH,  # video
    "StableAudioPipeline": measure.BATCH,  # sound
    "KandinskyV22Pipeline": measure.BATCH,  # conditioned on an embedding of a picture
    "WanPipeline": measure.CONTEXT,  # video
    "QwenImagePipeline": measure.CONTEXT,  # tokens
    "ChromaPipeline": measure.CALLS,
    "Krea2Pipeline": measure.CALLS,  # its scale is ours minus 1
    "StableDiffusionPAGPipeline": measure.PAG,
    "MotifVideoPipeline": measure.GUIDER,
    "ZImagePipeline": measure.LISTS,
    "StableDiffusionInstructPix2PixPipeline": measure.BLOCKS,
    "WanPipeline, two networks": measure.NETWORKS,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_cfg_is_the_own_guidance_of_every_pattern(name: str) -> None:
    found = measured(name)
    assert found.pattern == PATTERNS[name]
    assert found.guides > 1e-3
    assert found.apart is not None
    assert found.apart < 1e-4
    assert found.same
    assert_short(found.composed, found.apg, found.skipped, found.load)


def assert_short(*answers: str) -> None:
    """Each works or is refused in one short line."""
    for answer in answers:
        assert answer == "works" or len(answer) < 400, answer
        assert "\n" not in answer


@pytest.mark.parametrize("name", ["AuraFlowPipeline", "QwenImagePipeline", "Krea2Pipeline", "ZImagePipeline"])
def test_batches_of_three_and_two_images_per_prompt(name: str) -> None:
    pipe = make(name, SMALL[name])
    for n, images in ((3, 1), (2, 2)):
        call = {**arguments(name, SMALL[name], n), "num_images_per_prompt": images}
        own = run(pipe, call)
        with fl.attach(pipe, "cfg(5)") as attached:
            assert apart(run(pipe, call), own) < 1e-4
        assert attached.cost.rows == 2 * 2 * n * images


SCHEDULERS: dict[str, Any] = {
    "AuraFlowPipeline": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "StableDiffusionPAGPipeline": lambda: diffusers.EulerAncestralDiscreteScheduler(**made.BETAS),
    "AnimateDiffPipeline": lambda: diffusers.DPMSolverMultistepScheduler(
        **made.BETAS, algorithm_type="sde-dpmsolver++"
    ),
    "WanPipeline": lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
    "SanaVideoPipeline": lambda: diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_that_a_family_does_not_ship_with(name: str) -> None:
    pipe, call = make(name, SMALL[name]), {**arguments(name, SMALL[name]), "num_inference_steps": 4}
    pipe.scheduler = SCHEDULERS[name]()
    own = run(pipe, call)
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, call), own) < 1e-4


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "QwenImagePipeline", "ChromaPipeline", "ZImagePipeline"])
def test_a_subclass_with_a_call_of_its_own(name: str) -> None:
    small = SMALL[name]
    plain = make(name, small)
    kind: Any = type(plain)
    scale = "true_cfg_scale" if name == "QwenImagePipeline" else "guidance_scale"
    call = {k: v for k, v in arguments(name, small).items() if k != scale}

    class Mine(kind):  # type: ignore[misc]
        def __call__(self, words: str, generator: Any, guidance_scale: float = 3.0) -> Any:
            given = {**call, "prompt": words, "generator": generator, scale: guidance_scale}
            return super().__call__(**given)

    expected = run(plain, {**call, scale: small.own})
    pipe = make(name, small)
    pipe.__class__ = Mine
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, {"words": call["prompt"]}), expected) < 1e-4
    assert type(pipe) is Mine


@pytest.mark.parametrize("name", ["AuraFlowPipeline", "WanPipeline", "ChromaPipeline", "StableDiffusionPAGPipeline"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_in_the_block_the_pipeline_is_as_it_was(name: str, error: type[BaseException]) -> None:
    pipe, call = make(name, SMALL[name]), arguments(name, SMALL[name])
    own = run(pipe, call)
    before = state(pipe)

    def stop(*_: Any) -> Any:
        raise error("stop")

    with pytest.raises(error, match="stop"), fl.attach(pipe, "cfg(5)"):
        run(pipe, call, callback_on_step_end=stop)
    assert torch.equal(run(pipe, call), own)
    assert state(pipe) == before


def test_interrupting_a_call_ends_it_as_without_a_guidance() -> None:
    pipe, call = make("ChromaPipeline", SMALL["ChromaPipeline"]), arguments("ChromaPipeline", SMALL["ChromaPipeline"])

    def stop(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return inputs

    own = run(pipe, call, callback_on_step_end=stop)
    with fl.attach(pipe, "cfg(5)") as attached:
        assert apart(run(pipe, call, callback_on_step_end=stop), own) < 1e-4
    assert attached.cost.rows == 2  # one step of two


SKIPPED = [
    ("ChromaPipeline", "transformer_blocks.0", 1),
    ("ChromaPipeline", "transformer_blocks.0", 2),
    ("CogView4Pipeline", "transformer_blocks.0", 1),  # which returns the image first
    ("BriaPipeline", "transformer_blocks.0", 2),
    ("AnimateDiffPipeline", "mid_block.attentions.0.transformer_blocks.0", 1),  # whose rows are frames
]


@pytest.mark.parametrize(("name", "layer", "n"), SKIPPED)
def test_a_skipped_block_is_a_weaker_network(name: str, layer: str, n: int) -> None:
    """Blocks return text and image in either order, and networks are asked once for both predictions or twice."""
    pipe, call = make(name, SMALL[name]), arguments(name, SMALL[name], n)
    component = "unet" if name.startswith("Animate") else "transformer"
    weak = copy.deepcopy(getattr(pipe, component))

    def passed_on(hidden_states: Any, encoder_hidden_states: Any = None, *_: Any, **__: Any) -> Any:
        if component == "unet":
            return hidden_states
        both = encoder_hidden_states, hidden_states
        return both[::-1] if name == "CogView4Pipeline" else both

    weak.get_submodule(layer).forward = passed_on
    with fl.attach(pipe, 'cfg(5) + auto(2, weak="weak")', resources={"weak": weak}):
        expected = run(pipe, call)
    with fl.attach(pipe, f'cfg(5) + slg(1, layers="{layer}")'):
        assert apart(run(pipe, call), expected) < 1e-4
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, call), expected) > 1e-3


def test_the_callers_list_of_prompts_is_what_one_call_makes_of_it() -> None:
    """Z-Image writes the words that it encodes into the list that it is given."""
    name = "ZImagePipeline"
    pipe, call = make(name, SMALL[name]), arguments(name, SMALL[name], 2)
    own, attached = list(call["prompt"]), list(call["prompt"])
    pipe(**{**call, "prompt": own})
    with fl.attach(pipe, "cfg(5)"):
        pipe(**{**call, "prompt": attached})
    assert attached == own


def test_a_call_that_cannot_be_rehearsed_is_refused() -> None:
    """Kandinsky 2.2 repeats its embeddings for several images where it guides, and forgets it where it does not."""
    name = "KandinskyV22Pipeline"
    pipe, call = make(name, SMALL[name]), {**arguments(name, SMALL[name]), "num_images_per_prompt": 2}
    run(pipe, call)
    with pytest.raises(fl.UsageError, match="fails in a rehearsal at other scales"), fl.attach(pipe, "cfg(5)"):
        run(pipe, call)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Ideogram4Pipeline", "calls two networks for the predictions of a step"),
        ("StableUnCLIPPipeline", "denoises twice, and first with pipe.prior and pipe.prior_scheduler"),
    ],
)
def test_two_networks_in_one_call_are_refused(name: str, text: str) -> None:
    pipe, call = make(name, SMALL[name]), arguments(name, SMALL[name])
    with pytest.raises(fl.UsageError, match=f"{name} {text}"), fl.attach(pipe, "cfg(5)"):
        run(pipe, call)


@pytest.mark.parametrize("name", ["FluxControlNetPipeline", "SanaControlNetPipeline", "HunyuanDiTControlNetPipeline"])
def test_a_prompt_of_the_guidance_goes_through_the_control_network(name: str) -> None:
    """After one step, away from a prompt at scale 2 is twice the one answer without guidance less the other's."""
    pipe = make(name, SMALL[name])
    call = {**arguments(name, SMALL[name]), "num_inference_steps": 1}
    call.pop("negative_prompt", None)
    plain = {}
    with fl.attach(pipe, "cfg(1)"):
        for prompt in ("a cat", "blurry red"):
            plain[prompt] = run(pipe, {**call, "prompt": prompt})
    with fl.attach(pipe, 'cfg(2, negative="blurry red")'):
        found = run(pipe, {**call, "prompt": "a cat"})
    assert apart(plain["blurry red"], plain["a cat"]) > 1e-3
    assert apart(found, 2 * plain["a cat"] - plain["blurry red"]) < 1e-4
