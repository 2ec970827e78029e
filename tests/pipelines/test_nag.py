"""nag on pipelines against the network run on both texts side by side, their attention combined as the paper does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import attention_processor as processors
from torch import Tensor, nn

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers.families import known_wiring
from fairlead.diffusers.pipelines import encoded
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.test_learned import family as other_classes
from tests.pipelines.test_learned import vectors
from tests.small_pipelines.build import make
from tests.small_pipelines.table import SMALL

PHI, TAU, ALPHA = 4.0, 1.1, 0.6
TEXT = f'nag({PHI + 1:g}, negative="blurry", limit={TAU}, blend={ALPHA})'
KNOWN = ("sd", "sdxl", "sd3", "flux", "pixart alpha", "sana", "sd controlnet")
CLOSE = 1e-4


def combined(z: Tensor) -> Tensor:
    """What positive rows [n, l, c] and then as many negative ones have read -> 2505.21179, section 3, for both."""
    positive, negative = z.double().chunk(2)
    away = positive + PHI * (positive - negative)
    ratio = away.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
    away = ratio.clamp(max=TAU) / ratio * away
    found = (ALPHA * away + (1 - ALPHA) * positive).to(z.dtype)
    return torch.cat([found, found])


def hooked(network: nn.Module, tokens: int, layers: Callable[[str], bool]) -> Iterator[Any]:
    """Attention that combines the two texts where an image reads them, in some layers; in the others both rows of a
    sample read its own."""
    for name, part in network.named_modules():
        if not hasattr(part, "to_q"):
            continue
        read = combined if layers(name) else own
        cross = getattr(part, "is_cross_attention", False)
        joint = hasattr(part, "add_k_proj") and part.add_k_proj is not None
        if cross or joint:  # the input of to_out is what the image has read, of all heads
            yield part.to_out[0].register_forward_pre_hook(lambda _, given, read=read: (read(given[0]), *given[1:]))
        elif name.startswith("single_"):  # text first, then the image
            yield part.register_forward_hook(
                lambda _, __, out, read=read: torch.cat([out[:, :tokens], read(out[:, tokens:])], 1)
            )


def own(z: Tensor) -> Tensor:
    """What the positive rows have read, for both."""
    return torch.cat([z.chunk(2)[0]] * 2)


@contextmanager
def side_by_side(
    pipe: Any,
    given: dict[str, Any],
    layers: Callable[[str], bool] = lambda name: True,
    states: Any = None,
    masks: tuple[str, Any] | None = None,
) -> Iterator[None]:
    """The pipeline's network, run on every sample twice: with its own text, and with the negative one but the pooled
    vector of its own. ``given`` are the arguments of the call, ``states`` those of the negative text if they are not
    the pipeline's own of "blurry", ``masks`` the argument that masks padding, and what it has for the negative."""
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    wiring, call = known_wiring(type(pipe)), type(network).forward
    if wiring is not None:
        answer = encoded(pipe, ["blurry"], given)
        places = {path: place for path, (place, _) in (wiring.texts or {}).items()}
        states = answer[places["encoder_hidden_states"]]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        n = len(x)

        def twice(value: Any) -> Any:
            if isinstance(value, Tensor):
                return torch.cat([value, value]) if value.ndim and len(value) == n else value
            if isinstance(value, dict):
                return {key: twice(part) for key, part in value.items()}
            return [twice(part) for part in value] if isinstance(value, list | tuple) else value

        args = tuple(map(twice, args))
        named = {key: value if key in ("txt_ids", "img_ids") else twice(value) for key, value in kwargs.items()}
        named["encoder_hidden_states"] = torch.cat(
            [kwargs["encoder_hidden_states"], states.expand(n, -1, -1).to(kwargs["encoder_hidden_states"])]
        )
        if kwargs.get("encoder_attention_mask") is not None:
            mask = answer[places["encoder_attention_mask"]].expand(n, -1)
            named["encoder_attention_mask"] = torch.cat([kwargs["encoder_attention_mask"], mask])
        if masks is not None:
            mine, theirs = kwargs[masks[0]], masks[1].to(kwargs[masks[0]])
            named[masks[0]] = torch.cat([mine, torch.cat([theirs, mine[:, theirs.shape[1] :]], 1)])
        hooks = list(hooked(network, states.shape[1], layers))
        output = call(network, twice(x), *args, **{**named, "return_dict": False})[0]
        for hook in hooks:
            hook.remove()
        return (output[:n],)

    network.forward = lambda x=None, *args, **kwargs: forward(
        kwargs.pop("hidden_states") if x is None else x, *args, **kwargs
    )
    try:
        yield
    finally:
        del network.forward


@pytest.mark.parametrize("n", [1, 2])
def test_a_video(n: int) -> None:
    """Wan, whose class is in no table: the negative of the call, read by all frames."""
    pipe, arguments, _ = other_classes("wan", n)
    states = arguments["negative_prompt_embeds"]
    plain = run(pipe, arguments, 2, guidance_scale=1.0)
    with side_by_side(pipe, arguments, states=states):
        expected = run(pipe, arguments, 2, guidance_scale=1.0)
    text = TEXT.replace('negative="blurry", ', "")
    with fl.attach(pipe, text) as attached:
        found = run(pipe, arguments, 2)
    assert apart(found, expected) < CLOSE
    assert apart(found, plain) > 10 * CLOSE
    assert attached.cost.rows == 2 * n
    with fl.attach(pipe, f"{text} + cfg(3)"):
        assert bool(run(pipe, arguments, 2).isfinite().all())


REAL = {"own": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]), "negative": torch.tensor([[1] * 3 + [0] * 3, [1] * 5 + [0]])}
REAL_OF_8 = torch.tensor([[1] * 7 + [0], [1] * 8])
"""Of two texts for each of two samples, which tokens are no padding."""


def padded(name: str) -> tuple[Any, dict[str, Any], str, str]:
    """(pipeline, a call with padded texts for two samples, its own scale, its network's argument for the mask)."""
    if name == "qwen":
        pipe, arguments, scale = other_classes(name)
        masks = {"prompt_embeds_mask": REAL["own"], "negative_prompt_embeds_mask": REAL["negative"]}
        return pipe, {**arguments, **masks}, scale, "encoder_hidden_states_mask"
    pipe = make("ChromaPipeline", SMALL["ChromaPipeline"])
    texts = vectors(1, 2, 2, 6, pipe.transformer.config.joint_attention_dim)
    call = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1], "height": 16, "width": 16}
    masks = {f"{of}prompt_attention_mask": REAL[name].float() for of, name in (("", "own"), ("negative_", "negative"))}
    return pipe, {**call, **masks, "output_type": "latent"}, "guidance_scale", "attention_mask"


@pytest.mark.parametrize("name", ["qwen", "chroma"])
def test_joint_attention_with_masks_of_both_texts(name: str) -> None:
    """Each text is masked as it would be alone, and begins at the position at which it would begin alone."""
    pipe, arguments, scale, mask = padded(name)
    states = arguments["negative_prompt_embeds"]
    plain = run(pipe, arguments, 2, **{scale: 1.0})
    with side_by_side(pipe, arguments, states=states, masks=(mask, REAL["negative"])):
        expected = run(pipe, arguments, 2, **{scale: 1.0})
    text = TEXT.replace('negative="blurry", ', "")
    with fl.attach(pipe, text) as attached:
        found = run(pipe, arguments, 2)
    assert apart(found, expected) < CLOSE
    assert apart(found, plain) > 10 * CLOSE
    assert (attached.cost.rows, attached.cost.calls) == (4, 2)
    seen: list[Any] = []
    for each in ("cfg(2)", "cfg(3)", "cfg(3) + pag(2)", text, f"{text} + cfg(3) + pag(2)"):
        with fl.attach(pipe, each, observe=seen.append):
            run(pipe, arguments, 1)
    twice, thrice, others, away, together = (observation.guided for observation in seen)
    assert apart(together, away + others - (2 * twice - thrice)) < CLOSE  # which is the conditional prediction


def test_a_text_without_padding_beside_a_longer_one_with() -> None:
    """Qwen-Image leaves out a mask of nothing but real tokens; masked padding changes nothing."""
    pipe, arguments, scale, mask = padded("qwen")
    longer = {"negative_prompt_embeds": vectors(3, 2, 8, 8), "negative_prompt_embeds_mask": REAL_OF_8}
    own = {"prompt_embeds": torch.cat([arguments["prompt_embeds"], vectors(4, 2, 2, 8)], 1)}
    filled = {**arguments, **longer, **own, "prompt_embeds_mask": torch.tensor([[1] * 6 + [0] * 2] * 2)}
    with side_by_side(pipe, filled, states=longer["negative_prompt_embeds"], masks=(mask, REAL_OF_8)):
        expected = run(pipe, filled, 2, **{scale: 1.0})
    with fl.attach(pipe, TEXT.replace('negative="blurry", ', "")):
        found = run(pipe, {**arguments, **longer, "prompt_embeds_mask": torch.ones(2, 6, dtype=torch.long)}, 2)
    assert apart(found, expected) < CLOSE


def family_of(family: str, **parts: Any) -> tuple[Any, dict[str, Any], dict[str, float]]:
    """A pipeline, a call for two samples, and what makes it a call of one row per sample."""
    case = FAMILIES[family]
    arguments = case.arguments(2)
    arguments.pop("negative_prompt", None)
    return case.make(**parts), arguments, {case.scale: 1.0}


@pytest.mark.parametrize("family", KNOWN)
def test_it_is_the_equations_in_every_layer_that_reads_the_text(family: str) -> None:
    pipe, arguments, alone = family_of(family)
    plain = run(pipe, arguments, 2, **alone)
    with side_by_side(pipe, arguments):
        expected = run(pipe, arguments, 2, **alone)
    with fl.attach(pipe, TEXT) as attached:
        found = run(pipe, arguments, 2, **alone)
    assert apart(found, expected) < CLOSE
    assert apart(found, plain) > 100 * CLOSE
    assert (attached.cost.rows, attached.cost.calls) == (4, 2)


@pytest.mark.parametrize("family", ["sd", "flux", "sd3"])
def test_layers_are_those_named(family: str) -> None:
    pipe, arguments, alone = family_of(family)
    with fl.attach(pipe, "none") as attached:
        layer = attached.layers["text"][1]
    with side_by_side(pipe, arguments, lambda name: name == layer):
        expected = run(pipe, arguments, 1, **alone)
    with fl.attach(pipe, f"{TEXT[:-1]}, layers='{layer}')"):
        found = run(pipe, arguments, 1, **alone)
    assert apart(found, expected) < CLOSE
    assert apart(found, run(pipe, arguments, 1, **alone)) > 5 * CLOSE


@pytest.mark.parametrize("family", ["sd", "sd3", "flux", "pixart alpha"])
def test_beside_other_branches_in_one_call_it_is_what_it_is_alone(family: str) -> None:
    """Samples at scale 1 keep their bits; perturbed and null rows of the call read their own text alone."""
    pipe, arguments, alone = family_of(family)
    seen: list[Any] = []
    other = f'{TEXT} + pag(2) + cfg(3, negative="a")'
    for text in ("none | rescale(0.5)", TEXT, "pag(2)", 'cfg(3, negative="a")', other):
        with fl.attach(pipe, text, observe=seen.append):
            run(pipe, arguments, 2)
    plain, away, pag, cfg, together = (observation.guided for observation in seen[::2])
    assert apart(together, away + (pag - plain) + (cfg - plain)) < CLOSE
    plain = run(pipe, arguments, 2, **alone)
    with fl.attach(pipe, TEXT.replace("nag(5", "nag([1, 5]")):
        found = run(pipe, arguments, 2)
    assert apart(found[0], plain[0]) < 1e-6
    assert apart(found[1], plain[1]) > 10 * CLOSE


@pytest.mark.parametrize("family", KNOWN)
def test_the_negative_of_the_call_or_of_attach_is_the_one_named(family: str) -> None:
    pipe, arguments, _ = family_of(family)
    with fl.attach(pipe, TEXT):
        expected = run(pipe, arguments, 2)
    text = TEXT.replace('negative="blurry", ', "")
    with fl.attach(pipe, text):
        given = {**arguments, "negative_prompt": ["blurry"] * 2}
        assert apart(run(pipe, given, 2), expected) < CLOSE
    with fl.attach(pipe, text, negative="blurry"):
        assert apart(run(pipe, arguments, 2), expected) < CLOSE


def test_networks_that_are_distilled() -> None:
    """One that takes the guidance scale as an input, and calls at guidance_scale 0, which prepare no null prompt."""
    pipe = made.sd("LatentConsistencyModelPipeline", network=made.unet(time_cond_proj_dim=8))
    pipe.scheduler = diffusers.LCMScheduler(**made.BETAS)
    arguments = FAMILIES["sd"].arguments(2)
    plain = run(pipe, arguments, 2)
    with fl.attach(pipe, 'nag(5, negative="blurry")') as attached:
        assert apart(run(pipe, arguments, 2), plain) > 1e-3
    assert attached.cost.rows == 4
    pipe, arguments, _ = family_of("sdxl")
    with fl.attach(pipe, TEXT):
        expected = run(pipe, arguments, 2)
        assert torch.equal(run(pipe, arguments, 2, guidance_scale=0.0), expected)


@pytest.mark.parametrize("setting", ["explicit", "sliced", "fused", "named like xformers"])
def test_what_computes_cross_attention_does_not_matter(setting: str) -> None:
    pipe, arguments, _ = family_of("sd")
    with fl.attach(pipe, TEXT):
        expected = run(pipe, arguments, 1)
    if setting == "explicit":
        pipe.unet.set_attn_processor(processors.AttnProcessor())
    elif setting == "sliced":
        pipe.enable_attention_slicing("max")
    elif setting == "fused":
        pipe.unet.fuse_qkv_projections()
    else:
        kind = type("XFormersAttnProcessor", (processors.AttnProcessor,), {})
        pipe.unet.set_attn_processor(kind())
    with fl.attach(pipe, TEXT):
        assert apart(run(pipe, arguments, 1), expected) < CLOSE


@pytest.mark.parametrize("family", ["sd", "sd3", pytest.param("flux", marks=pytest.mark.slow), "sana"])
def test_loaded_as_a_model(family: str) -> None:
    """The network of a loaded pipeline is shown the same two texts as that of an attached one."""
    pipe, _, _ = family_of(family)
    model, call = fl.load(pipe), inspect.signature(type(pipe).__call__).parameters
    x_t, t = torch.randn(2, *model.shape, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    condition = model.encode(["a cat", "red"])
    guided = fl.GuidedDenoiser.of(model, TEXT, condition)
    found = guided(x_t, t, condition).x0
    longest = ("max_sequence_length", "complex_human_instruction")
    with side_by_side(pipe, {name: call[name].default for name in longest if name in call}):
        expected = model.denoiser(x_t, t, condition).x0
    assert apart(found, expected) < CLOSE
    assert apart(found, model.denoiser(x_t, t, condition).x0) > 10 * CLOSE


def test_refused_by_name() -> None:
    pipe, arguments, _ = family_of("flux")
    with pytest.raises(UsageError, match=r"nag.*asks for the null prediction.*negative=''"), fl.attach(pipe, "nag(5)"):
        run(pipe, arguments, 1)
    for block in pipe.transformer.transformer_blocks:
        block.attn.processor._attention_backend = "flash"
    with pytest.raises(UsageError, match="in the backend 'flash'"), fl.attach(pipe, TEXT):
        pass
    with pytest.raises(UsageError, match=r"nag: this model reads no text.*use cfg"), fl.attach(made.dit(), "nag(5)"):
        pass
    pipe, _, _ = family_of("sd")
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(UsageError, match="nag: this model reads no text"), fl.attach(pipe, TEXT):
        pass
    pipe, _, _ = other_classes("aura")
    with pytest.raises(UsageError, match="nag: this model reads no text"), fl.attach(pipe, "nag(5)"):
        pass
