"""Pipelines of any class as models: what rehearsals learn of their calls is what the table of families says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.diffusers.loading import load_pipeline
from fairlead.diffusers.packing import packed
from fairlead.guide.branch import COND, NULL
from fairlead.models.model import identity
from tests.pipelines import made
from tests.pipelines.families import FAMILIES, apart, run
from tests.pipelines.test_block import traces
from tests.pipelines.test_learned import family

TEXT = {name: FAMILIES[name].make for name in ("sd", "sdxl", "sd3", "flux", "pixart alpha", "sana")}


@contextmanager
def no_table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairlead.diffusers.loading.known_wiring", lambda kind: None)
        yield


def learned(pipe: Any, size: int) -> fl.Model:
    with no_table():
        return load_pipeline(pipe, size=size)


@pytest.mark.parametrize("name", TEXT)
def test_a_learned_model_predicts_what_the_table_says(name: str) -> None:
    pipe = TEXT[name]()
    known = load_pipeline(pipe, size={"flux": 8, "sana": 16}.get(name))
    model = learned(pipe, known.shape[-1])
    x = torch.randn(3, *known.shape, generator=made.seeded(1))
    own = packed if name == "flux" else identity  # there the network's samples are tokens
    for t in (0.9, 0.31):
        for specs in (["a cat", None, "red"], [None] * 3, ["blue dog"] * 3):
            time = torch.tensor(t, dtype=torch.float64)
            theirs = known.denoiser(x, time, known.encode(specs)).x0
            mine = model.denoiser(own(x), time, model.encode(specs)).x0
            assert apart(mine, own(theirs)) < 1e-4, (t, specs)


def with_text(name: str) -> tuple[Any, dict[str, Any]]:
    """(a pipeline of a class that is in no table, how big a call of it is)."""
    pipe, arguments, _ = family(name, 1)
    pipe.register_modules(tokenizer=made.word_tokenizer(), text_encoder=made.t5(width=8))
    kept = {"height", "width", "num_frames", "output_type"}
    return pipe, {key: value for key, value in arguments.items() if key in kept}


@pytest.mark.parametrize("name", ["wan", "aura"])
def test_a_learned_model_predicts_what_the_network_told_the_pipeline(name: str) -> None:
    """At every step of a run of the pipeline, at its own x_t, conditional and null: video by two calls, one batch."""
    pipe, arguments = with_text(name)
    seen: list[Any] = []
    with fl.attach(pipe, "cfg(3)", observe=seen.append):
        run(pipe, {**arguments, "prompt": ["a cat", "blue dog"]}, 3, guidance_scale=3.0)
    before = traces(pipe)
    model = load_pipeline(pipe, size=(arguments["height"] // made_scale(pipe), arguments["width"] // made_scale(pipe)))
    assert traces(pipe) == before
    assert len(seen) == 3
    for observation in seen:
        there = observation.seen
        t = model.schedule.t_of_ratio(torch.tensor(there.step.sigma, dtype=torch.float64))
        x_t = there.x_t[:, :, : model.shape[1]] if name == "wan" else there.x_t
        if x_t.shape[1:] != model.shape:
            continue
        condition = model.encode(["a cat", "blue dog"])
        for branch, mine in ((COND, condition), (NULL, condition.drop())):
            assert apart(model.denoiser(x_t, t, mine).x0, there.x0(branch)) < 1e-4


def made_scale(pipe: Any) -> int:
    return int(getattr(pipe, "vae_scale_factor", 0) or pipe.vae_scale_factor_spatial)


def test_samples_are_decoded_as_the_pipeline_decodes_them() -> None:
    pipe = made.sd()
    known, model = load_pipeline(pipe), learned(pipe, 8)
    x0 = torch.randn(3, *known.shape, generator=made.seeded(2))
    assert apart(model.decode(x0), known.decode(x0).clamp(-1, 1)) < 1e-5


class Own(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    """A pipeline with a call of its own."""

    def __call__(self, prompt: Any, height: Any = None, width: Any = None, num_inference_steps: int = 5,
                 guidance_scale: float = 4.0, output_type: str = "pil") -> Any:  # fmt: skip
        return super().__call__(prompt, height, width, num_inference_steps, guidance_scale=guidance_scale,
                                output_type=output_type)  # fmt: skip


@pytest.mark.parametrize("text", ["cfg(4)", "cfg(3) + pag(2)", 'cfg(4, negative="blurry")',
                                  "apg(cfg(4)) | rescale(0.7)"])  # fmt: skip
def test_a_pipeline_of_ones_own_is_sampled_as_one_of_the_table(text: str) -> None:
    pipe = made.sd()
    own = Own(**pipe.components, requires_safety_checker=False)
    known, model = fl.load(pipe), fl.load(own)
    assert model.shape == known.shape
    assert model.image_shape == known.image_shape
    a, b = (fl.sample(m, ["a cat", "blue dog", "a cat"], guidance=text, steps=4) for m in (known, model))
    assert apart(b.x0, a.x0) < 1e-4
    assert b.cost.rows == a.cost.rows
    assert a.images is not None
    assert b.images is not None
    assert apart(b.images.float(), a.images.float()) < 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_encoder": None}, "has no text encoder"),
        ({"scheduler": diffusers.KarrasVeScheduler()}, "no table of noise levels"),
    ],
)
def test_what_cannot_be_learned_as_a_model(change: dict[str, Any], words: str) -> None:
    pipe = made.sd()
    own = Own(**{**pipe.components, **change}, requires_safety_checker=False)
    with pytest.raises(UsageError, match=words) as caught:
        fl.load(own)
    assert "\n" not in str(caught.value)


def test_a_pipeline_that_needs_an_image_says_what_to_do_instead() -> None:
    class Painting(diffusers.StableDiffusionInpaintPipeline):  # type: ignore[misc]
        def __call__(self, prompt: Any, image: Any, mask_image: Any, **more: Any) -> Any:
            return super().__call__(prompt, image, mask_image, **more)

    with pytest.raises(UsageError, match=r"needs image beside the prompt.*use fl.attach") as caught:
        fl.load(Painting(**made.sd().components, requires_safety_checker=False))
    assert len(str(caught.value)) < 200
