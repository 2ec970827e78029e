"""Pipelines of a few thousand random weights, one of each family, made without a hub."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

WORDS = ("red", "green", "blue", "square", "blurry", "a", "cat", "dog")
TOKENS = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def clip_tokenizer() -> Any:
    folder = Path(tempfile.mkdtemp())
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokens = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokens.model_max_length = TOKENS
    return tokens


def clip_text(
    seed: int = 1, projection: bool = False, width: int = 16, projected: int = 0, positions: int = TOKENS
) -> Any:
    end = len(clip_tokenizer()) - 1
    config = transformers.CLIPTextConfig(
        vocab_size=end + 1, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=positions, projection_dim=projected or width, eos_token_id=end, bos_token_id=end - 1,
        pad_token_id=end,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return spread(kind(config), seed)


@cache
def word_tokenizer() -> Any:
    """One token a word, for T5 and Gemma."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<bos>": 3, **{word: 4 + i for i, word in enumerate(WORDS)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<bos>",
        model_max_length=TOKENS,
    )  # fmt: skip


def t5(seed: int = 2, width: int = 16) -> Any:
    config = transformers.T5Config(
        vocab_size=16, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return spread(transformers.T5EncoderModel(config), seed)


def gemma(seed: int = 3) -> Any:
    config = transformers.Gemma2Config(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=3,
    )  # fmt: skip
    return spread(transformers.Gemma2Model(config), seed)


def spread(module: Any, seed: int, gain: float = 1.0) -> Any:
    """The module with all parameters drawn anew, none 0, so that every input counts."""
    generator = seeded(seed)
    for name, parameter in module.named_parameters():
        fan = parameter[:1].numel() if parameter.ndim > 1 else 1
        std = gain / max(1, fan) ** 0.5 if parameter.ndim > 1 else 0.1
        centre = 1.0 if "norm" in name and name.endswith("weight") and parameter.ndim == 1 else 0.0
        parameter.data = centre + std * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def vae(channels: int = 4) -> Any:
    return spread(
        diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=channels, block_out_channels=(8,), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), layers_per_block=1,
            scaling_factor=0.5, shift_factor=None, mid_block_add_attention=False, sample_size=8,
        ), 4,
    )  # fmt: skip


def unet(seed: int = 5, cross: int = 16, inputs: int = 4, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "sample_size": 8, "in_channels": inputs, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (8, 16), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross, "attention_head_dim": 2, "norm_num_groups": 4,
    }  # fmt: skip
    return spread(diffusers.UNet2DConditionModel(**{**settings, **more}), seed)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim(**more: Any) -> Any:
    settings = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **BETAS}
    return diffusers.DDIMScheduler(**{**settings, **more})


def flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(kind: str = "StableDiffusionPipeline", network: Any = None, **more: Any) -> Any:
    parts = {
        "vae": vae(), "text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "unet": network or unet(),
        "scheduler": ddim(), "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def controlnet(seed: int = 6, cross: int = 16, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "in_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16), "cross_attention_dim": cross,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2, "norm_num_groups": 4,
        "conditioning_embedding_out_channels": (4,),
    }  # fmt: skip
    return spread(diffusers.ControlNetModel(**{**settings, **more}), seed)


XL: dict[str, Any] = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
    "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def sdxl(kind: str = "StableDiffusionXLPipeline", **more: Any) -> Any:
    parts = {
        "vae": vae(), "text_encoder": clip_text(), "text_encoder_2": clip_text(7, projection=True),
        "tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "unet": unet(8, cross=32, **XL),
        "scheduler": diffusers.EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS),
        "add_watermarker": False,
    }  # fmt: skip
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def sd3(kind: str = "StableDiffusion3Pipeline", channels: int = 4, **more: Any) -> Any:
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=channels, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=channels,
        pos_embed_max_size=8,
    )  # fmt: skip
    coder = vae(channels)
    coder.register_to_config(shift_factor=0.1)
    parts = {
        "transformer": spread(network, 9), "scheduler": flow(), "vae": coder,
        "text_encoder": clip_text(1, projection=True), "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(7, projection=True), "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5(width=32), "tokenizer_3": word_tokenizer(),
    }  # fmt: skip
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def flux(kind: str = "FluxPipeline", embedded: bool = True, **more: Any) -> Any:
    network = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=embedded,
    )  # fmt: skip
    coder = vae()
    coder.register_to_config(shift_factor=0.1)
    parts = {
        "transformer": spread(network, 10), "scheduler": flow(), "vae": coder, "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(), "text_encoder_2": t5(), "tokenizer_2": word_tokenizer(),
    }  # fmt: skip
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def pixart(kind: str = "PixArtAlphaPipeline", **more: Any) -> Any:
    network = diffusers.PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, caption_channels=16, cross_attention_dim=16, norm_type="ada_norm_single",
    )  # fmt: skip
    parts = {
        "transformer": spread(network, 11), "scheduler": diffusers.DPMSolverMultistepScheduler(), "vae": vae(),
        "text_encoder": t5(), "tokenizer": word_tokenizer(),
    }  # fmt: skip
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def deep_vae() -> Any:
    return spread(
        diffusers.AutoencoderDC(
            in_channels=3, latent_channels=4, attention_head_dim=4, encoder_block_types=("ResBlock", "ResBlock"),
            decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), downsample_block_type="conv",
            upsample_block_type="interpolate", scaling_factor=0.5,
        ), 4,
    )  # fmt: skip


def sana(**more: Any) -> Any:
    network = diffusers.SanaTransformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=3, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16,
    )  # fmt: skip
    parts = {
        "transformer": spread(network, 12), "scheduler": flow(), "vae": deep_vae(), "text_encoder": gemma(),
        "tokenizer": word_tokenizer(),
    }  # fmt: skip
    return quiet(diffusers.SanaPipeline(**{**parts, **more}))


def dit(**more: Any) -> Any:
    network = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    parts = {"transformer": spread(network, 13), "vae": vae(), "scheduler": ddim(beta_schedule="linear")}
    names = {0: "tench", 1: "goldfish, golden fish", 2: "shark"}
    return quiet(diffusers.DiTPipeline(**{**parts, **more}, id2label=names))


def unconditional(kind: str = "DDIMPipeline", outputs: int = 3, **more: Any) -> Any:
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=outputs, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    parts = {"unet": spread(network, 14), "scheduler": ddim(beta_schedule="linear", clip_sample=True)}
    return quiet(getattr(diffusers, kind)(**{**parts, **more}))


def sd3_controlnet(seed: int = 20) -> Any:
    network = diffusers.SD3ControlNetModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    return spread(network, seed)
