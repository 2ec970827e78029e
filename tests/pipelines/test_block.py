"""What attach leaves behind: nothing. Blocks nest, pipelines share networks, compiled networks stay compiled."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import nn

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run

EVERYTHING = "cfg(4) + pag(1) + slg(0.5) + sag(0.3) + cads(0.2) + energy(brightness(0.7), 2) | rescale(0.5)"


def traces(pipe: Any) -> list[Any]:
    """Everything of a pipeline that something could be left in."""
    found: list[Any] = [type(pipe), dict(vars(pipe)), dict(pipe.config)]
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            for name, module in part.named_modules():
                hooks = [key for key in vars(module) if "hook" in key and vars(module)[key]]
                found.append((name, sorted(vars(module)), hooks, getattr(module, "processor", None), module.training))
    return found


@pytest.mark.parametrize("family", ["sd", "sd controlnet", "sdxl"])
def test_afterwards_the_pipeline_is_as_it_was(family: str) -> None:
    case = FAMILIES[family]
    pipe, arguments = case.make(), case.arguments(2)
    own = run(pipe, arguments)
    before = traces(pipe)
    text = EVERYTHING
    with fl.attach(pipe, text):
        run(pipe, arguments)
        assert type(pipe).__name__ == case.make().__class__.__name__
        assert isinstance(pipe, diffusers.DiffusionPipeline)
    assert traces(pipe) == before
    assert torch.equal(run(pipe, arguments), own)


def test_afterwards_also_when_the_call_fails_in_the_middle() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(2)
    own, before = run(pipe, arguments), traces(pipe)

    def stop(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), fl.attach(pipe, EVERYTHING):
        run(pipe, arguments, callback_on_step_end=stop)
    handle = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.register_forward_hook(_break)
    with pytest.raises(RuntimeError, match="broken"), fl.attach(pipe, "cfg(2) + pag(3) + sag(1)"):
        run(pipe, arguments)
    handle.remove()
    assert traces(pipe) == before
    assert torch.equal(run(pipe, arguments), own)


def _break(*_: Any) -> None:
    raise RuntimeError("inside a layer that is watched: broken")


def test_off_is_the_conditional_prediction_to_the_bit_and_costs_one_row() -> None:
    """Outside its interval a guidance evaluates one row per sample, whose output the pipeline gets untouched."""
    for family in ("sd", "sdxl", "sd3", "pixart alpha"):
        case = FAMILIES[family]
        pipe, arguments = case.make(), case.arguments(2)
        plain = run(pipe, arguments, guidance_scale=1.0)
        for text in ("cfg(1)", "cfg(7).during(sigma=(1000, 2000)) + pag(0)"):
            with fl.attach(pipe, text) as attached:
                assert torch.equal(run(pipe, arguments, guidance_scale=1.0), plain)
                assert torch.equal(run(pipe, arguments), plain)
            assert attached.cost.rows == 2 * 2 * 4


def test_many_samples_take_as_many_network_calls_as_the_pipelines_own_guidance() -> None:
    """On a processor too, where sampling by itself would give each of two branches of many rows a call of its own."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), {**case.arguments(1), "num_images_per_prompt": 20}
    with fl.attach(pipe, "cfg(4)") as attached:
        run(pipe, arguments)
    assert (attached.cost.rows, attached.cost.calls) == (2 * 20 * 4, 4)
    with fl.attach(pipe, "cfg(4)", batching="sequential") as attached:
        run(pipe, arguments)
    assert attached.cost.calls == 2 * 4


def test_a_block_inside_a_block_guides_and_then_the_outer_one_again() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    with fl.attach(pipe, "cfg(3)"):
        three = run(pipe, arguments)
        with fl.attach(pipe, "cfg(5)"):
            five = run(pipe, arguments)
        assert torch.equal(run(pipe, arguments), three)
    assert apart(three, run(pipe, arguments, guidance_scale=3.0)) < 1e-4
    assert apart(five, run(pipe, arguments, guidance_scale=5.0)) < 1e-4


def test_two_pipelines_of_one_network_guided_at_once() -> None:
    """Each has its own guidance; one runs in the middle of the other's run; a third notices nothing."""
    case = FAMILIES["sd"]
    one = case.make()
    two = made.sd(network=one.unet, scheduler=made.ddim())
    three = made.sd(network=one.unet, scheduler=made.ddim())
    arguments = case.arguments(1)
    own = {scale: run(one, arguments, guidance_scale=scale) for scale in (2.0, 6.0, 7.5)}
    inside: list[torch.Tensor] = []

    def meanwhile(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            inside.extend([run(two, arguments), run(three, arguments)])
        return inputs

    with fl.attach(one, "cfg(2)"), fl.attach(two, "cfg(6)"):
        outer = run(one, arguments, callback_on_step_end=meanwhile)
    assert apart(outer, own[2.0]) < 1e-4
    assert apart(inside[0], own[6.0]) < 1e-4
    assert torch.equal(inside[1], own[7.5])


def test_what_is_taken_out_of_the_block_is_the_pipelines_own() -> None:
    """Components, a pipeline made of them, and the network called by its owner."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    network = pipe.unet
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 16)
    with fl.attach(pipe, "cfg(4)"):
        assert pipe.components["unet"] is network
        other = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
        assert isinstance(pipe.unet, diffusers.UNet2DConditionModel)
        assert pipe.unet.config is network.config
        assert torch.equal(pipe.unet(x, 5, text).sample, network(x, 5, text).sample)
    other.set_progress_bar_config(disable=True)
    assert other.unet is network
    assert torch.equal(run(other, arguments), run(pipe, arguments))


def test_a_network_replaced_inside_the_block_stays_replaced() -> None:
    pipe, other = made.sd(), made.unet(seed=31)
    with fl.attach(pipe, "cfg(4)"):
        pipe.unet = other
        with pytest.raises(UsageError, match="replaced inside the block"):
            run(pipe, FAMILIES["sd"].arguments(1))
    assert pipe.unet is other


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_networks(in_place: bool) -> None:
    """Called as they are; a perturbed call runs uncompiled, with the same result."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    with fl.attach(pipe, "cfg(4) + pag(2).during(sigma=(0.5, 5))"):
        plain = run(pipe, arguments)
    if in_place:
        pipe.unet.compile(backend="eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    with fl.attach(pipe, "cfg(4) + pag(2).during(sigma=(0.5, 5))"):
        assert apart(run(pipe, arguments), plain) < 1e-5


def test_half_precision_networks_are_guided_in_full_precision() -> None:
    """The network computes in bfloat16, the combination does not: what reaches the scheduler is rounded once."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make().to(torch.bfloat16), case.arguments(1)
    seen: list[Any] = []
    with fl.attach(pipe, "cfg(7)", observe=seen.append):
        assert run(pipe, arguments, 2).dtype == torch.bfloat16
    there = seen[0].seen
    cond, null = there.x0(COND), there.x0(NULL)
    assert cond.dtype == torch.float64
    assert apart(seen[0].guided, null + 7 * (cond - null)) < 1e-12


def test_a_learned_variance_is_the_conditional_ones() -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    pipe = made.unconditional("DDPMPipeline", outputs=6, scheduler=scheduler)
    arguments = {"batch_size": 2, "output_type": "pt"}
    own = run(pipe, arguments)
    with fl.attach(pipe, "pag(0)"):
        assert torch.equal(run(pipe, arguments), own)
    network, kept = pipe.unet, []
    handle = network.register_forward_hook(lambda _, __, output: kept.append(output[0]))
    with fl.attach(pipe, "pag(2)"):
        given: list[torch.Tensor] = []
        step = scheduler.step

        def listening(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            given.append(output)
            return step(output, *args, **kwargs)

        scheduler.step = listening
        run(pipe, arguments, 2)
    handle.remove()
    for output, both in zip(given, kept, strict=True):
        assert torch.equal(output[:, 3:], both[:2, 3:])  # the first rows are the unperturbed ones


def test_a_callback_that_switches_the_pipelines_guidance_off_is_told_how_to_say_it() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)

    def off(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            pipe._guidance_scale = 0.0
            inputs["prompt_embeds"] = inputs["prompt_embeds"].chunk(2)[-1]
        return inputs

    with pytest.raises(UsageError, match=r"went from 2 rows to 1 within one run.*during"), fl.attach(pipe, "cfg(4)"):
        run(pipe, arguments, callback_on_step_end=off, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_a_callback_may_change_the_prompt_in_the_middle() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    other = torch.randn(2, 16, 16)

    def change(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": other} if i == 1 else {}

    more: dict[str, Any] = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    own = run(pipe, arguments, guidance_scale=4.0, **more)
    with fl.attach(pipe, "cfg(4)"):
        assert apart(run(pipe, arguments, **more), own) < 1e-4
