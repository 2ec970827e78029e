"""The trained case of the pipelines, at sizes of a test: a tokenizer and an encoder of captions, the stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.pipeline import PROMPTS, Pipeline
from benchmarks.tiny_clip import Pairs, readable, small_clip, train, trained_tokenizer
from PIL import Image

from fairlead.core.errors import UsageError
from fairlead.data.scenes.captions import read_caption
from fairlead.data.scenes.scene_set import load_scenes
from fairlead.models.load import load
from fairlead.train.reading import said
from tests.pipelines.families import apart


def test_a_word_of_the_captions_is_a_token_and_any_other_is_read_in_pieces(tmp_path: Path) -> None:
    data = load_scenes(n=100, size=32)
    tokenizer = trained_tokenizer(data.captions, 40)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert len(tokenizer("a small red seven at the top left")["input_ids"]) == 8 + 2
    assert (
        tokenizer("Red")["input_ids"] == tokenizer("red")["input_ids"] == [start, tokenizer("red")["input_ids"][1], end]
    )
    assert tokenizer.decode(tokenizer("zebra, ok")["input_ids"], skip_special_tokens=True).split() == [
        "zebra",
        ",",
        "ok",
    ]
    tokenizer.save_pretrained(tmp_path)
    import transformers

    again = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 40
    assert again(list(data.captions))["input_ids"] == tokenizer(list(data.captions))["input_ids"]
    with pytest.raises(UsageError, match=r"take \d+ tokens; give --length"):
        trained_tokenizer(data.captions, 10)


def test_the_state_at_the_end_comes_to_say_what_a_caption_says() -> None:
    data = load_scenes(n=400, size=32)
    tokenizer = trained_tokenizer(data.captions, 40)
    model = small_clip(tokenizer, 32, 3, 32, seed=0)
    pairs = Pairs.of(data, tokenizer)
    generator = torch.Generator().manual_seed(0)
    given, has = pairs.batch(16, generator)
    of_all = set(pairs.known[has.bool().any(0)].tolist())
    assert of_all == set(said(given["input_ids"]).flatten().tolist())
    losses = list(train(model, pairs, 25, 32, 3e-3, seed=0))
    assert losses[0] == pytest.approx(torch.tensor(32.0).log().item(), abs=0.2)
    shares = readable(model.text_model, tokenizer, {"train": data.captions[:300], "test": data.captions[300:]})
    scenes = [read_caption(caption) for caption in data.captions[300:]]
    often = max(sum(s.get("background") == b for s in scenes) for b in ("white", "black", "red"))
    assert shares["background"] > 2 * often / sum("background" in s for s in scenes)


@pytest.mark.slow
def test_the_stages_end_in_a_pipeline_that_diffusers_loads(tmp_path: Path) -> None:
    """And done again they do nothing but draw."""
    small: dict[str, Any] = {"vae_steps": 2, "clip_steps": 2, "steps": 2, "batch_size": 4, "each": 2}
    Pipeline(tmp_path, "scenes(size=32, n=60, two=0)", **small).main()
    with Image.open(tmp_path / "images.png") as image:
        assert image.size == (2 * 32, len(PROMPTS) * 32)
    run, pipe = load(tmp_path / "unet"), load(tmp_path / "pipeline")
    x_t, at = torch.randn(2, *run.shape), torch.tensor(0.6, dtype=torch.float64)
    ours, theirs = (m.denoiser(x_t, at, m.encode([PROMPTS[0], None])).x0 for m in (run, pipe))
    assert apart(ours, theirs) < 1e-4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    Pipeline(tmp_path, "scenes(size=32, n=60, two=0)", **small).main()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
