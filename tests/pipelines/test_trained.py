"""Networks of diffusers in our trainer, and the pipelines that come of them, run by a process that never imports us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.errors import UsageError
from fairlead.data.text import encoder_from_config, make_encoder
from fairlead.diffusers.networks import diffusers_config
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.nets.build import build_net, net_config
from fairlead.sample.ddim import DDIM
from fairlead.sample.grids import trailing
from fairlead.sample.noise import NoiseStream
from fairlead.train.conditions import asked
from tests.pipelines import made
from tests.pipelines.families import apart
from tests.pipelines.trained import NETWORKS, captioned, config_of, encoders, grey_vae, train
from tests.train.tiny import same_bits, tensors_of

STEPS, SCALE = 5, 4.0
PROMPTS = ["a red square", "blue"]
EXPORTED = (
    *("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "PixArtTransformer2DModel"),
    "SD3Transformer2DModel",
)
QUICK = ("DiTTransformer2DModel",)
"""Networks that the fast tests train too; the others are in the slow ones."""
TEXT = [name for name, (_, conditions, _) in NETWORKS.items() if conditions == ("text",)]
OUTSIDE = """
import sys, json, torch, diffusers
jobs = json.loads(sys.argv[1])
for job in jobs:
    pipe = getattr(diffusers, job["kind"]).from_pretrained(job["folder"])
    pipe.set_progress_bar_config(disable=True)
    call = dict(job["call"], num_inference_steps=job["steps"], output_type="pt", return_dict=False)
    if "latents" in call:
        call["latents"] = torch.load(call["latents"])
    else:
        call["generator"] = torch.Generator().manual_seed(7)
    torch.save(torch.as_tensor(pipe(**call)[0]), job["out"])
assert "fairlead" not in sys.modules
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the networks that pipelines have, each in what its pipeline denoises, and the pipelines."""
    place = tmp_path_factory.mktemp("trained")
    data, texts, vae = captioned(), encoders(place), grey_vae(place / "vae")
    for network in EXPORTED:
        more: dict[str, Any] = {} if network == "UNet2DModel" else {"vae": vae}
        train(config_of(network, data, texts, **more), data, place / network)
    return place


@pytest.fixture(scope="module")
def texts(place: Path) -> dict[str, str]:
    return {name: f"{name}:{place / name}" for name in ("clip", "t5", "sd3")}


def sampled(model: Model, x_t: Tensor, conds: list[Any], guidance: str) -> Tensor:
    """DDIM of ours on the trailing grid, decoded to [0, 1]."""
    times = trailing(model.schedule, STEPS)
    guided = fl.GuidedDenoiser.of(model, fl.parse(guidance), model.encode(conds), times=times)
    noise = NoiseStream((0, 1), model.shape)
    with torch.no_grad():
        *_, last = DDIM().frames(guided, x_t, times, model.schedule, guided.condition, noise)
        return (model.decode(last.x_t) / 2 + 0.5).clamp(0, 1)


def test_plain_diffusers_makes_the_images_that_our_sampler_makes(place: Path, tmp_path: Path) -> None:
    x_t = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(7))
    torch.save(x_t, tmp_path / "latents")
    latents = {"latents": str(tmp_path / "latents"), "guidance_scale": SCALE}
    square = {"clean_caption": False, "use_resolution_binning": False, "max_sequence_length": 12}
    calls: dict[str, dict[str, Any]] = {
        "UNet2DModel": {"batch_size": 2},
        "UNet2DConditionModel": {"prompt": PROMPTS, **latents},
        "DiTTransformer2DModel": {"class_labels": [3, 7], "guidance_scale": SCALE},
        "PixArtTransformer2DModel": {"prompt": PROMPTS, **latents, **square},
        "SD3Transformer2DModel": {"prompt": PROMPTS, **latents, "sigmas": [1.0, 0.8, 0.6, 0.4, 0.2]},
    }
    kinds = (
        "DDIMPipeline",
        "StableDiffusionPipeline",
        "DiTPipeline",
        "PixArtAlphaPipeline",
        "StableDiffusion3Pipeline",
    )
    jobs = []
    for network, kind in zip(EXPORTED, kinds, strict=True):
        folder = fl.export(place / network, tmp_path / network)
        assert json.loads((folder / "model_index.json").read_text())["_class_name"] == kind
        jobs.append({"kind": kind, "folder": str(folder), "call": calls[network], "steps": STEPS})
        jobs[-1]["out"] = str(tmp_path / f"{network}.images")
    subprocess.run([sys.executable, "-W", "ignore", "-c", OUTSIDE, json.dumps(jobs)], check=True, cwd=tmp_path)
    for network, job in zip(EXPORTED, jobs, strict=True):
        theirs = torch.load(str(job["out"]))
        theirs = theirs.permute(0, 3, 1, 2) if theirs.shape[-1] == 1 else theirs
        conditions = NETWORKS[network][1]
        conds: list[Any] = PROMPTS if conditions == ("text",) else [3, 7] if conditions else [None, None]
        start = x_t if conditions else torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(7))
        ours = sampled(load(place / network), start, conds, f"cfg({SCALE})" if conditions else "none")
        assert ours.std() > 0.01
        assert float((ours - theirs).abs().max()) < 1e-4, network


@pytest.mark.parametrize("network", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in EXPORTED])
def test_the_pipeline_loaded_by_us_is_the_run(network: str, place: Path, tmp_path: Path) -> None:
    """Predictions with a condition, without one, and of a network worse on purpose."""
    run, pipe = load(place / network), load(fl.export(place / network, tmp_path / "pipe"))
    assert pipe.schedule.alpha_sigma(torch.tensor(0.4))[0] == pytest.approx(
        float(run.schedule.alpha_sigma(torch.tensor(0.4))[0]), abs=1e-6
    )
    assert run.layers == pipe.layers
    conditions = NETWORKS[network][1]
    specs: list[Any] = ["a red square", None] if conditions == ("text",) else [3, None] if conditions else [None, None]
    x_t = torch.randn(2, *run.shape, generator=made.seeded())
    for t in (1.0, 0.5, 0.002):
        there = torch.tensor(t, dtype=torch.float64)
        ours, theirs = (model.denoiser(x_t, there, model.encode(specs)).eps for model in (run, pipe))
        assert apart(ours, theirs) < 1e-4
    ours, theirs = (_worse(model, x_t, specs) for model in (run, pipe))
    assert apart(ours, theirs) < 1e-4


@pytest.mark.slow
def test_a_flow_is_a_pipeline_too(place: Path, texts: dict[str, str], tmp_path: Path) -> None:
    """Its scheduler tells the network 1000 sigma."""
    data = captioned()
    config = config_of("UNet2DConditionModel", data, texts, place / "vae", schedule={"name": "flow"}, objective="flow")
    train(config, data, tmp_path / "run")
    run, pipe = load(tmp_path / "run"), load(fl.export(tmp_path / "run", tmp_path / "pipe"))
    x_t = torch.randn(2, *run.shape, generator=made.seeded())
    for t in (1.0, 0.5, 0.002):
        at = torch.tensor(t, dtype=torch.float64)
        ours, theirs = (model.denoiser(x_t, at, model.encode(["red", None])).x0 for model in (run, pipe))
        assert apart(ours, theirs) < 1e-4


def _worse(model: Model, x_t: Tensor, specs: list[Any]) -> Tensor:
    from fairlead.core.condition import Perturbation

    condition = model.encode(specs).perturbed(Perturbation("identity_attention", model.layers["attention"][:1]))
    return model.denoiser(x_t, torch.tensor(0.5, dtype=torch.float64), condition).eps


@pytest.mark.parametrize("network", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS])
def test_two_and_two_steps_are_four_to_the_bit(network: str, texts: dict[str, str], tmp_path: Path) -> None:
    """Dropout inside the network included; labels are dropped by the condition alone."""
    data = captioned()
    dropout: dict[str, Any] = {} if network in ("SD3Transformer2DModel",) else {"settings": {"dropout": 0.2}}
    config = config_of(network, data, texts, checkpoint_every=2, **dropout)
    straight = train(config, data, tmp_path / "straight")
    before = train(config, data, tmp_path / "halves", until=2)
    after = train(config, data, tmp_path / "halves", resume=True)
    assert [r.loss for r in straight] == [r.loss for r in before + after]
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))
    assert straight[0].loss != straight[-1].loss


@pytest.mark.parametrize("network", TEXT)
def test_no_text_is_the_empty_string(network: str, texts: dict[str, str]) -> None:
    data = captioned()
    config = config_of(network, data, texts)
    encoder = encoder_from_config(config.text)
    net: Any = build_net(config.net).eval()
    made.spread(net, 1)
    once = encoder([""])
    net.text.set_empty(once[0])
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0])
    empty = Condition.of(text=once.expand(2, -1, -1))
    null = Condition.of(text=encoder(["a red square", "blue"]))
    with torch.no_grad():
        assert torch.equal(net(x, time, empty), net(x, time, null.drop()))
        assert apart(net(x, time, null), net(x, time, empty)) > 1e-3


def test_positions_that_do_not_reach() -> None:
    settings = {**NETWORKS["SD3Transformer2DModel"][0], "patch_size": 2, "pos_embed_max_size": 8}
    with pytest.raises(UsageError, match=r"pos_embed_max_size 8, in patches of 2, is too few for 32x32; give 16"):
        diffusers_config("SD3Transformer2DModel", settings, 4, 32, 0, {"width": 16, "length": 8})


def test_what_reads_as_stable_diffusion_3_does_is_for_its_network(texts: dict[str, str], tmp_path: Path) -> None:
    data = captioned()
    _, inputs, _ = asked(data, ["text"], texts["sd3"])
    with pytest.raises(UsageError, match="sd3 is for"):
        build_net(net_config("8x8", 1, 8, 0, **inputs))
    with pytest.raises(UsageError, match="UNet2DConditionModel is no network of Stable Diffusion 3"):
        diffusers_config("UNet2DConditionModel", NETWORKS["UNet2DConditionModel"][0], 1, 8, 0, inputs["text"])
    for part in (made.clip_text(projection=True, projected=8), made.clip_tokenizer()):
        part.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="expected a projection as wide as the states, got 8 and 16"):
        make_encoder(f"sd3:{tmp_path}")


def test_no_class_is_the_class_beyond_the_last(texts: dict[str, str]) -> None:
    for network, table, null in (("DiTTransformer2DModel", 1001, 1000), ("UNet2DModel", 11, 10)):
        net: Any = build_net(diffusers_config(network, NETWORKS[network][0], 1, 8, 10))
        embeddings = [m for m in net.modules() if isinstance(m, torch.nn.Embedding)]
        assert {e.num_embeddings for e in embeddings} == {table}
        x, label = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
        output = net.train()(x, torch.tensor([5.0, 6.0]), Condition.of(label=label).drop(torch.tensor([True, False])))
        output.square().sum().backward()
        for embedding in embeddings:
            assert embedding.weight.grad is not None
            reached = embedding.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
            assert set(reached) <= {4, null}


def test_the_command_line_trains_and_exports(place: Path, texts: dict[str, str], tmp_path: Path) -> None:
    from fairlead.cli import main

    settings = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.30",
        **NETWORKS["UNet2DConditionModel"][0],
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    vae = diffusers_vae(tmp_path / "vae")
    words = ["--data", "scenes(n=40, size=32)", "--conditions", "text", "--text", f"clip:{scene_words(tmp_path)}"]
    short = ["--steps", "2", "--batch-size", "4", "--text-long", "cut", "--latents", str(vae)]
    out = str(tmp_path / "run")
    assert main(["train", *words, *short, "--net-config", str(tmp_path), "--out", out]) == 0
    assert main(["export", out, str(tmp_path / "pipe")]) == 0
    model, pipe = load(out), load(tmp_path / "pipe")
    assert model.schedule.config() == {"name": "vp_linear", "steps": 1000}
    x_t = torch.randn(1, *model.shape)
    at = torch.tensor(0.7, dtype=torch.float64)
    ours, theirs = (m.denoiser(x_t, at, m.encode(["a red seven on white"])).x0 for m in (model, pipe))
    assert apart(ours, theirs) < 1e-4


def diffusers_vae(folder: Path) -> Path:
    made.vae().save_pretrained(folder)
    return folder


def scene_words(folder: Path) -> Path:
    """A tokenizer of pieces of words knows any."""
    for part in (made.clip_text(), made.clip_tokenizer()):
        part.save_pretrained(folder / "words")
    return folder / "words"


def refused(words: str, network: str, settings: dict[str, Any], classes: int = 0, text: Any = None) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        diffusers_config(network, settings, 1, 8, classes, text)
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_be(texts: dict[str, str]) -> None:
    text = {"width": 16, "length": 8}
    refused("network of diffusers", "UNet3DConditionModel", {})
    refused("setting of UNet2DModel", "UNet2DModel", {"block_out_chanels": [8]})
    refused("these settings are of UNet2DConditionModel", "UNet2DModel", {"_class_name": "UNet2DConditionModel"})
    refused("in_channels is 4, the data", "UNet2DModel", {"in_channels": 4})
    refused("reads text; add text", "UNet2DConditionModel", {})
    refused("reads no text", "UNet2DModel", {}, text=text)
    refused("no class embedding", "PixArtTransformer2DModel", {}, 10, text)
    refused("cross_attention_dim is 32", "UNet2DConditionModel", {"cross_attention_dim": 32}, text=text)
    refused("num_embeds_ada_norm is 5, the data has 10", "DiTTransformer2DModel", {"num_embeds_ada_norm": 5}, 10)
    refused("words", "UNet2DConditionModel", {}, text={**text, "vocabulary": 30})
    refused("addition_embed_type", "UNet2DConditionModel", {"addition_embed_type": "text_time"}, text=text)
    data = captioned()
    with pytest.raises(UsageError, match=r"'vp_cosine' is none of diffusers'.*vp_scaled_linear"):
        config_of("UNet2DModel", data, texts, schedule={"name": "vp_cosine"})
    with pytest.raises(UsageError, match=r"none of diffusers'.*flow with shift 1"):
        config_of("UNet2DModel", data, texts, schedule={"name": "flow", "shift": 3.0}, objective="flow")


@pytest.mark.slow
def test_runs_that_no_pipeline_calls_as_they_were_trained(place: Path, texts: dict[str, str], tmp_path: Path) -> None:
    data = captioned()
    with pytest.raises(UsageError, match="is there already"):
        fl.export(place / "UNet2DModel", place / "clip")
    train(config_of("SanaTransformer2DModel", data, texts), data, tmp_path / "sana")
    with pytest.raises(UsageError, match="no pipeline calls a SanaTransformer2DModel"):
        fl.export(tmp_path / "sana", tmp_path / "pipe")
    curved: dict[str, Any] = {"schedule": {"name": "vp_linear"}, "objective": "v"}
    train(config_of("SD3Transformer2DModel", data, texts, place / "vae", **curved), data, tmp_path / "sd3")
    with pytest.raises(UsageError, match="StableDiffusion3Pipeline denoises flows, this run predicts v on vp_linear"):
        fl.export(tmp_path / "sd3", tmp_path / "pipe")
    train(config_of("UNet2DConditionModel", data, texts), data, tmp_path / "pixels")
    with pytest.raises(UsageError, match=r"StableDiffusionPipeline.*denoises latents, this one.*pixels"):
        fl.export(tmp_path / "pixels", tmp_path / "pipe")
    small = config_of("DiTTransformer2DModel", data, texts, place / "vae", {"num_embeds_ada_norm": 10})
    train(small, data, tmp_path / "dit")
    with pytest.raises(UsageError, match="null is class 1000, this network's 10"):
        fl.export(tmp_path / "dit", tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()
    from tests.train.tiny import tiny_config, trained

    trained(tiny_config(), tmp_path / "ours")
    with pytest.raises(UsageError, match="kind 'unet', which diffusers does not know"):
        fl.export(tmp_path / "ours", tmp_path / "pipe")
