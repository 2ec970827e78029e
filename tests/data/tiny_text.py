"""Text encoders of a few thousand random weights, stored as transformers stores them."""

from pathlib import Path

import torch

WORDS = ("a", "red", "blue", "seven", "one", "small", "digit", "on", "white", "at", "the", "top")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_clip(folder: Path, length: int = 8) -> Path:
    """CLIP's text network with a tokenizer of whole words, whose padding is the end token, as CLIP's is."""
    import transformers

    tokens = _tokenizer(folder, pad="<end>", start="<start>", end="<end>", length=length)
    config = transformers.CLIPTextConfig(
        **SMALL, vocab_size=len(tokens), max_position_embeddings=length, eos_token_id=tokens.eos_token_id,
        bos_token_id=tokens.bos_token_id, pad_token_id=tokens.pad_token_id, projection_dim=16,
    )  # fmt: skip
    return _stored(transformers.CLIPTextModel(config), folder)


def tiny_t5(folder: Path) -> Path:
    import transformers

    tokens = _tokenizer(folder, pad="<pad>", end="<end>")
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=len(tokens),
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, decoder_start_token_id=tokens.pad_token_id,
    )  # fmt: skip
    return _stored(transformers.T5EncoderModel(config), folder)


def tiny_sentence(folder: Path, length: int = 12) -> Path:
    import transformers

    tokens = _tokenizer(folder, pad="<pad>", start="<start>", end="<end>", length=length)
    config = transformers.BertConfig(
        **SMALL, vocab_size=len(tokens), max_position_embeddings=length, pad_token_id=tokens.pad_token_id
    )
    return _stored(transformers.BertModel(config), folder)


def _tokenizer(folder: Path, pad: str, end: str, start: str = "", length: int | None = None):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = [token for token in dict.fromkeys((pad, start, end)) if token]
    vocabulary = {token: i for i, token in enumerate([*special, "<unknown>", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(token, vocabulary[token]) for token in (start, end) if token]
    plain.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}".strip(), special_tokens=frame)
    more = {"model_max_length": length} if length else {}
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token=pad, eos_token=end, unk_token="<unknown>",
        **({"bos_token": start} if start else {}), **more,
    )  # fmt: skip
    tokens.save_pretrained(folder)
    return tokens


def _stored(network, folder: Path) -> Path:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder
