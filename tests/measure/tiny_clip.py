"""A CLIP of a few thousand random weights with a small vocabulary, stored as transformers stores it."""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("red", "green", "blue", "square", "a")


def tiny_clip(folder: Path, settings: dict[str, Any]) -> Path:
    import transformers

    folder.mkdir(parents=True)
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokens = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokens.save_pretrained(folder)
    small = {
        "projection_dim": 16,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    end = vocabulary.index("<|endoftext|>")
    torch.manual_seed(2)
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": end,
                     "bos_token_id": end - 1, "pad_token_id": end},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
