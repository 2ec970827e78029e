"""Every class of pipelines that is made here, by the pattern in which it calls its network."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

from tests.pipelines import made
from tests.small_pipelines.build import Small, Unchecked, half_mask, picture, pictures

XL = {"unet": {**made.XL, "cross_attention_dim": 32}}
XL_CONTROL = {**XL, "controlnet": {k: v for k, v in XL["unet"].items() if k != "up_block_types"}}
WIDE_T5: dict[str, Any] = {"text_encoder_3": lambda: made.t5(width=32)}
SIXTEEN = {**WIDE_T5, "transformer": {"in_channels": 16, "out_channels": 16}, "vae": {"latent_channels": 16}}
T5_2 = {"text_encoder_2": "T5EncoderModel", "tokenizer_2": "T5Tokenizer"}
EYES = {"image_encoder": "CLIPVisionModelWithProjection", "feature_extractor": "CLIPImageProcessorPil"}
FOUND: dict[str, Any] = {"transformer": {}}
CLIP77 = partial(made.clip_text, positions=77)
SAFE: dict[str, Any] = {"safety_checker": Unchecked()}
KARRAS = partial(diffusers.FlowMatchEulerDiscreteScheduler, use_karras_sigmas=True)
SMALL_EYES = partial(transformers.SiglipImageProcessorPil, size={"height": 28, "width": 28})
LONG: dict[str, Any] = {
    "prompt": "red cat " * 20,
    "negative_prompt": "blurry " * 40,
}  # the words of a template are cut off
MID: dict[str, Any] = {"height": 32, "width": 32}
SD, SDXL, SD3 = "StableDiffusion", "StableDiffusionXL", "StableDiffusion3"

SMALL: dict[str, Small] = {}


def _add(
    names: str, parts: Any = None, own: float | None = 5.0, before: str = "", refused: str = "", **call: Any
) -> None:
    for name in names.split():
        SMALL[f"{before}{name}Pipeline"] = Small(parts or {}, call, own, refused)


_add(f"{SD} {SD}Img2Img {SD}Inpaint {SD}ControlNet {SD}ControlNetImg2Img {SD}ControlNetInpaint")
_add("Adapter", before=SD, parts={"adapter": {"downscale_factor": 1}})
_add("ImageVariation", parts=EYES, before=SD)
_add(
    "Depth2Img",
    {"unet": {"in_channels": 5}, "depth_estimator": None, **EYES},
    before=SD,
    depth_map=torch.arange(256.0).reshape(1, 16, 16),
)
_add("Upscale", {"unet": {"in_channels": 7, "num_class_embeds": 30}, "low_res_scheduler": made.ddim}, before=SD)
_add("XL XLImg2Img XLInpaint", XL, before=SD)
_add("ControlNet ControlNetImg2Img ControlNetInpaint", XL_CONTROL, before=SDXL)
_add("Adapter", {**XL, "adapter": {"adapter_type": "full_adapter_xl"}}, before=SDXL)
_add("3 3Img2Img 3ControlNet", WIDE_T5, before=SD)
_add("3Inpaint", SIXTEEN, before=SD)
_add("StableVideoDiffusion", EYES, min_guidance_scale=5.0, max_guidance_scale=5.0)
_add("PAG PAGImg2Img PAGInpaint ControlNetPAG ControlNetPAGInpaint", before=SD)
_add("PAG PAGImg2Img PAGInpaint", XL, before=SDXL)
_add("ControlNetPAG ControlNetPAGImg2Img", XL_CONTROL, before=SDXL)
_add("PAG PAGImg2Img", WIDE_T5, before=SD3)
_add("PixArtSigmaPAG AnimateDiffPAG")
_add("HunyuanDiTPAG", T5_2)
_add("SanaPAG", **MID)
_add("InstructPix2Pix", {"unet": {"in_channels": 8}}, before=SD, image_guidance_scale=1.0)
_add("InstructPix2Pix", {"unet": {**XL["unet"], "in_channels": 8}}, before=SDXL, image_guidance_scale=1.0)
_add("DreamLite")
_add("Allegro AuraFlow Bria BriaFibo CogView3Plus PixArtAlpha PixArtSigma HiDreamImage Lumina StableAudio Mochi")
_add("LongCatAudioDiT", audio_duration_s=0.1)
_add("DiT", class_labels=[1])
_add("Latte", video_length=1)
_add("Sana SanaControlNet PRX LTX LTXImageToVideo LTXCondition", **MID)
_add("SanaVideo SanaImageToVideo", {"vae": "AutoencoderKLWan"}, frames=5, **MID)
_add("HunyuanDiT HunyuanDiTControlNet", T5_2)
_add("AnimateDiff AnimateDiffVideoToVideo")
_add("AnimateDiffControlNet AnimateDiffVideoToVideoControlNet", conditioning_frames=pictures(5))
_add("AnimateDiffSparseControlNet", conditioning_frames=pictures(2), controlnet_frame_indices=[0, 1])
_add("AnimateDiffSDXL", XL)
_add("CogVideoX CogVideoXVideoToVideo EasyAnimate")
_add("CogVideoXImageToVideo", {"transformer": {"in_channels": 8}})
_add("CogVideoXFunControl", {"transformer": {"in_channels": 8}}, control_video=pictures(5))
IF = {
    "unet": {"in_channels": 3, "out_channels": 6},
    "scheduler": lambda: diffusers.DDPMScheduler(variance_type="learned_range"),
}
_add("IF IFImg2Img IFInpainting", IF, output_type="pt")
_add(
    "IFSuperResolution",
    {**IF, "unet": {"in_channels": 6, "out_channels": 6, "class_embed_type": "timestep"}},
    output_type="pt",
)
_add(
    "KandinskyV22",
    {
        "unet": {
            "out_channels": 8,
            "addition_embed_type": "image",
            "encoder_hid_dim_type": "image_proj",
            "encoder_hid_dim": 16,
        }
    },
    image_embeds=torch.ones(1, 16),
    negative_image_embeds=torch.zeros(1, 16),
)
_add("KandinskyPrior KandinskyV22Prior", output_type="pt", negative_prompt=...)
_add("Kandinsky3", own=4.0)
_add("Wan WanVideoToVideo AnyFlow", FOUND)
_add("AnyFlowFAR", refused="returns several tensors", num_frames=9)
_add("SkyReelsV2 SkyReelsV2DiffusionForcing", {"text_encoder": "UMT5EncoderModel"})
_add("SkyReelsV2DiffusionForcingImageToVideo", {"text_encoder": "UMT5EncoderModel"})
_add(
    "SkyReelsV2DiffusionForcingVideoToVideo",
    {"text_encoder": "UMT5EncoderModel"},
    overlap_history=3,
    num_frames=17,
    base_num_frames=5,
)
_add("WanImageToVideo", {"transformer": {"in_channels": 12}})
_add("WanVACE", FOUND, video=pictures(5))
_add("ChronoEdit", EYES)
_add(
    "SkyReelsV2ImageToVideo",
    {
        "transformer": {"in_channels": 12, "image_dim": 16},
        "image_encoder": "CLIPVisionModelWithProjection",
        "text_encoder": "UMT5EncoderModel",
    },
)
_add("Flux FluxImg2Img FluxInpaint CogView4 QwenImage QwenImageImg2Img QwenImageInpaint QwenImageControlNet")
_add("LongCatImage", {"transformer": {"in_channels": 64}, "vae": {"latent_channels": 16}}, enable_prompt_rewrite=False)
_add("NucleusMoEImage", return_index=-1, max_sequence_length=64)
_add(
    "Helios",
    {"scheduler": lambda: diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)},
    num_frames=9,
)
_add("CogView4Control", {"transformer": {"in_channels": 8}})
_add("Flux2Klein Flux2KleinInpaint", text_encoder_out_layers=(1,))
_add("QwenImageControlNetInpaint", {"controlnet": {"extra_condition_channels": 4}}, control_mask=half_mask(32), **MID)
_add("FluxKontext", max_area=256, _auto_resize=False)
_add("Chroma ChromaImg2Img Lumina2 OvisImage FluxControlNet")
_add("ErnieImage", use_pe=False)
_add("Krea2", {"text_encoder_select_layers": (0, 1, 2)}, own=4.0)
_add("Kandinsky5T2V", {"text_encoder_2": CLIP77}, **MID)
_add("Kandinsky5I2V", {"text_encoder_2": CLIP77}, num_frames=17, **MID)
_add("Kandinsky5T2I", {"text_encoder_2": CLIP77, "vae": "AutoencoderKL"}, **MID)
_add("Cosmos2TextToImage", {**SAFE, "scheduler": KARRAS}, own=4.0, **MID)
_add(
    "Cosmos2VideoToWorld",
    {**SAFE, "scheduler": KARRAS, "transformer": {"in_channels": 5}},
    own=4.0,
    num_frames=9,
    video=None,
    **MID,
)
_add(
    "Cosmos2_5_PredictBase",
    {**SAFE, "transformer": {"in_channels": 5, "text_embed_dim": 32, "use_crossattn_projection": False}},
    own=4.0,
    num_frames=9,
    max_sequence_length=64,
    video=None,
    image=None,
    **MID,
)
_add("CosmosTextToWorld", SAFE, num_frames=9, **MID)
_add("CosmosVideoToWorld", {**SAFE, "transformer": {"in_channels": 5}}, num_frames=9, video=None, **MID)
_add("HunyuanVideo", {"text_encoder_2": CLIP77}, prompt_template={"template": "{}", "crop_start": 0})
_add(
    "HunyuanSkyreelsImageToVideo",
    {"text_encoder_2": CLIP77, "transformer": {"in_channels": 8}},
    prompt_template={"template": "{}", "crop_start": 0},
)
GUIDED: dict[str, Any] = {
    "scheduler": made.flow,
    "guider": lambda: diffusers.ClassifierFreeGuidance(guidance_scale=5.0),
}
_add("HunyuanImage", GUIDED, own=None)
_add("HunyuanVideo15", GUIDED, own=None, **LONG)
_add("MotifVideo", {**GUIDED, "transformer": {"in_channels": 9}}, own=None)
_add("ZImage ZImageImg2Img ZImageInpaint", {"text_encoder": "Qwen3Model"}, own=4.0)
_add(
    "Ideogram4",
    refused="calls two networks",
    parts={"text_encoder": "Qwen3VLModel, 36 layers"},
    guidance_schedule=None,
    max_sequence_length=32,
)
_add(
    "StableUnCLIP",
    refused="denoises twice",
    parts={
        "unet": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 32},
        "image_normalizer": partial(StableUnCLIPImageNormalizer, 16),
    },
)
SMALL["WanPipeline, two networks"] = Small({"transformer": {}, "transformer_2": {}, "boundary_ratio": 0.9})

_add("ControlNetUnion ControlNetUnionImg2Img ControlNetUnionInpaint", XL_CONTROL, before=SDXL, control_mode=[0])
_add(
    "ControlNetInpainting",
    {**SIXTEEN, "controlnet": {"in_channels": 16, "out_channels": 16, "extra_conditioning_channels": 1}},
    before=SD3,
    control_mask=half_mask(),
)
_add("EasyAnimateInpaint", {"transformer": {"in_channels": 9}}, mask_video=None)
_add("Kandinsky3Img2Img", own=4.0)
_add("FluxKontextInpaint", max_area=256, _auto_resize=False)
_add(
    "MotifVideoImage2Video",
    {**GUIDED, "feature_extractor": SMALL_EYES, "transformer": {"in_channels": 9, "image_embed_dim": 8}},
    own=None,
)
_add(
    "HunyuanVideo15ImageToVideo",
    {**GUIDED, "feature_extractor": "SiglipImageProcessorPil", "transformer": {"task_type": "i2v"}},
    own=None,
    **LONG,
)
_add(
    "IFImg2ImgSuperResolution IFInpaintingSuperResolution",
    {**IF, "unet": {"in_channels": 6, "out_channels": 6, "class_embed_type": "timestep"}},
    output_type="pt",
    original_image=picture(),
)
EMBEDDED: dict[str, Any] = {"image_embeds": torch.ones(1, 16), "negative_image_embeds": torch.zeros(1, 16)}
V22 = {"out_channels": 8, "addition_embed_type": "image", "encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 16}
HINTED = {**V22, "in_channels": 8, "addition_embed_type": "image_hint"}
_add("KandinskyV22Img2Img", {"unet": V22}, **EMBEDDED)
_add("KandinskyV22Inpaint", {"unet": {**V22, "in_channels": 9}}, **EMBEDDED)
_add(
    "KandinskyV22Controlnet KandinskyV22ControlnetImg2Img",
    {"unet": HINTED},
    hint=torch.ones(1, 3, 128, 128),
    output_type="pt",
    **EMBEDDED,
)
_add("KandinskyV22PriorEmb2Emb", EYES, image=picture(), output_type="pt")
_add("LucyEdit", {"transformer": {"in_channels": 8}}, video=pictures(5))
_add("PRXPixel", {"text_encoder": "Qwen3Model", "tokenizer": "AutoTokenizer", "transformer": {"in_channels": 3}}, **MID)
_add("BriaFiboEdit", prompt='{"text": "a cat", "edit_instruction": "red"}', **MID)
