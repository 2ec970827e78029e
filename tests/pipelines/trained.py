"""Networks of diffusers trained for some steps on a few digits, with captions, in pixels and in latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.diffusers.autoencoder import load_autoencoder
from fairlead.diffusers.networks import diffusers_config
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import StepRecord, Training
from tests.pipelines import made

UNET: dict[str, Any] = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
CROSS: dict[str, Any] = {
    **UNET, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
TRANSFORMER: dict[str, Any] = {"patch_size": 2, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2}
PIXART = {**TRANSFORMER, "cross_attention_dim": 16, "norm_type": "ada_norm_single"}
SD3 = {**TRANSFORMER, "caption_projection_dim": 16, "pos_embed_max_size": 8}
SANA: dict[str, Any] = {
    "patch_size": 1, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {  # -> settings, conditions, text encoder
    "UNet2DModel": (UNET, (), ""),
    "UNet2DConditionModel": (CROSS, ("text",), "clip"),
    "DiTTransformer2DModel": (TRANSFORMER, ("label",), ""),
    "PixArtTransformer2DModel": (PIXART, ("text",), "t5"),
    "SD3Transformer2DModel": (SD3, ("text",), "sd3"),
    "SanaTransformer2DModel": (SANA, ("text",), "t5"),
}
COLOURS = ("red", "green", "blue")


def captioned(n: int = 24) -> ImageData:
    """Digits with captions of the pipelines' few words."""
    data = load_digits().subset(slice(0, n))
    return replace(data, captions=tuple(f"a {COLOURS[int(label) % 3]} square" for label in data.labels))


def encoders(folder: Path) -> dict[str, str]:
    """Specs of text encoders, stored as transformers stores them."""
    parts = {
        "clip": (made.clip_text(), made.clip_tokenizer()),
        "t5": (made.t5(), made.word_tokenizer()),
        "sd3": (made.clip_text(projection=True), made.clip_tokenizer()),
    }
    for name, stored in parts.items():
        for part in stored:
            part.save_pretrained(folder / name)
    return {name: f"{name}:{folder / name}" for name in parts}


def grey_vae(folder: Path) -> Path:
    torch.manual_seed(4)
    network = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(4, 4), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        scaling_factor=1.7, sample_size=8,
    )  # fmt: skip
    network.save_pretrained(folder)
    return folder


def config_of(
    network: str,
    data: ImageData,
    texts: dict[str, str],
    vae: Path | None = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainConfig:
    """A short training of a class of networks, conditioned as in its pipeline."""
    config, conditions, kind = NETWORKS[network]
    given: dict[str, Any] = {"masked": kind == "t5", **({"tokens": 12} if kind == "t5" else {})}
    latents = {} if vae is None else load_autoencoder(vae).config(data.shape)
    channels, size, _ = latents["shape"] if latents else data.shape
    classes, more, text = asked(data, conditions, texts.get(kind, ""), settings=given if kind else None)
    net = diffusers_config(network, {**config, **(settings or {})}, channels, size, classes, more.get("text"))
    flow = {"schedule": {"name": "flow"}, "objective": "flow"}
    fixed: dict[str, Any] = {
        "net": net, "text": text, "latents": latents, "steps": 4,
        **(flow if kind == "sd3" else {"schedule": {"name": "vp_scaled_linear"}}),
        "batch_size": 8, "warmup": 1, "drop": 0.3, "ema": 0.5, "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(**{**fixed, **changes})


def train(
    config: TrainConfig, data: ImageData, out: Path | None, until: int = 0, resume: bool = False
) -> list[StepRecord]:
    records = []
    for record in Training(data, config, out, resume=resume).run():
        records.append(record)
        if record.step == until:
            break
    return records
