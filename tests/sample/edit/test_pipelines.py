"""Edits of what is no network of pixels of ours: a loaded pipeline, and latents of an autoencoder."""

from typing import Any

import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from tests.pipelines import made


@pytest.fixture(scope="module")
def model() -> Any:
    return fl.load(made.sd())


def pictures(model: Any, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, *model.image_shape), dtype=torch.uint8, generator=generator)


def test_a_run_of_a_pipeline_starts_at_encoded_images(model: Any) -> None:
    images, times = pictures(model), torch.tensor(0.5, dtype=torch.float64)
    run = fl.sample(model, "a cat", start=images, strength=0.5, steps=2)
    alpha, sigma = model.schedule.alpha_sigma(times)
    z = fl.sample(model, "a cat", n=2, steps=1)  # only for its seeds
    assert z.seeds == run.seeds
    x0 = model.to_space(images.float() / 127.5 - 1)
    from fairlead.sample.noise import NoiseStream

    x_t = float(alpha) * x0 + float(sigma) * NoiseStream(run.seeds, model.shape).start()
    condition = model.encode(["a cat"] * 2)
    d = model.denoiser(x_t, times, condition)
    torch.testing.assert_close(run.x0, d.x0, rtol=1e-4, atol=1e-4)


def test_a_mask_of_latents_keeps_what_it_does_not_touch(model: Any) -> None:
    images, mask = pictures(model), torch.zeros(model.image_shape[1:], dtype=torch.bool)
    mask[:1, :1] = True  # of one place of the latents alone
    run = fl.sample(model, "a cat", start=images, mask=mask, steps=2, resample=1)
    x0 = model.to_space(images.float() / 127.5 - 1)
    away = torch.ones(model.shape[1:], dtype=torch.bool)
    away[0, 0] = False
    torch.testing.assert_close(run.x0[:, :, away], x0[:, :, away])
    assert bool((run.x0[:, :, ~away] != x0[:, :, ~away]).all())


@pytest.mark.parametrize("method", ["inversion", "null-text", "negative"])
def test_a_pipeline_is_inverted(model: Any, method: Any) -> None:
    options: dict[str, Any] = {"guidance": "cfg(3)", "steps": 2}
    found = fl.invert(model, pictures(model), "a cat", method=method, **options)
    assert found.psnr is not None
    assert found.codec_psnr is not None
    again = fl.sample(model, "a cat", start=found, **options)
    torch.testing.assert_close(again.x0, found.back, rtol=1e-4, atol=1e-4)
    if method == "null-text":
        assert set(found.tokens) == {"prompt"}
        plain = fl.sample(model, "a cat", start=fl.invert(model, pictures(model), "a cat", steps=2), **options)
        without = (plain.x0 - found.x0).square().flatten(1).mean(1).sqrt()
        assert bool((found.error < without).all())


def test_null_text_of_a_pipeline_without_guidance_is_inversion(model: Any) -> None:
    found = fl.invert(model, pictures(model), "a cat", method="null-text", steps=2)
    plain = fl.invert(model, pictures(model), "a cat", steps=2)
    assert torch.equal(found.x_t, plain.x_t)
    torch.testing.assert_close(found.back, plain.back)


def test_images_of_another_size_are_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="start: expected images"):
        fl.sample(model, "a cat", start=torch.zeros(1, *model.shape), steps=2)
