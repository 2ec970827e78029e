"""One autoencoder and one model of its latents, trained once on the 8x8 digits, for every test here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.diffusers.autoencoder import Autoencoder, load_autoencoder
from fairlead.diffusers.kl_autoencoder import finished_autoencoder, save_autoencoder
from fairlead.nets.build import AUTOENCODER_PRESETS, net_config
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training


def autoencoder_config(**changes: Any) -> TrainConfig:
    net = net_config("factor-2", 1, 8, 0, presets=AUTOENCODER_PRESETS, channels=8)
    fixed: dict[str, Any] = {
        "net": net, "data": {"spec": "digits"}, "objective": "l1", "kl": 1e-6, "drop": 0.0, "steps": 150,
        "batch_size": 32, "lr": 5e-3, "warmup": 10, "ema": 0.95, "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(**{**fixed, **changes})


def latent_config(autoencoder: Autoencoder, data: ImageData, **changes: Any) -> TrainConfig:
    latents = autoencoder.config(data.shape)
    channels, size, _ = latents["shape"]
    net = net_config("latent-8", channels, size, 10, channels=8, embed=16)
    fixed: dict[str, Any] = {
        "net": net, "data": {"spec": "digits"}, "latents": latents, "steps": 6, "batch_size": 16, "warmup": 2,
        "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(**{**fixed, **changes})


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a trained autoencoder of the digits, 4 x 4x4."""
    out = tmp_path_factory.mktemp("autoencoder") / "runs" / "vae"
    training = Training(load_digits(), autoencoder_config(), out)
    for _ in training.run():
        pass
    save_autoencoder(finished_autoencoder(training), training, {})
    return out


@pytest.fixture(scope="session")
def run(vae: Path) -> Path:
    """A model of its latents, beside it."""
    out = vae.parent / "latent"
    data = load_digits()
    for _ in Training(data, latent_config(load_autoencoder(vae), data), out).run():
        pass
    return out


def untrained(latent: int = 2, channels: int = 1, seed: int = 0, **settings: Any) -> Any:
    """A small ``AutoencoderKL`` with random weights."""
    import diffusers

    torch.manual_seed(seed)
    return diffusers.AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=latent,
        norm_num_groups=2,
        sample_size=8,
        **settings,
    )


def few(n: int = 24, flip: bool = False) -> ImageData:
    return replace(load_digits().subset(slice(0, n)), flip=flip)


def floats(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
