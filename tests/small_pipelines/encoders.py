"""Small text and image encoders of transformers with random weights, 16 wide, and tokenizers of a few words."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import transformers

from tests.pipelines import made

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    "<pad>", "</s>", "<unk>", "<bos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<think>", "</think>",
)  # fmt: skip
VOCABULARY = 64
DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3,
}  # fmt: skip
VISION: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "in_channels": 3, "spatial_merge_size": 2, "depth": 1}
IDS = {name: SPECIAL.index(f"<|{name[:-9]}_pad|>") for name in ("image_token_id", "video_token_id")}


@cache
def chat_tokenizer(padding: str = "right") -> Any:
    """A token for each word, mark and line feed, so that templates of prompts are as long as the real ones."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = [*SPECIAL, "\n", *made.WORDS, *["user", "assistant", "system", "think", ",", ".", ":", "!", "?"]]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), behavior="removed", invert=True)
    inner.add_special_tokens(list(SPECIAL))
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<bos>",
        padding_side=padding, model_max_length=4096,
    )  # fmt: skip
    tokens.chat_template = TEMPLATE
    return tokens


class TextProcessor:
    """In the place of a processor of text and pictures: it does not look at the pictures."""

    def __init__(self) -> None:
        self.tokenizer = chat_tokenizer()

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **more: Any) -> Any:
        found = self.tokenizer([text] if isinstance(text, str) else list(text), **more)
        return transformers.BatchEncoding({**found, "pixel_values": None, "image_grid_thw": None})

    def apply_chat_template(self, *args: Any, **more: Any) -> Any:
        return self.tokenizer.apply_chat_template(*args, **more)


def _decoder(model: str, config: str, **more: Any) -> Callable[[], Any]:
    """A language model of transformers."""

    def make() -> Any:
        settings = getattr(transformers, config)(**{**DECODER, **more})
        return made.spread(getattr(transformers, model)(settings), 21)

    return make


def _with_pictures(model: str, config: str, vision: dict[str, Any], **more: Any) -> Callable[[], Any]:
    """A language model that sees pictures too."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}

    def make() -> Any:
        text = {**DECODER, "rope_parameters": rope, **more}
        settings = getattr(transformers, config)(text_config=text, vision_config={**VISION, **vision}, **IDS)
        return made.spread(getattr(transformers, model)(settings), 22)

    return make


def _bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return made.spread(transformers.BertModel(config), 23)


def _clip_vision(kind: str) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, projection_dim=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=224, patch_size=56,
    )  # fmt: skip
    return made.spread(getattr(transformers, kind)(config), 24)


def _siglip_vision() -> Any:
    config = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=56
    )
    return made.spread(transformers.SiglipVisionModel(config), 25)


def _umt5() -> Any:
    config = transformers.UMT5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return made.spread(transformers.UMT5EncoderModel(config), 26)


def _t5_gemma() -> Any:
    config = transformers.T5GemmaModuleConfig(**DECODER, dropout_rate=0.0, layer_types=["full_attention"] * 2)
    return made.spread(transformers.models.t5gemma.modeling_t5gemma.T5GemmaEncoder(config), 27)


def _t5_gemma2() -> Any:
    text = {**DECODER, "layer_types": ["full_attention"] * 2, "dropout_rate": 0.0}
    vision = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    module = transformers.models.t5gemma2
    config = module.configuration_t5gemma2.T5Gemma2EncoderConfig(text_config=text, vision_config=vision)
    return made.spread(module.modeling_t5gemma2.T5Gemma2Encoder(config), 28)


QWEN2 = {"patch_size": 14, "out_hidden_size": 16, "intermediate_size": 24, "fullatt_block_indexes": [0]}
QWEN3 = {
    "patch_size": 16, "out_hidden_size": 16, "intermediate_size": 24, "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0], "temporal_patch_size": 2,
}  # fmt: skip

PARTS: dict[str, Callable[[], Any]] = {
    "CLIPTextModel": made.clip_text,
    "CLIPTextModelWithProjection": lambda: made.clip_text(7, projection=True),
    "CLIPVisionModel": lambda: _clip_vision("CLIPVisionModel"),
    "CLIPVisionModelWithProjection": lambda: _clip_vision("CLIPVisionModelWithProjection"),
    "SiglipVisionModel": _siglip_vision,
    "T5EncoderModel": made.t5,
    "UMT5EncoderModel": _umt5,
    "BertModel": _bert,
    "T5GemmaEncoder": _t5_gemma,
    "T5Gemma2Encoder": _t5_gemma2,
    "Gemma2PreTrainedModel": made.gemma,
    "GemmaPreTrainedModel": _decoder("GemmaModel", "GemmaConfig"),
    "GlmModel": _decoder("GlmModel", "GlmConfig"),
    "LlamaModel": _decoder("LlamaModel", "LlamaConfig"),
    "LlamaForCausalLM": _decoder("LlamaForCausalLM", "LlamaConfig"),
    "Mistral3Model": _decoder("MistralModel", "MistralConfig"),
    "Qwen2_5_VLForConditionalGeneration": _with_pictures(
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", QWEN2
    ),
    "Qwen2_5_VLTextModel": _decoder(
        "Qwen2_5_VLTextModel",
        "Qwen2_5_VLTextConfig",
        rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    ),
    "Qwen2VLForConditionalGeneration": _with_pictures(
        "Qwen2VLForConditionalGeneration", "Qwen2VLConfig", {"embed_dim": 16, "patch_size": 14}
    ),
    "Qwen3ForCausalLM": _decoder("Qwen3ForCausalLM", "Qwen3Config"),
    "Qwen3Model": _decoder("Qwen3Model", "Qwen3Config"),
    "Qwen3VLForConditionalGeneration": _with_pictures("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", QWEN3),
    "Qwen3VLModel": _with_pictures("Qwen3VLModel", "Qwen3VLConfig", QWEN3),
    "Qwen3VLModel, 36 layers": _with_pictures("Qwen3VLModel", "Qwen3VLConfig", QWEN3, num_hidden_layers=36),
    "SmolLM3ForCausalLM": _decoder("SmolLM3ForCausalLM", "SmolLM3Config"),
    "ByT5Tokenizer": transformers.ByT5Tokenizer,
    "CLIPProcessor": transformers.CLIPImageProcessorPil,
    "Qwen2VLProcessor": TextProcessor,
    "Qwen2_5_VLProcessor": TextProcessor,
    "Qwen3VLProcessor": TextProcessor,
    "CLIPTokenizer": made.clip_tokenizer,
    "T5Tokenizer": made.word_tokenizer,
    "BertTokenizer": made.word_tokenizer,
    "CLIPImageProcessorPil": lambda: transformers.CLIPImageProcessorPil(),
    "SiglipImageProcessorPil": lambda: transformers.SiglipImageProcessorPil(),
    "AutoTokenizer": chat_tokenizer,
    "Qwen2Tokenizer": chat_tokenizer,
    "LlamaTokenizer": chat_tokenizer,
    "GemmaTokenizer": made.word_tokenizer,
    "PreTrainedTokenizerBase": chat_tokenizer,
    "TokenizersBackend": chat_tokenizer,
}
"""Class of a component, as pipelines name it -> how to make one."""
