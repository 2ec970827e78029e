"""What cannot be done is said in one line, before sampling starts or at the first network call."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers import pipelines
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run


def refused(pipe: Any, guidance: str, words: str, call: dict[str, Any] | None = None, **options: Any) -> None:
    """Refused before sampling starts, or, where a ``call`` is given, in the call."""
    arguments = None if call is None else {**SMALL, **call}
    with pytest.raises(UsageError, match=words) as caught:
        _attached(pipe, guidance, options, arguments)
    assert "\n" not in str(caught.value)


def _attached(pipe: Any, guidance: str, options: dict[str, Any], arguments: dict[str, Any] | None) -> None:
    with fl.attach(pipe, guidance, **options):
        if arguments is not None:
            run(pipe, arguments)


SD = {"prompt": "a cat"}


SMALL = {"output_type": "latent", "height": 8, "width": 8}


def test_a_scale_of_the_pipeline_that_leaves_no_null_half_changes_nothing() -> None:
    pipe = made.sd()
    own = run(pipe, {**SD, **SMALL}, 2, guidance_scale=4.0)
    for scale in (1.0, 0.0, -2.0):
        with fl.attach(pipe, "cfg(4)"):
            assert apart(run(pipe, {**SD, **SMALL}, 2, guidance_scale=scale), own) < 1e-4


def test_flux_without_a_negative() -> None:
    """Refused where guidance is distilled into the network; else the empty prompt is null."""
    call = {"prompt": "a cat", "max_sequence_length": 8}
    refused(made.flux(), "cfg(4)", r"makes none of its own.*negative=''", call)
    pipe = made.flux(embedded=False)
    own = run(pipe, {**call, **SMALL, "negative_prompt": ""}, 2, true_cfg_scale=4.0)
    with fl.attach(pipe, "cfg(4)"):
        assert apart(run(pipe, {**call, **SMALL}, 2), own) < 1e-4


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "LatentConsistencyModelPipeline"])
def test_networks_that_take_the_scale_as_an_input(kind: str) -> None:
    """Distilled: cfg is refused, methods without a null prediction run."""
    more = {"scheduler": diffusers.LCMScheduler(**made.BETAS)}
    pipe = made.sd(kind, network=made.unet(time_cond_proj_dim=8), **more)
    refused(pipe, "cfg(4)", "distilled.*time_cond_proj_dim", SD)
    arguments = {**SMALL, **SD}
    own = run(pipe, arguments)
    with fl.attach(pipe, "pag(0)"):
        assert torch.equal(run(pipe, arguments), own)
    with fl.attach(pipe, "pag(2)") as attached:
        run(pipe, arguments)
    assert attached.cost.rows == 2 * 4


def test_no_text_encoder() -> None:
    pipe = made.sd(text_encoder=None, tokenizer=None)
    refused(pipe, 'cfg(4, negative="blurry")', "no text encoder, so 'blurry' cannot be encoded")
    refused(pipe, "cfg(4)", "no text encoder, so 'blurry'", negative="blurry")
    embeds = {"prompt_embeds": torch.randn(1, 16, 16), "negative_prompt_embeds": torch.randn(1, 16, 16)}
    with fl.attach(pipe, "cfg(4)"):
        run(pipe, {**SMALL, **embeds})


def test_embeddings_of_another_size_than_the_named_prompts() -> None:
    """They go into calls of their own."""
    own, null = torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    pipe = made.sd()
    with fl.attach(pipe, 'cfg(4) + cfg(2, negative="blurry")'):
        found = run(pipe, {**SMALL, "prompt_embeds": own, "negative_prompt_embeds": null}, 2)
    blurry = pipe.encode_prompt("blurry", "cpu", 1, False)[0]
    x = torch.randn(1, 4, 8, 8, generator=made.seeded(3))
    pipe.scheduler.set_timesteps(2)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            c, u, b = (pipe.unet(x, t, encoder_hidden_states=states).sample for states in (own, null, blurry))
            x = pipe.scheduler.step(c + 3 * (c - u) + (c - b), t, x).prev_sample
    assert apart(found, x) < 1e-4


def test_embeddings_of_the_wrong_batch() -> None:
    """Three negatives for two prompts: the pipeline's own words, or ours where it would go on."""
    pipe = made.flux()
    call = {"prompt": ["a cat", "red"], "negative_prompt": ["a", "b", "c"], "max_sequence_length": 8}
    refused(pipe, "cfg(4)", "3 null rows for 2 samples", call)


def test_scales_for_another_number_of_samples() -> None:
    refused(made.sd(), "cfg([3, 4, 5])", "has scales for 3 samples, the run has 2", {"prompt": ["a", "b"]})


@pytest.mark.parametrize("scheduler", [diffusers.IPNDMScheduler(), diffusers.EDMEulerScheduler()])
def test_schedulers_without_a_table(scheduler: Any) -> None:
    """What needs noise levels is refused, what does not is the pipeline's own guidance."""
    pipe = made.sd(scheduler=scheduler)
    refused(pipe, "cfg(4) | rescale(0.5)", "has no table of noise levels", SD)
    own = run(pipe, {**SMALL, **SD}, guidance_scale=4.0)
    with fl.attach(pipe, "cfg(4)"):
        assert apart(run(pipe, {**SMALL, **SD}), own) < 1e-4


def test_a_scheduler_whose_levels_go_up() -> None:
    """Its x is sigma x0 + (1 - sigma) eps: nothing is taken for a level that is none."""
    pipe = made.flux()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    arguments = FAMILIES["flux"].arguments(1, negatives=True)
    refused(pipe, "cfg(4) | rescale(0.5)", "levels upwards.*cfg with plain scales", arguments)
    with pytest.raises(UsageError, match="levels upwards"):
        fl.load(pipe)
    own = run(pipe, arguments, 3, true_cfg_scale=4.0)
    with fl.attach(pipe, "cfg(4)"):
        assert apart(run(pipe, arguments, 3), own) < 1e-4


def test_an_eps_network_on_a_table_that_ends_in_noise() -> None:
    scheduler = made.ddim(rescale_betas_zero_snr=True)
    refused(made.sd(scheduler=scheduler), "cfg(4) | rescale(0.5)", "objective 'eps' cannot be used", SD)


def test_a_prediction_that_is_none_of_ours() -> None:
    scheduler = made.ddim()
    scheduler.register_to_config(prediction_type="noise")
    refused(made.sd(scheduler=scheduler), "apg(cfg(4))", "prediction_type 'noise' is none of epsilon", SD)


class Renamed(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    """A subclass that calls its network as its parent does."""


def test_custom_pipelines() -> None:
    parts = made.sd().components
    guided = made.quiet(Renamed(**parts, requires_safety_checker=False))
    with fl.attach(guided, "cfg(4)") as attached:
        run(guided, {**SMALL, **SD})
    assert attached.cost.rows == 8
    refused(made.unet(), "cfg(4)", "expected a diffusers pipeline, got UNet2DConditionModel")


def test_own_guidance_of_the_pipeline_that_would_have_no_effect() -> None:
    refused(made.sd(), "cfg(4)", r"guidance_rescale has no effect.*\| rescale", {**SD, "guidance_rescale": 0.7})
    call = {**SD, "skip_guidance_layers": [1], "max_sequence_length": 8}
    refused(made.sd3(), "cfg(4)", r"skip_guidance_layers has no effect.*slg", call)


def test_two_negatives() -> None:
    call = {**SD, "negative_prompt": "red"}
    refused(made.sd(), "cfg(4)", "negative='blurry' was given to attach, and negative_prompt", call, negative="blurry")


def test_a_negative_for_pipelines_without_prompts() -> None:
    refused(made.dit(), "cfg(4)", "takes no negative prompt; name a condition", negative="blurry")


def test_composition_needs_an_empty_prompt() -> None:
    refused(made.sd(), 'compose({"red": 3})', "replaces the prompt; call the pipeline with prompt=''", SD)


def test_conditions_that_a_pipeline_does_not_know() -> None:
    refused(made.sd(), "cfg(4, negative=3)", "names the condition 3, this pipeline's conditions are prompts")
    refused(made.dit(), 'cfg(4, negative="whale")', "unknown class 'whale'")
    with fl.attach(made.dit(), 'cfg(4, negative="golden fish") + cfg(2, negative="1")'):
        pass


def test_methods_that_the_scheduler_cannot_carry_out() -> None:
    pipe = made.sd(scheduler=FAMILIES["pixart alpha"].make().scheduler)
    refused(pipe, "cfgpp(0.5)", "re-noises.*DPMSolverMultistepScheduler cannot use; choose DDIMScheduler", SD)
    refused(made.sd(), "cfgpp(0.5)", "DDIMScheduler with noise", {**SD, "eta": 0.5})


def test_resources() -> None:
    refused(made.sd(), 'auto(2, weak="small")', r"names 'small'; pass it: attach\(..., resources=")
    refused(made.sd(), "cfg(2)", "'small' was given, but the guidance names no such thing", resources={"small": 1})
    refused(made.sd(), 'auto(2, weak="s")', "expected 's' to be a pipeline or network", resources={"s": 1})
    other = made.sd(scheduler=made.ddim(prediction_type="v_prediction"))
    refused(made.sd(), 'auto(2, weak="s")', "predicts another quantity", resources={"s": other})
    other = made.sd(scheduler=made.ddim(beta_schedule="linear"))
    refused(made.sd(), 'auto(2, weak="s")', "has another noise schedule", resources={"s": other})


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(pipelines, "import_module", missing)
    refused(object(), "cfg(4)", r"diffusers is not installed; run: pip install 'fairlead\[diffusers\]'")


def test_a_call_that_the_pipeline_does_not_take_is_refused_in_its_own_words() -> None:
    pipe = made.dit()
    with fl.attach(pipe, "cfg(4)"), pytest.raises(TypeError, match="unexpected keyword argument 'prompt'"):
        pipe(prompt="a cat")


def test_a_timestep_that_is_none_of_the_schedulers() -> None:
    from fairlead.diffusers.schedulers import position_of

    scheduler = made.ddim()
    scheduler.set_timesteps(10)
    with pytest.raises(UsageError, match="called at timestep 17, which is none"):
        position_of(scheduler, torch.tensor(17))


def test_levels_beyond_the_table() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(steps_offset=1, **made.BETAS)
    call = {**SD, "sigmas": [80.0, 5.0, 1.0]}
    refused(made.sd(scheduler=scheduler), "cfg(4).during(sigma=(1, 5))", "starts at sigma 80, beyond", call)
