"""What a user has handed over is afterwards as it was, and is used in evaluation mode, without gradients."""

from __future__ import annotations

import inspect
import re
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.modules import evaluating
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run

PARTS = ("unet", "vae", "text_encoder")


def states(pipe: Any) -> list[Any]:
    """Mode, gradients, dtype, device, hooks and processors of all that a pipeline has."""
    found: list[Any] = []
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            found += [(id(p), p.requires_grad, p.dtype, p.device, p.grad) for p in part.parameters()]
            for module in part.modules():
                hooks = [key for key in vars(module) if "hook" in key and vars(module)[key]]
                found.append((module.training, hooks, id(getattr(module, "processor", None))))
    return found


def training(pipe: Any) -> Any:
    for name in PARTS:
        getattr(pipe, name).train().requires_grad_(True)
    pipe.unet.mid_block.eval()  # not all of it
    return pipe


def test_a_loaded_pipeline_can_be_trained_on() -> None:
    pipe = training(made.sd())
    before = states(pipe)
    model = fl.load(pipe)
    fl.sample(model, "red", guidance="cfg(3) + pag(1) + energy(brightness(0.7), 2)", steps=2)
    fl.explain(model, "red", guidance="cfg(3)", steps=2)
    assert not model.to_space(torch.zeros(1, 3, 8, 8)).requires_grad
    assert not model.decode(torch.zeros(1, 4, 8, 8)).requires_grad
    assert not model.denoiser(torch.zeros(1, 4, 8, 8), torch.tensor(0.5), model.encode(["red"])).x0.requires_grad
    assert states(pipe) == before
    loss = pipe.unet(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 16, 16)).sample.square().mean()
    loss.backward()
    assert all(p.grad is not None for p in pipe.unet.conv_in.parameters())


def test_dropout_is_off_while_a_model_samples_and_on_after_it() -> None:
    quiet = made.sd(network=made.unet(dropout=0.5))
    wanted = fl.sample(fl.load(quiet), "red", guidance="cfg(3)", steps=2).x0
    quiet.unet.train()
    assert torch.equal(fl.sample(fl.load(quiet), "red", guidance="cfg(3)", steps=2).x0, wanted)
    assert quiet.unet.training
    t5 = FAMILIES["pixart alpha"].make()
    t5.text_encoder.train()
    for module in t5.text_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model = fl.load(t5)
    first, again = (fl.load(t5).encode(["red"]).values["prompt"] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(model.encode(["red"]).values["prompt"], first)


def test_labels_are_not_dropped_at_random() -> None:
    pipe = made.dit()
    pipe.transformer.train()
    with pytest.raises(UsageError, match=r"dropout is on; call pipe.transformer.eval\(\)"), fl.attach(pipe, "cfg(3)"):
        pass
    pipe = made.sd()
    weak = made.unet(dropout=0.3).train()
    with (
        pytest.raises(UsageError, match=r"w is in training mode, so dropout is on"),
        fl.attach(pipe, 'auto(2, weak="w")', resources={"w": weak}),
    ):
        pass


def test_attach_and_the_guider_leave_a_pipeline_as_it_was() -> None:
    pipe = training(made.sd())
    before = states(pipe)
    with fl.attach(pipe, "cfg(3) + pag(1) + sag(0.5)"):
        run(pipe, FAMILIES["sd"].arguments(1), 2)
    assert states(pipe) == before


def test_modes_of_blocks_that_overlap() -> None:
    """The last of them gives back the mode."""
    module = nn.Sequential(nn.Dropout(), nn.Linear(1, 1))
    module[1].eval()
    first, second = evaluating(module), evaluating(module, None, "no module")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(part.training for part in module.modules())
    second.__exit__(None, None, None)
    assert [part.training for part in module.modules()] == [True, True, False]


def test_a_vae_that_overflows_in_half_precision_computes_in_full_and_stays_half() -> None:
    """As SDXL's: activations beyond 65504."""
    whole, half = made.sdxl(), made.sdxl()
    for pipe in (whole, half):
        pipe.vae.register_to_config(force_upcast=True)
        for part in (pipe.vae.decoder.conv_in, pipe.vae.encoder.conv_in):
            part.weight.data.mul_(5e4)
    half.vae.half()
    whole.vae.half().float()
    before = states(half)
    latents = torch.randn(1, 4, 8, 8, generator=made.seeded())
    wide, narrow = fl.load(whole), fl.load(half)
    assert apart(narrow.decode(latents), wide.decode(latents)) < 1e-3
    images = torch.rand(1, 3, 8, 8, generator=made.seeded())
    assert apart(narrow.to_space(images), wide.to_space(images)) < 1e-3
    x = latents.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(narrow.decode(x).sum(), x)
    assert bool(gradient.isfinite().all())
    assert states(half) == before
    assert half.vae.dtype == torch.float16
    with fl.attach(half, "cfg(3) + energy(brightness(0.7), 1)"):
        assert bool(run(half, FAMILIES["sdxl"].arguments(1), 2).isfinite().all())


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_are_stored_in_eight_bits(part: str) -> None:
    """Attached, the pipeline's own guidance; loaded, the same samples as attached; gradients are refused."""
    case = FAMILIES["sd"]
    pipe, arguments = case.make(), case.arguments(1)
    getattr(pipe, part).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    own = run(pipe, arguments, 2, guidance_scale=3.0)
    with fl.attach(pipe, "cfg(3)"):
        assert apart(run(pipe, arguments, 2), own) < 1e-4
    with fl.attach(pipe, "cfg(3) + pag(2) + seg(1) + slg(1)"):
        assert bool(run(pipe, arguments, 2).isfinite().all())
    model = fl.load(pipe)
    assert bool(fl.sample(model, "red", guidance="cfg(3) + pag(1)", steps=2).x0.isfinite().all())
    with pytest.raises(UsageError, match="casts its weights for each call"):
        fl.sample(model, "red", guidance="cfg(3) + energy(brightness(0.7), 1)", steps=1)
    with (
        pytest.raises(UsageError, match="casts its weights for each call"),
        fl.attach(pipe, "energy(brightness(0.7), 1)"),
    ):
        run(pipe, arguments, 1)


CACHES: dict[str, Any] = {
    "FirstBlockCache": lambda: diffusers.FirstBlockCacheConfig(threshold=0.5),
    "PyramidAttentionBroadcast": lambda: diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "FasterCache": lambda: diffusers.FasterCacheConfig(current_timestep_callback=lambda: 500, tensor_format="BCHW"),
    "TaylorSeerCache": lambda: diffusers.TaylorSeerCacheConfig(),
    "MagCache": lambda: diffusers.MagCacheConfig(num_inference_steps=4, calibrate=True),
    "SeaCache": lambda: diffusers.SeaCacheConfig(),
    "TextKVCache": lambda: diffusers.TextKVCacheConfig(),
}


def test_every_cache_of_diffusers_is_here() -> None:
    from diffusers.models.cache_utils import CacheMixin

    taken = re.findall(r"isinstance\(config, (\w+)Config\)", inspect.getsource(CacheMixin.enable_cache))
    assert set(taken) == set(CACHES)


@pytest.mark.parametrize("name", [name for name in CACHES if hasattr(diffusers, f"{name}Config")])
def test_caches_of_diffusers_are_refused_by_name(name: str) -> None:
    case = FAMILIES["flux"]
    pipe, arguments = case.make(), {**case.arguments(1), "negative_prompt": "a"}
    model = fl.load(pipe)
    pipe.transformer.enable_cache(CACHES[name]())
    words = rf"pipe.transformer has the cache {name} switched on.*pipe.transformer.disable_cache\(\)"
    with pytest.raises(UsageError, match=words) as caught, fl.attach(pipe, "cfg(3)", negative="a"):
        pass
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=words):
        fl.load(pipe)
    with pytest.raises(UsageError, match=words):
        fl.sample(model, "red", steps=1)
    pipe.transformer.disable_cache()
    with fl.attach(pipe, "cfg(3)"):
        own = run(pipe, arguments, 2)
        pipe.transformer.enable_cache(CACHES[name]())
        with pytest.raises(UsageError, match=words):
            run(pipe, arguments, 2)
        pipe.transformer.disable_cache()
        assert torch.equal(run(pipe, arguments, 2), own)

        def later(pipe: Any, i: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            pipe.transformer.enable_cache(CACHES[name]())
            return {}

        with pytest.raises(UsageError, match=words):
            run(pipe, arguments, 2, callback_on_step_end=later)


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_was_put_in_by_hand(name: str) -> None:
    """By a function apply_..., which the network does not know of: found by its hooks, and gone without those named."""
    pipe, arguments = made.flux(), {**FAMILIES["flux"].arguments(1), "negative_prompt": "a"}
    functions = {f.removeprefix("apply_").replace("_", ""): f for f in dir(diffusers.hooks) if f.startswith("apply_")}
    kind = name.lower() if name.lower() in functions else f"{name.lower()}cache"
    getattr(diffusers.hooks, functions[kind])(pipe.transformer, CACHES[name]())
    with (
        pytest.raises(UsageError, match=r"pipe.transformer has the cache hooks '\w+' \(\w+\)") as caught,
        fl.attach(pipe, "cfg(3)", negative="a"),
    ):
        pass
    assert "\n" not in str(caught.value)
    for key in re.findall(r"'(\w+)' \(", str(caught.value)):
        diffusers.hooks.HookRegistry.check_if_exists_or_initialize(pipe.transformer).remove_hook(key, recurse=True)
    with fl.attach(pipe, "cfg(3)"):
        own = run(pipe, arguments, 2)
    other = made.flux()
    with fl.attach(other, "cfg(3)"):
        assert torch.equal(run(other, arguments, 2), own)


def test_the_refiner_of_sdxl_is_guided_and_not_sampled_from_noise() -> None:
    """It has one text encoder and five numbers in the place of six, of which the null half has others."""
    network = made.unet(8, cross=16, **{**made.XL, "projection_class_embeddings_input_dim": 16 + 5 * 8})
    parts = {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True, "unet": network}
    pipe = made.sdxl("StableDiffusionXLImg2ImgPipeline", **parts)
    arguments = FAMILIES["sdxl img2img"].arguments(2)
    own = run(pipe, arguments, guidance_scale=4.0)
    with fl.attach(pipe, "cfg(4)"):
        assert apart(run(pipe, arguments), own) < 1e-4
    with pytest.raises(UsageError, match=r"aesthetic score.*use fl.attach on it") as caught:
        fl.load(pipe)
    assert "\n" not in str(caught.value)


def test_a_pipeline_that_perturbs_by_itself_is_loaded_without_that() -> None:
    parts = made.sd().components
    other = diffusers.StableDiffusionPAGPipeline(**parts, requires_safety_checker=False)
    known, model = fl.load(made.sd()), fl.load(other)
    x, t = torch.randn(2, *known.shape), torch.tensor(0.6, dtype=torch.float64)
    for specs in (["a cat", "red"], [None, None]):
        mine, theirs = (m.denoiser(x, t, m.encode(specs)).x0 for m in (model, known))
        assert float((mine - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_the_guider_and_attach_do_not_send_the_user_to_each_other() -> None:
    for text in ('cfg(3, negative="a")', 'auto(2, weak="w")', "cfgpp(0.5)"):
        with pytest.raises(UsageError) as caught:
            fl.Guider(text, made.ddim())
        assert "attach" not in str(caught.value)
        assert "DiffusionPipeline" in str(caught.value)
    modular = diffusers.ModularPipeline.__new__(diffusers.ModularPipeline)
    with pytest.raises(UsageError, match=r"takes a guider: pipe.update_components\(guider=fl.Guider"):
        fl.attach(modular, "cfg(3)").__enter__()
