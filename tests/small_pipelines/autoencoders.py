"""Small configurations of diffusers' autoencoders: latents have 4 channels."""

from __future__ import annotations

from typing import Any

FOUR_LEVELS: dict[str, Any] = {"layers_per_block": 1, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
SOURCE: dict[str, Any] = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "AutoencoderDC": {
        "in_channels": 3, "latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": ("ResBlock",
        "ResBlock"),
        "decoder_block_types": ("ResBlock", "ResBlock"), "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8), "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ()), "downsample_block_type": "conv",
        "upsample_block_type": "interpolate", "scaling_factor": 0.5,
    },
    "AutoencoderKL": {
        "latent_channels": 4, "block_out_channels": (8,), "norm_num_groups": 4, "scaling_factor": 0.5,
        "shift_factor": 0.1, "mid_block_add_attention": False, "sample_size": 8,
    },
    "AutoencoderKLAllegro": FOUR_LEVELS,
    "AutoencoderKLCogVideoX": {**FOUR_LEVELS, "latent_channels": 4},
    "AutoencoderKLCosmos": {
        "latent_channels": 4, "encoder_block_out_channels": (8, 8, 8, 8), "decode_block_out_channels": (8, 8, 8, 8),
        "attention_resolutions": (8,), "resolution": 64, "num_layers": 1, "patch_size": 4,
        "spatial_compression_ratio": 4, "temporal_compression_ratio": 4,
    },
    "AutoencoderKLFlux2": {
        "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (4,),
        "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 1, "mid_block_add_attention": False,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "spatial_compression_ratio": 2, "sample_size": 16, "scaling_factor": 0.5,
    },
    "AutoencoderKLHunyuanVideo": {**FOUR_LEVELS, "latent_channels": 4, "mid_block_add_attention": False},
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 4, "block_out_channels": (16, 16), "layers_per_block": 1, "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 2, "downsample_match_channel": False, "upsample_match_channel": False,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1, 1), "patch_size": 1,
        "spatio_temporal_scaling": (True, True, False, False), "patch_size_t": 1,
        "decoder_spatio_temporal_scaling": (True, True, False, False),
    },
    "AutoencoderKLMagvit": {
        **FOUR_LEVELS, "latent_channels": 4, "spatial_group_norm": False,
        "down_block_types": ("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        "up_block_types": ("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
    },
    "AutoencoderKLMochi": {
        "latent_channels": 4, "encoder_block_out_channels": (32, 32, 32, 32), "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_block_out_channels": (32, 32, 32, 32), "latents_mean": None, "latents_std": None,
    },
    "AutoencoderKLQwenImage": {
        **SOURCE, "base_dim": 24, "z_dim": 4, "dim_mult": [1, 2, 4], "num_res_blocks": 1,
        "temperal_downsample": [False, True],
    },
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32,), "down_block_types": ("DownEncoderBlock2D",), "layers_per_block": 1,
    },
    "AutoencoderKLWan": {
        **SOURCE, "base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "temperal_downsample": [False, True, True], "scale_factor_temporal": 4, "scale_factor_spatial": 8,
    },
    "AutoencoderOobleck": {
        "encoder_hidden_size": 6, "downsampling_ratios": [1, 2], "channel_multiples": [2, 4], "decoder_channels": 4,
        "decoder_input_channels": 4, "sampling_rate": 4, "audio_channels": 2,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1), "latent_channels": 4,
    },
    "LongCatAudioDiTVae": {
        "channels": 8, "c_mults": [1, 2], "strides": [2], "latent_dim": 4, "encoder_latent_dim": 8,
        "downsampling_ratio": 2,
    },
    "VQModel": {
        "block_out_channels": (32,), "down_block_types": ("DownEncoderBlock2D",), "latent_channels": 4,
        "up_block_types": ("UpDecoderBlock2D",), "num_vq_embeddings": 12,
        "norm_num_groups": 4, "norm_type": "spatial", "vq_embed_dim": 4, "layers_per_block": 1,
    },
}  # fmt: skip
"""Class -> arguments of its constructor."""
