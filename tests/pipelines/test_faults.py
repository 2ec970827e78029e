"""Faults of the guiders and pipelines that people use now, each shown not to be here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.guide.branch import COND, NULL
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run


def seen_first(pipe: Any, text: str, arguments: dict[str, Any], **more: Any) -> Any:
    seen: list[Any] = []
    with fl.attach(pipe, text, observe=seen.append):
        run(pipe, arguments, 1, **more)
    return seen[0]


def test_without_cfg_the_perturbed_branch_is_the_prompt_perturbed() -> None:
    """Theirs is then the negative prompt with nothing perturbed. diffusers' PAG pipeline at scale 1 is the oracle."""
    import diffusers

    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(2)
    with fl.attach(pipe, "pag(2)") as attached:
        ours = run(pipe, arguments)
    assert attached.cost.rows == 2 * 2 * 4
    other = diffusers.StableDiffusionPAGPipeline(**pipe.components, pag_applied_layers=["mid"])
    other.set_progress_bar_config(disable=True)
    assert apart(ours, run(other, arguments, guidance_scale=1.0, pag_scale=2.0)) < 1e-4


@pytest.mark.parametrize("text", ["slg(2)", "pag(2)", "seg(2)"])
def test_a_perturbation_belongs_to_its_branch(text: str) -> None:
    """x0 is D_c + s (D_c - D_perturbed) of the same prompt, with cfg and without; scale 0 is off beside cfg."""
    case = FAMILIES["sd3"]
    pipe, arguments = case.make(), case.arguments(1)
    alone, beside = seen_first(pipe, text, arguments), seen_first(pipe, f"cfg(4) + {text}", arguments)
    cond, null = beside.seen.x0(COND), beside.seen.x0(NULL)
    assert apart(beside.guided - 3 * (cond - null), alone.guided) < 1e-5
    off = seen_first(pipe, f"cfg(4) + {text.replace('2', '0')}", arguments)
    assert apart(off.guided, cond + 3 * (cond - null)) < 1e-5
    assert float((alone.guided - cond).abs().max()) > 1e-3


def test_a_blur_that_is_asked_for_fires_and_grows_into_the_mean() -> None:
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    mean, wide, none = (seen_first(pipe, f"seg(2, blur={b})", arguments) for b in ("inf", "1000", "0"))
    cond = mean.seen.x0(COND)
    assert float((mean.guided - cond).abs().max()) > 1e-3
    assert apart(wide.guided, mean.guided) < 1e-4
    assert apart(none.guided, cond) < 1e-5


def test_rescale_of_a_prediction_without_deviation_is_finite() -> None:
    network = made.unet()
    network.conv_out.weight.data.zero_()
    network.conv_out.bias.data.fill_(0.3)
    pipe, arguments = made.sd(network=network), FAMILIES["sd"].arguments(1)
    plain = run(pipe, arguments, guidance_scale=1.0)
    with fl.attach(pipe, "cfg(7) | rescale(0.7)"):
        assert apart(run(pipe, arguments), plain) < 0.05  # of what is rounding only, a share is rescaled


def test_scale_0_of_classes_is_unconditional_and_negative_scales_extrapolate() -> None:
    """Gates of `scale > 1` treat 0 like 1."""
    pipe = made.dit()
    arguments = {"class_labels": [1, 2], "output_type": "pt"}
    null = run(pipe, {**arguments, "class_labels": [1000, 1000]}, guidance_scale=1.0)
    with fl.attach(pipe, "cfg(0)") as attached:
        assert apart(run(pipe, arguments), null) < 1e-5
    assert attached.cost.rows == 2 * 4
    below = seen_first(pipe, "cfg(-2)", arguments)
    cond, u = below.seen.x0(COND), below.seen.x0(NULL)
    assert apart(below.guided, u - 2 * (cond - u)) < 1e-5


def test_the_null_label_is_the_networks_own() -> None:
    """One past its classes, also where they are not 1000."""
    import diffusers

    network = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    pipe = made.dit(transformer=made.spread(network, 1))
    given: list[list[int]] = []
    forward = network.forward

    def listening(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs["class_labels"].tolist())
        return forward(*args, **kwargs)

    network.forward = listening
    with fl.attach(pipe, "cfg(3)"):
        run(pipe, {"class_labels": [9, 4], "output_type": "pt"}, 1)
    assert given == [[9, 4], [9, 4, 10, 10]]  # the rehearsal's, then the step's


def test_all_channels_are_guided_and_by_the_scale_that_is_written() -> None:
    for family in ("sd", "dit", "flux", "sdxl"):
        case = FAMILIES[family]
        arguments = case.arguments(2)
        observed = seen_first(case.make(), "cfg(5)", arguments)
        cond, null = observed.seen.x0(COND), observed.seen.x0(NULL)
        change, delta = observed.guided - cond, cond - null
        assert bool((delta.abs().amax((0, 2, 3)) > 1e-4).all())
        assert apart(change, 4 * delta) < 1e-5


def test_samples_do_not_change_each_other() -> None:
    """Norms, deviations, flags and projections of one sample are its own."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(3)
    latents = torch.randn(3, 4, 8, 8, generator=made.seeded(1))
    text = (
        'apg(cfg(4), norm=2, momentum=-0.3) + tcfg(cfg(2)) + mambo(cfg(2)) + perp_neg(2, "blurry") + sag(0.3) '
        "+ adaptive(cfg(2), 0.9) + cads(0.2) + bands([1, 2]) + energy(brightness(0.7), 1) | rescale(0.7)"
    )

    def sampled(i: slice) -> torch.Tensor:
        words = {"prompt": arguments["prompt"][i], "latents": latents[i], "height": 8, "width": 8}
        generators = [made.seeded(seed) for seed in range(3)[i]]
        with fl.attach(pipe, text):
            answer = pipe(generator=generators, num_inference_steps=4, output_type="latent", **words)[0]
        assert isinstance(answer, torch.Tensor)
        return answer

    together = sampled(slice(0, 3))
    for i in range(3):
        assert apart(sampled(slice(i, i + 1))[0], together[i]) < 1e-3


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("pag(2)", {"negative_prompt": "blurry"}),
        ("cfg(7).during(sigma=(500, 1000))", {"negative_prompt": "blurry"}),
        ("cfg(1)", {"negative_prompt_embeds": torch.zeros(1, 16, 16)}),
        ('cfg(4, negative="red")', {"negative_prompt": "blurry"}),
    ],
)
def test_a_condition_that_is_given_and_not_used_is_refused(text: str, more: dict[str, Any]) -> None:
    pipe = made.sd()
    with pytest.raises(UsageError, match="never evaluates it"), fl.attach(pipe, text):
        run(pipe, {"prompt": "a cat", "height": 8, "width": 8, "output_type": "latent", **more})


def test_dropout_is_not_left_on() -> None:
    network = made.unet(dropout=0.1)
    pipe = made.sd(network=network)
    network.train()
    with pytest.raises(UsageError, match=r"dropout is on; call pipe.unet.eval\(\)"), fl.attach(pipe, "cfg(3)"):
        pass


def test_perturbing_processors_that_a_pipeline_left_behind_are_named() -> None:
    """Theirs stay after output_type="latent" of one class, and its next call without them dies in shapes."""
    import diffusers

    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    theirs = diffusers.StableDiffusionPAGPipeline(**pipe.components, pag_applied_layers=["mid"])
    theirs.set_progress_bar_config(disable=True)
    own = theirs.unet.attn_processors
    theirs._set_pag_attn_processor(pag_applied_layers=["mid"], do_classifier_free_guidance=True)
    with fl.attach(theirs, "cfg(5)"), pytest.raises(UsageError, match=r"still has the PAG.*set_attn_processor\("):
        run(theirs, arguments)
    theirs.unet.set_attn_processor(own)
    with fl.attach(theirs, "cfg(5)"):
        assert bool(run(theirs, arguments).isfinite().all())


def test_what_a_pipeline_reads_by_a_hook_in_its_encoder_is_read_in_every_rehearsal() -> None:
    """JoyImage takes the states of its text encoder's last layer so; an encoder that is not called calls no hook."""
    import diffusers

    class Hooked(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            seen: list[Any] = []
            embedding = next(self.text_encoder.children())
            handle = embedding.register_forward_hook(lambda module, given, output: seen.append(output))
            try:
                return super().encode_prompt(*args, **kwargs)
            finally:
                handle.remove()
                assert seen

    case = FAMILIES["sd"]
    plain, arguments = case.make(), case.arguments(1)
    pipe = Hooked(**plain.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    own = run(plain, arguments, guidance_scale=5.0)
    with fl.attach(pipe, "cfg(5)"):
        assert apart(run(pipe, arguments), own) < 1e-4
