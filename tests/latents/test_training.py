"""Training the autoencoder and training on its latents: the loss, the folder it leaves, stopping and resuming."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.latents import LatentBatches
from fairlead.diffusers.autoencoder import autoencoder_of, load_autoencoder
from fairlead.diffusers.kl_autoencoder import KLAutoencoder
from fairlead.nets.build import AUTOENCODER_PRESETS, autoencoder_preset, latent_preset, net_config
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.config import AUTOENCODER_RECIPES, TrainConfig
from fairlead.train.loop import Training
from fairlead.train.objective import reconstruction_loss
from tests.latents.conftest import autoencoder_config, few, floats, latent_config
from tests.train.tiny import same_bits, tensors_of, tiny_net, trained


def test_the_loss_of_an_autoencoder_by_hand() -> None:
    x = torch.zeros(2, 1, 1, 2)
    output = torch.tensor([1.0, -3.0, 0.0, 2.0]).reshape(2, 1, 1, 2), torch.tensor([4.0, 8.0])
    assert float(reconstruction_loss(output, x, "l1", 0.5)) == 6 / 4 + 0.5 * 6 / 2
    assert float(reconstruction_loss(output, x, "l2", 0.0)) == 14 / 4


def test_the_network_decodes_mean_and_noise_and_tells_the_divergence() -> None:
    torch.manual_seed(0)
    network = KLAutoencoder(1, 8, channels=4, multipliers=(1, 1), latent=2)
    x, noise = floats(3, 1, 8, 8), floats(3, *network.latent_shape, seed=4)
    with torch.no_grad():
        output, divergence = network(x, noise)
        mean, log_variance = network.kl.encode(x).latent_dist.parameters.chunk(2, dim=1)
        assert torch.allclose(output, network.kl.decode(mean + (log_variance / 2).exp() * noise).sample, atol=1e-6)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(divergence, expected.flatten(1).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("size", "preset", "latent"), [(28, "factor-4", 7), (32, "factor-4", 8), (8, "factor-2", 4)])
def test_presets_for_their_sizes(size: int, preset: str, latent: int) -> None:
    assert autoencoder_preset(size) == preset
    network = KLAutoencoder(
        **{k: v for k, v in net_config(preset, 3, size, 0, presets=AUTOENCODER_PRESETS).items() if k != "kind"}
    )
    assert network.latent_shape == (4, latent, latent)
    assert latent_preset(latent) == ("latent-7" if latent == 7 else "latent-8")


@pytest.mark.parametrize("name", AUTOENCODER_RECIPES)
def test_every_recipe_is_a_legal_configuration(name: str) -> None:
    recipe = AUTOENCODER_RECIPES[name]
    config = TrainConfig(net=net_config(recipe.net, 1, 32, 0, presets=AUTOENCODER_PRESETS), **recipe.train)
    assert {key: getattr(config, key) for key in recipe.train} == recipe.train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objective": "v"},
            "objective 'l1' or 'l2' and a network of kind 'autoencoder' go together, got objective",
        ),
        ({"net": tiny_net()}, "objective 'l1' or 'l2' and a network of kind 'autoencoder' go together"),
        ({"net": {"kind": "classifier"}}, "objective 'label' and a network of kind 'classifier' go together"),
        ({"kl": -1.0}, "kl: expected 0 or more"),
        ({"drop": 0.1}, "objective 'l1' drops no condition"),
        ({"latents": {"source": "x"}}, "latents: only a denoiser is trained on them, objective 'l1' takes images"),
    ],
)
def test_a_configuration_that_contradicts_itself(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        autoencoder_config(**change)


def test_an_image_condition_is_of_pixels() -> None:
    with pytest.raises(UsageError, match=r"latents: the image condition superres.* needs pixels"):
        TrainConfig(net=tiny_net(image=1), image="superres(2)", latents={"source": "x"})


def test_kl_is_for_autoencoders_only() -> None:
    with pytest.raises(UsageError, match="kl: expected 0 or more for an autoencoder and 0 for other networks, got 1"):
        TrainConfig(net=tiny_net(), kl=1.0)


def test_sizes_that_the_factor_does_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match=r"image size 9x9 cannot be encoded by a factor of 4: .* pass --size 8x8"):
        KLAutoencoder(1, 9)
    with pytest.raises(UsageError, match="an autoencoder has no conditions, got 3 classes"):
        KLAutoencoder(1, 8, 3)


def test_the_folder_loads_in_diffusers_as_the_averaged_weights(vae: Path) -> None:
    import diffusers

    theirs = diffusers.AutoencoderKL.from_pretrained(vae)
    averaged = find_checkpoint(vae).tensors("ema")
    assert same_bits({f"kl.{name}": value for name, value in theirs.state_dict().items()}, averaged)
    described = json.loads((vae / "autoencoder.json").read_text())
    ours = load_autoencoder(vae)
    assert theirs.config.scaling_factor == described["scale"] == ours.scale
    assert described["hash"] == ours.hash == autoencoder_of(theirs, "diffusers").hash
    assert described["data"]["fingerprint"] == load_digits().fingerprint
    assert described["latent_shape"] == [4, 4, 4]


def test_an_autoencoder_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = autoencoder_config(steps=4, checkpoint_every=2)
    trained(config, tmp_path / "straight")
    trained(config, tmp_path / "halves", until=2)
    trained(config, tmp_path / "halves", resume=True)
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))


@pytest.mark.parametrize("flip", [False, True])
def test_a_model_of_latents_resumes_to_the_same_bits(vae: Path, tmp_path: Path, flip: bool) -> None:
    """Its noise is part of the batch: with a cache and, here, without one."""
    data = few(flip=flip)
    config = latent_config(load_autoencoder(vae), data, checkpoint_every=3)
    trained(config, tmp_path / "straight", data=data)
    trained(config, tmp_path / "halves", until=3, data=data)
    trained(config, tmp_path / "halves", resume=True, data=data)
    assert same_bits(tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "halves"))


def test_the_network_is_trained_on_scaled_draws(vae: Path) -> None:
    data = few()
    training = Training(data, latent_config(load_autoencoder(vae), data), None)
    assert isinstance(training.batches, LatentBatches)
    assert training.noise_shape == (4, 4, 4)
    seen: dict[str, torch.Tensor] = {}
    training.network.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0], time=inputs[1]))
    training.take_step()
    x0, _ = training.batches.batch(0)
    alpha, sigma = training.schedule.alpha_sigma(seen["time"].double() / 1000)
    noise = (seen["x"] - alpha.float().reshape(-1, 1, 1, 1) * x0) / sigma.float().reshape(-1, 1, 1, 1)
    assert abs(float(noise[sigma > 0.3].std()) - 1) < 0.1


def test_resuming_asks_for_the_same_autoencoder_wherever_it_is(vae: Path, tmp_path: Path) -> None:
    data = few()
    config = latent_config(load_autoencoder(vae), data, checkpoint_every=3)
    trained(config, tmp_path / "run", until=3, data=data)
    shutil.copytree(vae, tmp_path / "moved")
    moved = replace(config, latents={**config.latents, "source": str(tmp_path / "moved")})
    assert Training(data, moved, tmp_path / "run", resume=True).step == 3
    for change in ({"hash": "0" * 12}, {"scale": 2.0}):
        with pytest.raises(UsageError, match=r"latents was|with weights 0{12}"):
            Training(data, replace(config, latents={**config.latents, **change}), tmp_path / "run", resume=True)


def test_a_network_for_the_images_does_not_fit_their_latents(vae: Path) -> None:
    data = few()
    config = latent_config(load_autoencoder(vae), data, net=tiny_net())
    with pytest.raises(UsageError, match="has latents 4x4x4, the network is made for 1x8x8"):
        Training(data, config, None)
