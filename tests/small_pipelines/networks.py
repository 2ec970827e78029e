"""Small configurations of diffusers' networks: text embeddings are 16 wide, latents have 4 channels."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.pipelines import made
from tests.small_pipelines.autoencoders import AUTOENCODERS

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
ROPE_3D: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12}
LATENTS: dict[str, Any] = {"in_channels": 4, "out_channels": 4}
TWO_LEVELS: dict[str, Any] = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
WAN: dict[str, Any] = {
    **ROPE_3D, **LATENTS, "text_dim": 16, "freq_dim": 16, "ffn_dim": 16, "num_layers": 2, "rope_max_seq_len": 32,
    "patch_size": (1, 2, 2),
}  # fmt: skip
FLUX: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 1, "in_channels": 16,
    "joint_attention_dim": 16, "axes_dims_rope": (4, 4, 8),
}  # fmt: skip
COSMOS: dict[str, Any] = {
    **LATENTS, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "mlp_ratio": 2,
    "text_embed_dim": 16,
    "adaln_lora_dim": 4, "max_size": (4, 32, 32), "concat_padding_mask": False,
}  # fmt: skip
SD3: dict[str, Any] = {
    **HEADS, **LATENTS, "sample_size": 8, "patch_size": 2, "num_layers": 2, "joint_attention_dim": 32,
    "caption_projection_dim": 16, "pooled_projection_dim": 32, "pos_embed_max_size": 8,
}  # fmt: skip
HUNYUAN_DIT: dict[str, Any] = {
    "num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 4, "patch_size": 2, "sample_size": 8,
    "hidden_size": 24, "cross_attention_dim": 16, "cross_attention_dim_t5": 16, "pooled_projection_dim": 16,
    "text_len": 77, "text_len_t5": 256, "activation_fn": "gelu-approximate",
}  # fmt: skip
QWEN: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 16, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4),
}  # fmt: skip
SANA: dict[str, Any] = {
    **HEADS, **LATENTS, "num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
    "cross_attention_dim": 16, "caption_channels": 16, "sample_size": 8, "patch_size": 1,
}  # fmt: skip
COG_VIDEO: dict[str, Any] = {
    **HEADS, **LATENTS, "time_embed_dim": 4, "text_embed_dim": 16, "num_layers": 2, "sample_width": 2,
    "sample_height": 2, "sample_frames": 9, "max_text_seq_length": 8, "patch_size": 2, "temporal_compression_ratio": 4,
}  # fmt: skip
KANDINSKY5: dict[str, Any] = {
    "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 16, "time_dim": 16, "model_dim": 16,
    "ff_dim": 24, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (1, 1, 2), "patch_size": (1, 2, 2),
}  # fmt: skip
HUNYUAN_VIDEO: dict[str, Any] = {
    **LATENTS, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1, "num_single_layers": 1,
    "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True, "text_embed_dim": 16,
    "pooled_projection_dim": 16, "rope_axes_dim": (2, 4, 4), "mlp_ratio": 2.0,
}  # fmt: skip
Z_IMAGE: dict[str, Any] = {
    "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1,
    "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
}  # fmt: skip
LTX: dict[str, Any] = {
    **HEADS, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 16,
}  # fmt: skip
JOY: dict[str, Any] = {
    **LATENTS, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 1, "rope_dim_list": [4, 6, 6],
}  # fmt: skip

NETWORKS: dict[str, dict[str, Any]] = {
    "AllegroTransformer3DModel": {
        **ROPE_3D, **LATENTS, "num_layers": 1, "cross_attention_dim": 24, "sample_height": 8, "sample_width": 8,
        "sample_frames": 8, "caption_channels": 16,
    },
    "AnyFlowTransformer3DModel": WAN,
    "AnyFlowFARTransformer3DModel": {**WAN, "chunk_partition": (1, 1, 1)},
    "AuraFlowTransformer2DModel": {
        **HEADS, **LATENTS, "sample_size": 8, "patch_size": 1, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
        "joint_attention_dim": 16, "caption_projection_dim": 16, "pos_embed_max_size": 256,
    },
    "BriaTransformer2DModel": FLUX,
    "BriaFiboTransformer2DModel": {**FLUX, "in_channels": 4, "joint_attention_dim": 32, "text_encoder_dim": 16},
    "ChromaTransformer2DModel": {
        **FLUX, "approximator_num_channels": 16, "approximator_hidden_dim": 16, "approximator_layers": 1,
    },
    "ChronoEditTransformer3DModel": {**WAN, "in_channels": 12, "image_dim": 16},
    "CogVideoXTransformer3DModel": COG_VIDEO,
    "CogView3PlusTransformer2DModel": {
        **HEADS, **LATENTS, "num_layers": 1, "text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 2,
        "pos_embed_max_size": 8, "sample_size": 8,
    },
    "CogView4Transformer2DModel": {
        **HEADS, **LATENTS, "num_layers": 2, "text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 4,
    },
    "ControlNetModel": {
        **TWO_LEVELS, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": 2, "conditioning_embedding_out_channels": (4,),
    },
    "CosmosTransformer3DModel": COSMOS,
    "ControlNetUnionModel": {
        **TWO_LEVELS, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": 2, "conditioning_embedding_out_channels": (4,), "num_control_type": 2,
        "num_trans_channel": 8, "num_trans_head": 2, "num_trans_layer": 1, "num_proj_channel": 8,
    },
    "DiTTransformer2DModel": {
        **HEADS, "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "num_embeds_ada_norm": 1000,
    },
    "DreamLiteUNetModel": {
        "sample_size": 8, **LATENTS, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": 4,
    },
    "EasyAnimateTransformer3DModel": {
        **LATENTS, "num_attention_heads": 2, "attention_head_dim": 16, "patch_size": 2, "sample_width": 16,
        "sample_height": 16, "num_layers": 1, "time_embed_dim": 4, "text_embed_dim": 16,
    },
    "ErnieImageTransformer2DModel": {
        "hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 32, "in_channels": 16,
        "out_channels": 16, "text_in_dim": 16, "rope_axes_dim": (4, 6, 6),
    },
    "FluxTransformer2DModel": {**FLUX, "pooled_projection_dim": 16, "guidance_embeds": True},
    "FluxControlNetModel": {**FLUX, "pooled_projection_dim": 16},
    "Flux2Transformer2DModel": {**FLUX, "axes_dims_rope": (4, 4, 4, 4), "guidance_embeds": False},
    "HeliosTransformer3DModel": {
        **{k: v for k, v in WAN.items() if k != "rope_max_seq_len"}, "rope_dim": (4, 4, 4),
    },
    "HiDreamImageTransformer2DModel": {
        **LATENTS, "patch_size": 2, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 2, "caption_channels": [16, 16], "text_emb_dim": 32, "axes_dims_rope": (4, 2, 2),
        "max_resolution": (32, 32), "llama_layers": (0, 1), "num_routed_experts": 2, "num_activated_experts": 1,
    },
    "HunyuanDiT2DModel": {**HUNYUAN_DIT, "num_layers": 2},
    "HunyuanDiT2DControlNetModel": {**HUNYUAN_DIT, "transformer_num_layers": 2},
    "HunyuanImageTransformer2DModel": {
        **HEADS, **LATENTS, "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": (1, 1),
        "text_embed_dim": 16, "text_embed_2_dim": 16, "rope_axes_dim": (4, 4), "mlp_ratio": 2.0,
    },
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideoFramepackTransformer3DModel": {
        **HUNYUAN_VIDEO, "has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True,
    },
    "HunyuanVideo15Transformer3DModel": {
        **HEADS, "in_channels": 9, "out_channels": 4, "num_layers": 1, "num_refiner_layers": 1, "mlp_ratio": 2.0,
        "patch_size": 1, "patch_size_t": 1, "text_embed_dim": 16, "text_embed_2_dim": 16, "image_embed_dim": 16,
        "rope_axes_dim": (2, 2, 4), "target_size": 16, "task_type": "t2v",
    },
    "Ideogram4Transformer2DModel": {
        "in_channels": 16, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "intermediate_size": 16,
        "adaln_dim": 8, "llm_features_dim": 16 * 13, "mrope_section": (2, 1, 1),
    },
    "JoyImageEditTransformer3DModel": JOY,
    "JoyImageEditPlusTransformer3DModel": JOY,
    "Kandinsky3UNet": {
        "time_embedding_dim": 8, "groups": 2, "attention_head_dim": 4, "block_out_channels": (8, 16),
        "cross_attention_dim": 8, "encoder_hid_dim": 16,
    },
    "Kandinsky5Transformer3DModel": KANDINSKY5,
    "Krea2Transformer2DModel": {
        "in_channels": 16, "num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 8, "num_key_value_heads": 2,
        "intermediate_size": 32, "timestep_embed_dim": 8, "text_hidden_dim": 16, "num_text_layers": 3,
        "text_num_attention_heads": 2, "text_num_key_value_heads": 1, "text_intermediate_size": 16,
        "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1, "axes_dims_rope": (4, 2, 2),
    },
    "LTXVideoTransformer3DModel": LTX,
    "LatteTransformer3DModel": {
        **HEADS, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 16, "num_layers": 1, "sample_size": 8,
        "patch_size": 2, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "caption_channels": 16,
        "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6, "attention_bias": True,
    },
    "LongCatImageTransformer2DModel": FLUX,
    "LongCatAudioDiTTransformer": {
        "dit_dim": 32, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 16, "latent_dim": 4, "text_conv": False,
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 4, "in_channels": 4, "hidden_size": 8, "num_layers": 2, "num_attention_heads": 1,
        "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": [4, 2, 2], "cap_feat_dim": 16,
    },
    "LuminaNextDiT2DModel": {
        "sample_size": 4, "in_channels": 4, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2,
        "num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": 16, "patch_size": 2,
    },
    "MochiTransformer3DModel": {
        **HEADS, "in_channels": 4, "num_layers": 2, "pooled_projection_dim": 16, "text_embed_dim": 16,
        "time_embed_dim": 4, "max_sequence_length": 16, "patch_size": 2,
    },
    "MotifVideoTransformer3DModel": {
        **ROPE_3D, **LATENTS, "num_layers": 1, "num_single_layers": 1, "patch_size": 1, "text_embed_dim": 16,
        "rope_axes_dim": (4, 4, 4),
    },
    "MotionAdapter": {
        "block_out_channels": (8, 16), "motion_layers_per_block": 1, "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 2,
    },
    "NucleusMoEImageTransformer2DModel": {**QWEN, "moe_enabled": False, "capacity_factors": [8.0, 8.0]},
    "OmniGenTransformer2DModel": {
        "in_channels": 4, "patch_size": 2, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 32, "num_layers": 1, "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]},
        "time_step_dim": 4,
    },
    "OvisImageTransformer2DModel": {**FLUX, "out_channels": 16},
    "PRXTransformer2DModel": {
        "in_channels": 4, "patch_size": 1, "context_in_dim": 16, "hidden_size": 8, "mlp_ratio": 2.0, "num_heads": 2,
        "depth": 1, "axes_dim": [2, 2],
    },
    "PixArtTransformer2DModel": {
        **HEADS, "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "caption_channels": 16, "cross_attention_dim": 16, "norm_type": "ada_norm_single",
    },
    "PriorTransformer": {**HEADS, "num_layers": 1, "embedding_dim": 16, "num_embeddings": 16,
    "additional_embeddings": 4},
    "QwenImageTransformer2DModel": {**QWEN, "guidance_embeds": False},
    "QwenImageControlNetModel": QWEN,
    "SD3Transformer2DModel": SD3,
    "SD3ControlNetModel": SD3,
    "SanaTransformer2DModel": SANA,
    "SanaControlNetModel": {**SANA, "num_layers": 1},
    "SanaVideoTransformer3DModel": {
        **ROPE_3D, **LATENTS, "num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12,
        "cross_attention_dim": 24, "caption_channels": 16, "sample_size": 8, "rope_max_seq_len": 32,
        "patch_size": (1, 2, 2),
    },
    "SkyReelsV2Transformer3DModel": WAN,
    "SparseControlNetModel": {
        **TWO_LEVELS, "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"), "cross_attention_dim": 16,
        "conditioning_embedding_out_channels": (4,), "use_simplified_condition_embedding": False,
        "attention_head_dim": 2, "conditioning_channels": 3, "motion_num_attention_heads": 2,
    },
    "StableAudioDiTModel": {
        "sample_size": 4, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 4,
        "num_attention_heads": 2, "num_key_value_attention_heads": 2, "cross_attention_dim": 4, "time_proj_dim": 8,
        "global_states_input_dim": 8, "cross_attention_input_dim": 4,
    },
    "StableAudioProjectionModel": {"text_encoder_dim": 16, "conditioning_dim": 4, "min_value": 0, "max_value": 32},
    "T2IAdapter": {"channels": [8, 16], "num_res_blocks": 1, "downscale_factor": 2, "adapter_type": "full_adapter"},
    "UNet2DModel": {
        **TWO_LEVELS, "sample_size": 8, "in_channels": 3, "out_channels": 3, "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "UNet2DConditionModel": {
        **LATENTS, **TWO_LEVELS, "sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "UNetSpatioTemporalConditionModel": {
        "sample_size": 8, "in_channels": 8, "out_channels": 4, "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), "layers_per_block": 1,
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), "num_attention_heads": 2,
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24, "cross_attention_dim": 16,
    },
    "WanTransformer3DModel": WAN,
    "WanVACETransformer3DModel": {**WAN, "num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 4 * 2 + 64},
    "ZImageTransformer2DModel": Z_IMAGE,
}  # fmt: skip
"""Class -> arguments of its constructor."""

CONFIGS = {**NETWORKS, **AUTOENCODERS}


def network(kind: str, seed: int = 0, **more: Any) -> Any:
    """A network or an autoencoder of diffusers with random weights; ``more`` changes its configuration."""
    torch.manual_seed(seed)
    return made.spread(getattr(diffusers, kind)(**{**CONFIGS[kind], **more}), seed)
