"""The latents of a set: their moments, the cache, the draws of a batch, and their size."""

from dataclasses import replace
from pathlib import Path

import torch

from fairlead.data.batches import Batches
from fairlead.data.digits import load_digits
from fairlead.data.images import to_float
from fairlead.data.latents import LatentBatches, Latents
from fairlead.diffusers.autoencoder import autoencoder_of, load_autoencoder
from tests.latents.conftest import few, floats, untrained


def test_moments_are_those_of_diffusers_and_come_back_from_disk_to_the_bit(tmp_path: Path) -> None:
    network, data = untrained(), few(flip=True)
    codec = autoencoder_of(network, "memory")
    counted: list[int] = []
    first = Latents.of(codec, data, folder=tmp_path)
    again = Latents.of(codec, data, counted.append, tmp_path)
    with torch.no_grad():
        posterior = network.encode(to_float(data.images)).latent_dist
        mirrored = network.encode(to_float(data.images.flip(-1))).latent_dist
    assert torch.equal(first.moments, torch.cat([posterior.mean, posterior.logvar], 1))
    assert first.mirrored is not None
    assert again.mirrored is not None
    assert torch.equal(first.mirrored, torch.cat([mirrored.mean, mirrored.logvar], 1))
    assert torch.equal(first.moments, again.moments)
    assert torch.equal(first.mirrored, again.mirrored)
    assert counted == []
    assert not torch.allclose(first.mirrored, first.moments.flip(-1), atol=1e-3), "mirrored latents are something else"


def test_the_cache_knows_images_weights_and_damage(tmp_path: Path) -> None:
    codec = autoencoder_of(untrained(), "memory")
    counted: list[int] = []

    def of(autoencoder, data) -> int:
        counted.clear()
        Latents.of(autoencoder, data, counted.append, tmp_path)
        return sum(counted)

    data = few()
    assert of(codec, data) == 24
    assert of(codec, replace(data, labels=data.labels.flip(0))) == 0, "labels are no part of it"
    assert of(replace(codec, scale=2.0), data) == 0, "nor is the scale"
    assert of(codec, replace(data, images=data.images.flip(0))) == 24
    assert of(autoencoder_of(untrained(seed=1), "memory"), data) == 24
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert of(codec, data) == 24


def test_a_draw_is_the_scaled_mean_and_deviation_of_the_right_version() -> None:
    moments, mirrored = floats(5, 4, 2, 2), floats(5, 4, 2, 2, seed=5)
    latents = Latents(moments, mirrored, scale=0.7, shift=0.2)
    index, mirror, noise = torch.tensor([4, 0, 4]), torch.tensor([False, True, True]), floats(3, 2, 2, 2, seed=6)
    got = latents.at(index, mirror, noise)
    for row, (chosen, i) in enumerate(((moments, 4), (mirrored, 0), (mirrored, 4))):
        mean, deviation = chosen[i, :2], (chosen[i, 2:] / 2).exp()
        assert torch.allclose(got[row], 0.7 * (mean + deviation * noise[row] - 0.2), atol=1e-6)


def test_batches_are_pure_and_shared_and_keep_the_order_of_the_images() -> None:
    data = few(flip=True)
    latents = Latents.of(autoencoder_of(untrained(), "memory"), data)
    batches, images = LatentBatches(Batches(data, 8, 1), latents), Batches(data, 8, 1)
    x0, labels = batches.batch(5)
    assert torch.equal(labels, images.batch(5)[1])
    assert torch.equal(x0, LatentBatches(Batches(data, 8, 1), latents).batch(5)[0])
    assert torch.equal(x0, torch.cat([batches.batch(5, rank, 2)[0] for rank in (0, 1)]))
    assert not torch.equal(x0, LatentBatches(Batches(data, 8, 2), latents).batch(5)[0])
    flips = images.flips(5)
    assert flips is not None
    assert flips.any()
    assert not flips.all()
    seen = images.batch(5)[0]
    original = to_float(data.images[images.index(5)])
    assert torch.equal(seen.flip(-1)[flips], original[flips])
    assert torch.equal(seen[~flips], original[~flips])


def test_scaled_latents_of_the_training_set_have_unit_deviation(vae: Path) -> None:
    """By the formula exactly, and by draws within their error."""
    codec, data = load_autoencoder(vae), load_digits()
    latents = Latents.of(codec, data)
    assert abs(latents.std() * latents.scale - 1) < 1e-6
    every = torch.arange(len(data))
    drawn = torch.stack([latents.at(every, None, floats(len(data), 4, 4, 4, seed=seed)) for seed in range(4)])
    assert abs(float(drawn.double().std(correction=0)) - 1) < 0.005


def test_the_deviation_counts_the_posteriors_own() -> None:
    """Means of variance 4 about 3 and posteriors of variance 2."""
    mean = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    latents = Latents(torch.cat([mean, torch.full_like(mean, 2.0).log()], 1), None, 1.0)
    assert abs(latents.std() - 6**0.5) < 1e-6
