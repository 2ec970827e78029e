"""Networks of diffusers of a few thousand weights, a call of each for two samples, and where their attention has the
image.

    ALL        the layers named see nothing else
    FIRST, LAST  of image and text together
    a text     why pag and seg are refused
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from tests.pipelines.made import seeded, spread

ALL, FIRST, LAST = "all", "first", "last"
ONE_SEQUENCE = "text and image come to it as one sequence"
NONE = "names no attention layers"


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(sum(shape)))


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


@dataclass(frozen=True)
class Net:
    """A network and a call of it.

    Attributes:
        settings: of its class.
        call: arguments.
        image: see the top of this file; or the positions themselves.
        text: tokens among the positions of its attention.
    """

    settings: dict[str, Any]
    call: dict[str, Any]
    image: str | slice
    text: int = 0

    def make(self, name: str) -> Any:
        return spread(getattr(diffusers, name)(**self.settings), 3)


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
TWO = {**HEADS, "num_layers": 2}
IN_OUT = {"in_channels": 4, "out_channels": 4}
TIME = {"timestep": torch.tensor([400.0, 400.0])}
PLANES = noise(2, 4, 8, 8)
VIDEO = noise(2, 4, 2, 8, 8)
STATES = noise(2, 6, 16)
TEXT = {"encoder_hidden_states": STATES}
IDS = {
    "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
    "txt_ids": torch.zeros(6, 3),
}
PACKED = {"hidden_states": noise(2, 16, 4), **TEXT, **IDS, "timestep": torch.tensor([0.4, 0.4])}
FLUX = {"in_channels": 4, "num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 16, "axes_dims_rope": [4, 4, 8]}  # fmt: skip
WAN = {**TWO, **IN_OUT, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 8, "ffn_dim": 16, "rope_max_seq_len": 32}
COG = {**TWO, **IN_OUT, "time_embed_dim": 8, "text_embed_dim": 16}
SIZES = {name: torch.full((2, 2), 64.0) for name in ("original_size", "target_size", "crop_coords")}
UNET = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 16, "attention_head_dim": 2,
        "layers_per_block": 1, "sample_size": 8}  # fmt: skip
QWEN = {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)}  # fmt: skip
HUNYUAN = {**TWO, **IN_OUT, "attention_head_dim": 10, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2,
           "patch_size_t": 1, "text_embed_dim": 16, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4)}  # fmt: skip

NETWORKS: dict[str, Net] = {
    "DiTTransformer2DModel": Net(
        {**TWO, "in_channels": 4, "out_channels": 8, "sample_size": 8, "num_embeds_ada_norm": 8},
        {"hidden_states": PLANES, **TIME, "class_labels": torch.tensor([1, 2])}, ALL,
    ),
    "PixArtTransformer2DModel": Net(
        {**TWO, "sample_size": 8, "cross_attention_dim": 16, "caption_channels": 16,
         "use_additional_conditions": False},
        {"hidden_states": PLANES, **TEXT, **TIME, "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}, ALL,
    ),
    "SanaTransformer2DModel": Net(
        {**TWO, **IN_OUT, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
         "caption_channels": 16},
        {"hidden_states": PLANES, **TEXT, **TIME}, NONE,
    ),
    "SanaVideoTransformer3DModel": Net(
        {**TWO, **IN_OUT, "attention_head_dim": 12, "num_cross_attention_heads": 2, "cross_attention_head_dim": 12,
         "cross_attention_dim": 24, "caption_channels": 16, "sample_size": 8, "rope_max_seq_len": 32},
        {"hidden_states": VIDEO, **TEXT, **TIME}, NONE,
    ),
    "HunyuanDiT2DModel": Net(
        {**TWO, "in_channels": 4, "sample_size": 8, "patch_size": 2, "cross_attention_dim": 16, "hidden_size": 16,
         "cross_attention_dim_t5": 16, "pooled_projection_dim": 4, "text_len": 6, "text_len_t5": 6},
        {"hidden_states": PLANES, **TEXT, **TIME, "encoder_hidden_states_t5": noise(2, 6, 16),
         "image_meta_size": ones(2, 6), "text_embedding_mask": ones(2, 6), "text_embedding_mask_t5": ones(2, 6),
         "style": torch.zeros(2).long(),
         "image_rotary_emb": [ones(16, 8), torch.zeros(16, 8)]}, ALL,
    ),
    "LuminaNextDiT2DModel": Net(
        {"sample_size": 8, "hidden_size": 24, "num_layers": 2, "num_attention_heads": 3, "num_kv_heads": 1,
         "multiple_of": 8, "learn_sigma": False, "cross_attention_dim": 16},
        {"hidden_states": PLANES, **TEXT, **TIME, "encoder_mask": ones(2, 6), "image_rotary_emb": noise(32, 32, 4),
         "cross_attention_kwargs": {}}, ALL,
    ),
    "Lumina2Transformer2DModel": Net(
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1,
         "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 2, 2),
         "axes_lens": (64, 64, 64), "cap_feat_dim": 16},
        {"hidden_states": PLANES, **TEXT, **TIME, "encoder_attention_mask": ones(2, 6).bool()}, LAST, 6,
    ),
    "ZImageTransformer2DModel": Net(
        {"dim": 16, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 1, "n_kv_heads": 2, "cap_feat_dim": 16,
         "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32]},
        {"x": [noise(16, 1, 8, 8)] * 2, "cap_feats": [noise(16, 16)] * 2, "t": torch.tensor([0.4, 0.4])},
        FIRST, 16 + 32,  # those that fill the image up too
    ),
    "AuraFlowTransformer2DModel": Net(
        {**HEADS, "sample_size": 8, "num_mmdit_layers": 2, "num_single_dit_layers": 1, "caption_projection_dim": 16,
         "joint_attention_dim": 16, "pos_embed_max_size": 16},
        {"hidden_states": PLANES, **TEXT, **TIME}, LAST, 8 + 6,
    ),
    "SD3Transformer2DModel": Net(
        {**TWO, **IN_OUT, "sample_size": 8, "caption_projection_dim": 16, "joint_attention_dim": 16,
         "pooled_projection_dim": 8, "pos_embed_max_size": 8},
        {"hidden_states": PLANES, **TEXT, **TIME, "pooled_projections": noise(2, 8)}, FIRST, 6,
    ),
    "FluxTransformer2DModel": Net(
        {**FLUX, "pooled_projection_dim": 8}, {**PACKED, "pooled_projections": noise(2, 8)}, LAST, 6
    ),
    "Flux2Transformer2DModel": Net(
        {"in_channels": 4, "num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "timestep_guidance_channels": 16, "axes_dims_rope": [4, 4, 4, 4]},
        {**PACKED, "img_ids": noise(2, 16, 4).round(), "txt_ids": torch.zeros(2, 6, 4), "guidance": ones(2)}, LAST, 6,
    ),
    "ChromaTransformer2DModel": Net(
        {**FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        PACKED, LAST, 6,
    ),
    "BriaTransformer2DModel": Net({**FLUX, "pooled_projection_dim": None}, PACKED, LAST, 6),
    "OvisImageTransformer2DModel": Net({**FLUX, "out_channels": 4}, PACKED, LAST, 6),
    "QwenImageTransformer2DModel": Net(
        QWEN,
        {"hidden_states": noise(2, 16, 16), **TEXT, "encoder_hidden_states_mask": ones(2, 6).long(),
         "timestep": torch.tensor([0.4, 0.4]), "img_shapes": [(1, 4, 4)] * 2}, LAST, 6,
    ),
    "CogView3PlusTransformer2DModel": Net(
        {**COG, "condition_dim": 4, "pos_embed_max_size": 8, "sample_size": 8},
        {"hidden_states": PLANES, **TEXT, **TIME, **SIZES}, LAST, 6,
    ),
    "CogView4Transformer2DModel": Net(
        {**COG, "condition_dim": 4}, {"hidden_states": PLANES, **TEXT, **TIME, **SIZES}, LAST, 6
    ),
    "CogVideoXTransformer3DModel": Net(
        {**COG, "sample_width": 8, "sample_height": 8, "sample_frames": 8, "max_text_seq_length": 6},
        {"hidden_states": noise(2, 1, 4, 8, 8), **TEXT, **TIME}, LAST, 6,
    ),
    "EasyAnimateTransformer3DModel": Net(
        {**COG, "attention_head_dim": 16, "mmdit_layers": 2, "patch_size": 2},
        {"hidden_states": VIDEO, **TEXT, **TIME}, LAST, 6,
    ),
    "HunyuanVideoTransformer3DModel": Net(
        HUNYUAN,
        {"hidden_states": VIDEO, **TEXT, **TIME, "pooled_projections": noise(2, 8), "guidance": ones(2) * 44,
         "encoder_attention_mask": ones(2, 6)}, FIRST, 6,
    ),
    "MochiTransformer3DModel": Net(
        {**TWO, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": 16, "time_embed_dim": 4,
         "max_sequence_length": 6},
        {"hidden_states": VIDEO, **TEXT, **TIME, "encoder_attention_mask": ones(2, 6).bool()}, "positions",
    ),
    "MotifVideoTransformer3DModel": Net(
        {**TWO, "attention_head_dim": 12, "num_single_layers": 1, "patch_size": 1, "text_embed_dim": 16,
         "image_embed_dim": 4, "rope_axes_dim": (4, 4, 4), "in_channels": 4},
        {"hidden_states": VIDEO, **TEXT, **TIME}, FIRST, 6,
    ),
    "WanTransformer3DModel": Net(WAN, {"hidden_states": VIDEO, **TEXT, **TIME}, ALL),
    "AllegroTransformer3DModel": Net(
        {**TWO, **IN_OUT, "cross_attention_dim": 16, "sample_width": 8, "sample_height": 8, "sample_frames": 8,
         "caption_channels": 16},
        {"hidden_states": VIDEO, **TEXT, **TIME}, ALL,
    ),
    "LTXVideoTransformer3DModel": Net(
        {**TWO, **IN_OUT, "cross_attention_dim": 16, "caption_channels": 16},
        {"hidden_states": noise(2, 32, 4), **TEXT, **TIME, "encoder_attention_mask": ones(2, 6).bool(),
         "num_frames": 2, "height": 4, "width": 4}, ALL,
    ),
    "LatteTransformer3DModel": Net(
        {**TWO, **IN_OUT, "cross_attention_dim": 16, "caption_channels": 16, "sample_size": 8, "video_length": 2,
         "patch_size": 2, "norm_elementwise_affine": False},
        {"hidden_states": VIDEO, **TEXT, **TIME}, ALL,
    ),
    "AceStepTransformer1DModel": Net(
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 8, "in_channels": 24, "audio_acoustic_hidden_dim": 8,
         "sliding_window": 16},
        {"hidden_states": noise(2, 8, 8), **TEXT, "timestep": noise(2), "timestep_r": noise(2),
         "context_latents": noise(2, 8, 16)}, ALL,
    ),
    "LongCatAudioDiTTransformer": Net(
        {"dit_dim": 16, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 16, "latent_dim": 8, "text_conv": False},
        {"hidden_states": noise(2, 8, 8), **TEXT, "encoder_attention_mask": ones(2, 6).bool(),
         "attention_mask": ones(2, 8).bool(), "timestep": noise(2)}, ALL,
    ),
    "JoyImageEditTransformer3DModel": Net(
        {"hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 2, "rope_dim_list": [4, 6, 6]},
        {"hidden_states": noise(2, 16, 1, 4, 4), **TEXT, "timestep": ones(2)}, NONE,
    ),
    "GlmImageTransformer2DModel": Net(
        {**TWO, **IN_OUT, "text_embed_dim": 16, "time_embed_dim": 16, "condition_dim": 8,
         "prior_vq_quantizer_codebook_size": 64},
        {"hidden_states": PLANES, **TEXT, **TIME, "prior_token_id": torch.arange(32).reshape(2, 16),
         "prior_token_drop": torch.zeros(2).bool(), "target_size": ones(2, 2) * 8, "crop_coords": torch.zeros(2, 2)},
        LAST, 6,
    ),
    "HiDreamImageTransformer2DModel": Net(
        {**IN_OUT, **HEADS, "patch_size": 2, "num_layers": 2, "num_single_layers": 1, "caption_channels": [16, 8],
         "text_emb_dim": 8, "num_routed_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (8, 8),
         "llama_layers": (0, 1, 2), "force_inference_output": True},
        {"hidden_states": PLANES, "encoder_hidden_states_t5": noise(2, 6, 16), "pooled_embeds": noise(2, 8),
         "encoder_hidden_states_llama3": noise(3, 2, 6, 8), "timesteps": torch.tensor([400, 400])}, "positions",
    ),
    "ErnieImageTransformer2DModel": Net(
        {"hidden_size": 16, "num_attention_heads": 1, "num_layers": 2, "ffn_hidden_size": 16, "in_channels": 4,
         "out_channels": 4, "text_in_dim": 16, "rope_axes_dim": (8, 4, 4)},
        {"hidden_states": PLANES, **TIME, "text_bth": STATES, "text_lens": torch.tensor([6, 4])}, FIRST, 6,
    ),
    "Ideogram4Transformer2DModel": Net(
        {"in_channels": 16, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "intermediate_size": 16,
         "adaln_dim": 16, "llm_features_dim": 16, "rope_theta": 10000, "mrope_section": (2, 1, 1)},
        {"hidden_states": noise(2, 8, 16), "encoder_hidden_states": noise(2, 8, 16), "timestep": ones(2) / 2,
         "position_ids": torch.arange(8)[:, None].expand(2, 8, 3), "segment_ids": torch.ones(2, 8).long(),
         "indicator": torch.tensor([[3] * 4 + [2] * 4] * 2)}, ONE_SEQUENCE,
    ),
    "Krea2Transformer2DModel": Net(
        {"in_channels": 16, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 16, "timestep_embed_dim": 8, "text_hidden_dim": 16,
         "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 1,
         "text_intermediate_size": 16, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
         "axes_dims_rope": (4, 2, 2)},
        {"hidden_states": noise(2, 4, 16), "encoder_hidden_states": noise(2, 4, 3, 16), "timestep": ones(2) / 2,
         "position_ids": noise(8, 3), "encoder_attention_mask": ones(2, 4).bool()}, LAST, 4,
    ),
    "UNet2DModel": Net(
        {"block_out_channels": (8, 16), "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4, "sample_size": 8},
        {"sample": noise(2, 3, 8, 8), "timestep": 10}, ALL,
    ),
    "UNet2DConditionModel": Net(
        {**UNET, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        {"sample": PLANES, **TEXT, "timestep": 10}, ALL,
    ),
    "UNet3DConditionModel": Net(
        {**UNET, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
         "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")},
        {"sample": VIDEO, **TEXT, "timestep": 10}, ALL,
    ),
    "UNetMotionModel": Net(
        {"block_out_channels": (16, 32), "norm_num_groups": 4, "cross_attention_dim": 16, "num_attention_heads": 2,
         "layers_per_block": 1, "sample_size": 8, "motion_num_attention_heads": 2,
         "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
         "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion")},
        {"sample": VIDEO, "encoder_hidden_states": STATES.repeat_interleave(2, 0), "timestep": 10}, ALL,
    ),
    "UNetSpatioTemporalConditionModel": Net(
        {"block_out_channels": (32, 64), "cross_attention_dim": 16, "num_attention_heads": 2, "in_channels": 4,
         "sample_size": 8, "projection_class_embeddings_input_dim": 24, "addition_time_embed_dim": 8,
         "layers_per_block": 1, "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
         "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")},
        {"sample": noise(2, 2, 4, 8, 8), "encoder_hidden_states": noise(2, 1, 16), "timestep": 10,
         "added_time_ids": noise(2, 3)}, ALL,
    ),
}  # fmt: skip

OTHERS: dict[str, str] = {
    "Wan's blocks": (
        "AnyFlowTransformer3DModel ChronoEditTransformer3DModel HeliosTransformer3DModel "
        "WanAnimateTransformer3DModel WanAnimate2Transformer3DModel WanVACETransformer3DModel "
        "SkyReelsV2Transformer3DModel"
    ),
    "attention in a kernel of its own": "AnyFlowFARTransformer3DModel",
    "Flux's blocks": (
        "BriaFiboTransformer2DModel BriaFibo2Transformer2DModel Flux3Transformer2DModel LongCatImageTransformer2DModel"
    ),
    "Qwen-Image's blocks": "QwenImage21Transformer2DModel",
    "CogVideoX's blocks": "ConsisIDTransformer3DModel",
    "HunyuanVideo's blocks": (
        "HunyuanImageTransformer2DModel HunyuanVideo15Transformer3DModel HunyuanVideoFramepackTransformer3DModel"
    ),
    "JoyImage's blocks": "JoyImageEditPlusTransformer3DModel",
    "Sana's blocks": "SanaWMTransformer3DModel",
    "several answers": "LTX2VideoTransformer3DModel SanaWMLTX2RefinerTransformer3DModel",
    "needs torchvision": "CosmosTransformer3DModel Cosmos3OmniTransformer",
    "the blocks of other U-Nets": "DreamLiteUNetModel I2VGenXLUNet Kandinsky3UNet",
    "a part of other networks": "DreamLiteTransformer2DModel MotionAdapter Transformer2DModel TransformerTemporalModel",
    "no pictures": (
        "MiniMaxH3Transformer3DModel MiniMaxMusic3RVQDepthDecoder MiniMaxMusic3Transformer1DModel "
        "PriorTransformer RFD4ProteinaTransformer StableAudio3DiTModel StableAudioDiTModel T5FilmDecoder "
        "UNet1DModel"
    ),
    "tokens of pictures": "OmniGenTransformer2DModel UVit2DModel",
    "never small": (
        "Kandinsky5Transformer3DModel Kandinsky6Transformer3DModel Kandinsky6SRTransformer3DModel "
        "PRXTransformer2DModel StableCascadeUNet"
    ),
    "layers of experts": "NucleusMoEImageTransformer2DModel",
}
"""Why -> classes that are no case here."""
