"""A pipeline as a Model: its network, its words, its table; one run of ours against one of the pipeline's."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.diffusers.loading import load_pipeline
from fairlead.sample.noise import NoiseStream
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run

TEXT = ["sd", "sdxl", "sd3", "flux", "pixart alpha", "sana"]
SIZE = {"flux": 8, "sana": 8}
SEEDS = (11, 12)


def loaded(family: str, **parts: Any) -> tuple[Any, fl.Model]:
    pipe = FAMILIES[family].make(**parts)
    return pipe, load_pipeline(pipe, size=SIZE.get(family))


def start(pipe: Any, family: str, model: fl.Model) -> torch.Tensor:
    """The noise of our run, as the pipeline takes its latents."""
    x = NoiseStream(SEEDS, model.shape).start()
    x = x * float(model.schedule.alpha_sigma(torch.ones((), dtype=torch.float64))[1])
    if family == "flux":
        from fairlead.diffusers.packing import packed

        return packed(x)
    return x


@pytest.mark.parametrize("family", TEXT)
def test_a_prediction_is_what_the_network_told_the_pipeline(family: str) -> None:
    """At every step of a run of the pipeline, at its own x_t: conditional and null, embeddings and times included."""
    pipe, model = loaded(family)
    case = FAMILIES[family]
    arguments = {**case.arguments(2), "prompt": ["a cat", "blue dog"]}
    for name in ("negative_prompt", "max_sequence_length", "complex_human_instruction"):
        arguments.pop(name, None)  # a loaded pipeline has the defaults of its call
    seen: list[Any] = []
    negative = "" if family == "flux" else None
    more = {"guidance_scale": 3.5} if family == "flux" else {}
    with fl.attach(pipe, fl.cfg(3), negative=negative, observe=seen.append):
        run(pipe, arguments, 3, **more)
    condition = model.encode(["a cat", "blue dog"])
    for observation in seen:
        there = observation.seen
        t = model.schedule.t_of_ratio(torch.tensor(there.step.sigma, dtype=torch.float64))
        for branch, mine in ((fl_branches()[0], condition), (fl_branches()[1], condition.drop())):
            assert apart(model.denoiser(there.x_t, t, mine).x0, there.x0(branch)) < 1e-4


def fl_branches() -> tuple[Any, Any]:
    from fairlead.guide.branch import COND, NULL

    return COND, NULL


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart alpha", "dit"])
def test_a_ddim_run_is_the_pipelines_own_run(family: str) -> None:
    """Same noise, same trailing grid, same scale: our sampler on the loaded model, and the pipeline by itself."""
    scheduler = made.ddim(timestep_spacing="trailing", set_alpha_to_one=True)
    pipe, model = loaded(family, scheduler=scheduler)
    conds: list[Any] = [1, 2] if family == "dit" else ["a cat", "blue dog"]
    ours = fl.sample(model, conds, guidance="cfg(4)", seeds=SEEDS, steps=5)
    case = FAMILIES[family]
    if family == "dit":
        theirs = _dit_run(pipe, start(pipe, family, model))
    else:
        arguments = {**case.arguments(2), "prompt": conds, "latents": start(pipe, family, model)}
        theirs = run(pipe, arguments, 5, guidance_scale=4.0)
    assert apart(model.decode(ours.x0) / 2 + 0.5 if family == "dit" else ours.x0, theirs) < 1e-4


def _dit_run(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """DiTPipeline takes no latents: its images, unclamped, by its own loop in one line per step."""
    network, scheduler = pipe.transformer, pipe.scheduler
    scheduler.set_timesteps(5)
    x, labels = latents, torch.tensor([1, 2, 1000, 1000])
    for k in scheduler.timesteps:
        eps = network(torch.cat([x, x]), timestep=k.expand(4), class_labels=labels).sample[:, :4]
        x = scheduler.step(eps[2:] + 4.0 * (eps[:2] - eps[2:]), k, x).prev_sample
    image: torch.Tensor = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return image / 2 + 0.5


@pytest.mark.parametrize(
    "text",
    [
        'cfg(4, negative="blurry")',
        'compose({"a cat": 4, "blue dog": -2})',
        "cfg(3) + pag(2) + seg(1) + slg(1)",
        "sag(0.7)",
        "cfg(4) + cads(0.3)",
        "apg(cfg(4), norm=2, momentum=-0.5) | rescale(0.7)",
        "energy(brightness(0.7), 3)",
        "energy(brightness(0.7), 3, through=False, draws=2, spread=0.5)",
        "cfgpp(0.6)",
        "cached(cfg(3)) + adaptive(cfg(4), 0.5)",
        "bands([2, 4]) + mambo(cfg(2)) + tcfg(cfg(2))",
        "cfg(region(ramp(1, 5), 0, [0, 0, 0.5, 0.5]))",
    ],
)
def test_a_guidance_does_the_same_loaded_and_attached(text: str) -> None:
    """Two ways through the code, one result: sampled by our DDIM, and attached to the pipeline with its DDIM."""
    pipe, model = loaded("sd", scheduler=made.ddim(timestep_spacing="trailing", set_alpha_to_one=True))
    replacing = text.startswith("compose")
    ours = fl.sample(model, None if replacing else ["a cat", "blue dog"], guidance=text, seeds=SEEDS, steps=5, n=2)
    arguments = {**FAMILIES["sd"].arguments(2), "prompt": ["", ""] if replacing else ["a cat", "blue dog"]}
    arguments["latents"] = start(pipe, "sd", model)
    generators = [made.seeded(seed) for seed in SEEDS]
    with fl.attach(pipe, text) as attached:
        theirs = pipe(generator=generators, num_inference_steps=5, **arguments)[0]
    assert apart(ours.x0, theirs) < 1e-4
    assert ours.cost.rows == attached.cost.rows


def test_from_a_folder(tmp_path: Path) -> None:
    pipe, model = loaded("sd")
    pipe.save_pretrained(tmp_path / "sd")
    again = fl.load(tmp_path / "sd", device="cpu")
    assert again.metadata["weights_hash"] == model.metadata["weights_hash"]
    assert again.shape == (4, 8, 8)
    assert again.data_range is None
    first, second = (fl.sample(m, "a cat", guidance="cfg(3)", steps=2) for m in (model, again))
    assert torch.equal(first.x0, second.x0)
    assert first.images is not None
    assert first.images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("family", ["sd", "sd3", "sana"])
def test_images_and_latents_go_both_ways(family: str) -> None:
    """``to_space`` is what the pipeline's own VAE makes of an image, ``decode`` undoes its scale and shift."""
    pipe, model = loaded(family)
    image = torch.rand(1, *model.image_shape) * 2 - 1
    answer = pipe.vae.encode(image)
    code = answer.latent if family == "sana" else answer.latent_dist.mode()
    x0 = model.to_space(image)
    assert x0.shape == (1, *model.shape)
    assert apart(model.decode(x0), pipe.vae.decode(code).sample) < 1e-5
    assert model.decode(x0).shape == image.shape


def test_a_prompt_does_not_depend_on_its_neighbours_and_none_is_null() -> None:
    _, model = loaded("sdxl")
    both, one = model.encode(["a cat", None]), model.encode(["a cat"])
    assert torch.equal(both.values["prompt"][:1], one.values["prompt"])
    assert both.keep["prompt"].tolist() == [True, False]
    assert not bool(both.values["prompt"][1].any())  # SDXL's null is zeros, not the empty prompt
    assert bool(model.encode([""]).values["prompt"].any())


@pytest.mark.parametrize("kind", ["DDIMPipeline", "DDPMPipeline"])
def test_an_unconditional_pipeline(kind: str) -> None:
    model = fl.load(made.unconditional(kind))
    assert model.data_range == (-1.0, 1.0)
    assert torch.equal(model.decode(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    prediction = model.denoiser(x, t, Condition(2))
    network = made.unconditional(kind).unet
    assert torch.equal(prediction.eps, network(x, torch.tensor(499.0)).sample)
    with pytest.raises(UsageError, match="unconditional"):
        fl.sample(model, "a cat")


def test_explain_reads_a_loaded_pipeline() -> None:
    _, model = loaded("sd")
    assert fl.explain(model, "a cat", guidance="cfg(4) + pag(1)", steps=3, seeds=(0, 1)).rows == (6, 6, 6)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            made.sd("StableDiffusionInpaintPipeline", network=made.unet(inputs=9)),
            "needs an image in addition to the prompt",
        ),
        (
            made.sd("StableDiffusionControlNetPipeline", controlnet=made.controlnet()),
            "needs an image in addition to the prompt",
        ),
        (made.sd(network=made.unet(time_cond_proj_dim=8)), "distilled"),
        (made.sd(text_encoder=None), "no text encoder"),
        (3, "expected a diffusers pipeline, got int"),
        ("nobody/nothing", "no checkpoint 'nobody/nothing': the path does not exist"),
    ],
)
def test_what_cannot_be_loaded(spec: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        fl.load(spec)
    assert "\n" not in str(caught.value)


def test_weights_of_a_pipeline_have_no_other_kind() -> None:
    with pytest.raises(UsageError, match="one kind of weights"):
        fl.load(made.sd(), weights="raw")


def test_a_condition_that_is_no_text() -> None:
    _, model = loaded("sd")
    with pytest.raises(UsageError, match="this model takes prompts"):
        fl.sample(model, 3)


def test_particles_of_a_loaded_pipeline_compete_by_decoded_images() -> None:
    """Best of 3 by brightness of what the VAE makes of the latents is the brightest of the 3, rows counted."""
    _, model = loaded("sd")
    reward = fl.brightness(1.0)
    settings: dict[str, Any] = {"sampler": "ddpm", "steps": 3, "seeds": [4, 9]}
    best = fl.sample(model, "a cat", particles=fl.Particles(3, every=0, pick="best"), reward=reward, **settings)
    plain = fl.sample(model, "a cat", **settings)
    assert best.cost.rows == 3 * plain.cost.rows
    light = [run.decoded.flatten(1).mean(1) for run in (plain, best) if run.decoded is not None]
    assert bool((light[1] >= light[0] - 1e-5).all())
    steered = fl.sample(model, "a cat", guidance="fkc(cfg(1.5))", particles=fl.Particles(2, every=1), **settings)
    assert steered.cost.rows == 2 * 2 * plain.cost.rows


def test_particles_are_refused_where_the_pipeline_samples() -> None:
    with (
        pytest.raises(UsageError, match=r"weights particles, and an attached pipeline has none"),
        fl.attach(made.sd(), "fkc(cfg(2))"),
    ):
        pass
