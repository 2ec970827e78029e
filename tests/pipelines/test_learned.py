"""Pipelines of other classes and of one's own: how they call their network is learned at each call in the block."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers.guiding.pipeline_denoiser import PipelineDenoiser
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, SMALL, apart, picture, run
from tests.pipelines.test_block import traces


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=made.seeded(seed))


def wan(**parts: Any) -> Any:
    """Video, a call for each prediction."""
    torch.manual_seed(0)
    network = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=16, ffn_dim=16, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                                     temperal_downsample=[False, True, True], latents_mean=[0.0] * 4,
                                     latents_std=[1.0] * 4)  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return made.quiet(
        diffusers.WanPipeline(
            vae=vae.eval(),
            scheduler=scheduler,
            transformer=network.eval(),
            **{"tokenizer": None, "text_encoder": None, **parts},
        )
    )


def qwen() -> Any:
    """Tokens, a call for each prediction, and the combination scaled to the norm of the conditional prediction."""
    torch.manual_seed(0)
    network = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1,
                                           temperal_downsample=[False, True], latents_mean=[0.0] * 4,
                                           latents_std=[1.0] * 4)  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return made.quiet(
        diffusers.QwenImagePipeline(
            tokenizer=None, text_encoder=None, vae=vae.eval(), scheduler=scheduler, transformer=network.eval()
        )
    )


def aura(**more: Any) -> Any:
    """One batch of both predictions."""
    torch.manual_seed(0)
    network = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=8, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip
    made.spread(network, 4)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return made.quiet(
        diffusers.AuraFlowPipeline(
            tokenizer=None, text_encoder=None, vae=made.vae(), transformer=network.eval(), scheduler=scheduler, **more
        )
    )


def family(name: str, n: int = 2) -> tuple[Any, dict[str, Any], str]:
    """(pipeline, a call of it, its own argument for the scale)."""
    text, null = vectors(1, n, 6, 8), vectors(2, n, 6, 8)
    if name == "wan":
        call: dict[str, Any] = {"prompt_embeds": text, "negative_prompt_embeds": null, "num_frames": 5, **SMALL}
        return wan(), {**call, "height": 16, "width": 16, "output_type": "latent"}, "guidance_scale"
    ones = torch.ones(n, 6, dtype=torch.long)
    masks = {"prompt_embeds_mask": ones, "negative_prompt_embeds_mask": ones}
    if name == "qwen":
        call = {"prompt_embeds": text, "negative_prompt_embeds": null, **masks, "height": 16, "width": 16}
        return qwen(), {**call, "output_type": "latent"}, "true_cfg_scale"
    masks = {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones}
    call = {"prompt_embeds": text, "negative_prompt_embeds": null, **masks, "height": 16, "width": 16}
    return aura(), {**call, "output_type": "latent"}, "guidance_scale"


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["wan", "qwen", "aura"])
def test_cfg_is_the_own_guidance_of_other_classes(name: str, n: int) -> None:
    pipe, arguments, scale = family(name, n)
    own = run(pipe, arguments, **{scale: 5.0})
    assert apart(run(pipe, arguments, **{scale: 2.0}), own) > 1e-3
    before = traces(pipe)
    with fl.attach(pipe, "cfg(5)") as attached:
        for given in (5.0, 2.0):  # the pipeline's own scale says nothing
            assert apart(run(pipe, arguments, **{scale: given}), own) < 1e-5
    assert attached.cost.rows == 2 * 4 * 2 * n
    assert traces(pipe) == before
    assert torch.equal(run(pipe, arguments, **{scale: 5.0}), own)


@pytest.mark.parametrize("name", ["wan", "qwen", "aura"])
def test_outside_its_interval_a_guidance_costs_one_row(name: str) -> None:
    pipe, arguments, scale = family(name)
    with fl.attach(pipe, "cfg(5).during(t=(0.4, 0.9))") as attached:  # one of the four steps
        run(pipe, arguments, **{scale: 5.0})
    inside = sum(0.4 < float(t) / 1000 <= 0.9 for t in pipe.scheduler.timesteps)
    assert 0 < inside < 4
    assert attached.cost.rows == 2 * (4 + inside)


@pytest.mark.parametrize("name", ["wan", "qwen", "aura"])
def test_scales_per_sample_are_those_of_runs_of_their_own(name: str) -> None:
    pipe, arguments, _ = family(name)
    with fl.attach(pipe, fl.cfg((2.0, 5.0))):
        both = run(pipe, arguments)
    for i, scale in enumerate((2.0, 5.0)):
        with fl.attach(pipe, fl.cfg(scale)):
            assert apart(both[i], run(pipe, arguments)[i]) < 1e-5


def test_rehearsals_leave_no_trace_in_the_call() -> None:
    """Generators, callbacks and the user's hooks see one run."""
    pipe, arguments, _ = family("aura")
    seen: list[int] = []
    hooked: list[int] = []

    def note(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(i)
        return inputs

    handle = pipe.transformer.register_forward_hook(lambda *_: hooked.append(1))
    generator = made.seeded(3)
    more = {"callback_on_step_end": note, "num_inference_steps": 3}
    plain = pipe(generator=made.seeded(3), **arguments, **more, guidance_scale=5.0)[0]
    after = made.seeded(3)
    pipe(generator=after, **arguments, num_inference_steps=3, guidance_scale=5.0)
    seen.clear()
    hooked.clear()
    with fl.attach(pipe, "cfg(5)"):
        guided = pipe(generator=generator, **arguments, **more, guidance_scale=5.0)[0]
    handle.remove()
    assert apart(torch.as_tensor(guided), torch.as_tensor(plain)) < 1e-5
    assert seen == [0, 1, 2]
    assert len(hooked) == 3  # both predictions of a step in one call
    assert torch.equal(generator.get_state(), after.get_state())


def test_the_own_perturbation_of_a_pipeline_is_replaced() -> None:
    """A guidance replaces a pipeline's cfg and its own pag."""
    parts = made.sd().components
    own = made.quiet(
        diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=["mid"])
    )
    plain = made.sd()
    arguments = {"prompt": "a cat", "output_type": "latent", **SMALL}
    with fl.attach(plain, "cfg(5) + pag(2)"):
        expected = run(plain, arguments)
    with fl.attach(own, "cfg(5) + pag(2)"):
        assert apart(run(own, arguments, pag_scale=3.0), expected) < 1e-5


def test_what_is_not_known_is_refused_in_one_line() -> None:
    pipe, arguments, _ = family("wan", 1)
    for text, reason in (
        ("cfg(5) + seg(1, blur=1)", "how its [0-9]+ positions lie in height and width is not known"),
        ("energy(brightness(0.7), 2)", "is a reward of images"),
        ('cfg(5, negative="red")', "prompt"),
    ):
        with pytest.raises(UsageError, match=reason) as caught, fl.attach(pipe, text):
            run(pipe, arguments)
        assert len(str(caught.value).splitlines()) == 1
    other = made.quiet(diffusers.DDPMPipeline(unet=made.unconditional().unet, scheduler=diffusers.DDPMScheduler()))
    with pytest.raises(UsageError, match="steers towards the run's condition"), fl.attach(other, "cfg(4)"):
        other(num_inference_steps=2)


def test_a_prompt_is_encoded_once_for_rehearsals_and_the_call() -> None:
    """And by a call of every encoder only, as the pipeline's own call without guidance does it."""
    pipe, arguments = made.sdxl(), FAMILIES["sdxl"].arguments(2)
    own = run(pipe, arguments, guidance_scale=5.0)
    asked: list[str] = []
    for name in ("text_encoder", "text_encoder_2"):
        getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: asked.append(name))
    run(pipe, arguments, guidance_scale=5.0)
    alone = asked.copy()
    asked.clear()
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, arguments), own) < 1e-5
    assert sorted(asked) == sorted(alone)


@pytest.mark.parametrize("name", ["wan", "qwen", "aura"])
def test_the_first_call_of_a_block_asks_the_network_once_more_and_later_ones_never(name: str) -> None:
    pipe, arguments, scale = family(name)
    rows: list[int] = []
    network, forward = pipe.transformer, type(pipe.transformer).forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        rows.append(len(x))
        return forward(network, *args, **kwargs)

    network.forward = counted
    run(pipe, arguments, **{scale: 5.0})
    alone, counts = sum(rows), []
    with fl.attach(pipe, "cfg(5)"):
        for _ in range(2):
            rows.clear()
            run(pipe, arguments, **{scale: 5.0})
            counts.append(sum(rows) - alone)
    assert counts == [2, 0]


def test_rewards_of_images_are_refused_where_the_decoder_is_not_one_of_images() -> None:
    pipe, arguments, _ = family("wan")
    with (
        pytest.raises(UsageError, match="is a reward of images, this model"),
        fl.attach(pipe, "energy(brightness(0.7), 3)"),
    ):
        run(pipe, arguments)


@pytest.mark.parametrize("image_scale", [1.5, 3.0])
def test_a_guidance_takes_the_place_of_the_text_scale_where_the_image_has_one_too(image_scale: float) -> None:
    """InstructPix2Pix: u + s_i (i - u) + s_t (c - i); what stands for no text is i, the image alone."""
    pipe = made.sd("StableDiffusionInstructPix2PixPipeline", network=made.unet(inputs=8))
    arguments = {"prompt": ["a cat", "red"], "image": [picture(), picture()], "output_type": "latent"}
    arguments["image_guidance_scale"] = image_scale
    own = {scale: run(pipe, arguments, 2, guidance_scale=scale) for scale in (5.0, 2.0)}
    for scale, result in own.items():
        for given in (5.0, 7.5):
            with fl.attach(pipe, fl.cfg(scale)) as attached:
                assert apart(run(pipe, arguments, 2, guidance_scale=given), result) < 1e-4
            assert attached.cost.rows == 2 * 3 * 2  # steps, the pipeline's own rows of a sample, samples
    with fl.attach(pipe, "cfg(5).during(sigma=(0.5, 5)) + pag(1) | rescale(0.7)") as attached:
        assert bool(run(pipe, arguments).isfinite().all())
    assert attached.cost.rows == 4 * (3 + 1) * 2


def test_rows_that_the_pipeline_has_asked_for_are_those_that_we_would_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three blocks, a guidance with a perturbed branch and a prompt of its own, with nothing known beforehand."""
    pipe = made.sd("StableDiffusionInstructPix2PixPipeline", network=made.unet(inputs=8))
    arguments = {"prompt": ["a cat", "red"], "image": [picture(), picture()], "output_type": "latent"}
    guidance = 'cfg(3) + cfg(2, negative="blurry") + pag(1)'
    with fl.attach(pipe, guidance) as attached:
        result = run(pipe, arguments)
    monkeypatch.setattr(PipelineDenoiser, "_answered_rows", lambda *_: [])
    with fl.attach(pipe, guidance) as apart_asked:
        assert apart(run(pipe, arguments), result) < 1e-5
    assert apart_asked.cost.rows - attached.cost.rows == 4 * 2 * 2  # steps, the conditional and the null row, samples


def test_an_image_prompt_of_the_null_call_of_its_own() -> None:
    """Flux's IP-Adapter: the pipeline writes both image prompts into one dictionary, one after the other."""
    pipe = made.flux()
    projection = ImageProjection(image_embed_dim=8, cross_attention_dim=32, num_image_text_embeds=2)
    pipe.transformer.encoder_hid_proj = made.spread(MultiIPAdapterImageProjection([projection]), 21)
    parts = {
        name: made.spread(FluxIPAdapterAttnProcessor(32, 32, num_tokens=(2,)), 22) if "single" not in name else part
        for name, part in pipe.transformer.attn_processors.items()
    }
    pipe.transformer.set_attn_processor(parts)
    arguments = {**FAMILIES["flux"].arguments(2, negatives=True), "ip_adapter_image_embeds": [vectors(3, 2, 1, 8)]}
    arguments["negative_ip_adapter_image_embeds"] = [vectors(4, 2, 1, 8)]
    own = run(pipe, arguments, true_cfg_scale=5.0)
    other = {**arguments, "negative_ip_adapter_image_embeds": arguments["ip_adapter_image_embeds"]}
    assert apart(run(pipe, other, true_cfg_scale=5.0), own) > 1e-3
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, arguments), own) < 1e-5
