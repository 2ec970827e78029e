"""Pipelines of one's own: how a class with a ``__call__`` of its own calls its network is learned too."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

import fairlead as fl
from fairlead.core.errors import UsageError
from tests.pipelines import made
from tests.pipelines.families import apart


class Mine(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    """With a call of its own: the null rows come second, and the scale is another argument."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, guidance_scale: float = 5.0, steps: int = 4) -> Any:
        own, null = self.encode_prompt(prompt, "cpu", 1, True, negative_prompt="blurry")
        x = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(steps)
        text = torch.cat([own, null]) if guidance_scale > 1 else own
        for t in self.scheduler.timesteps:
            out = self.unet(torch.cat([x] * (len(text))), t, encoder_hidden_states=text).sample
            if guidance_scale > 1:
                cond, uncond = out.chunk(2)
                out = uncond + guidance_scale * (cond - uncond)
            x = self.scheduler.step(out, t, x).prev_sample
        return (x,)


def test_a_call_of_its_own_is_learned_too() -> None:
    pipe = made.quiet(Mine(**made.sd().components, requires_safety_checker=False))
    own = pipe("a cat", made.seeded(3), 5.0)[0]
    with fl.attach(pipe, "cfg(5)") as attached:
        assert apart(pipe("a cat", made.seeded(3))[0], own) < 1e-5
    assert attached.cost.rows == 8
    with fl.attach(pipe, 'compose({"red": 2, "blue dog": -2})') as attached:  # prompts of the guidance are encoded too
        found = pipe("", made.seeded(3))[0]
    assert attached.cost.rows == 12
    text = {p: pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("red", "blue dog")}
    null = pipe.encode_prompt("blurry", "cpu", 1, False)[0]
    x = torch.randn(1, 4, 8, 8, generator=made.seeded(3))
    pipe.scheduler.set_timesteps(4)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            red, blue, none = (pipe.unet(x, t, encoder_hidden_states=e).sample for e in (*text.values(), null))
            x = pipe.scheduler.step(none + 2 * (red - none) - 2 * (blue - none), t, x).prev_sample
    assert apart(found, x) < 1e-5


class Other(Mine):
    """c + scale (c - u), off at 0, with a call for each prediction."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, guidance_scale: float = 4.0, steps: int = 4) -> Any:
        own, null = self.encode_prompt(prompt, "cpu", 1, True, negative_prompt="blurry")
        x = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            out = self.unet(x, t, encoder_hidden_states=own).sample
            if guidance_scale > 0:
                out = out + guidance_scale * (out - self.unet(x, t, encoder_hidden_states=null).sample)
            x = self.scheduler.step(out, t, x).prev_sample
        return (x,)


def test_a_scale_that_is_ours_minus_1() -> None:
    pipe = made.quiet(Other(**made.sd().components, requires_safety_checker=False))
    own = pipe("a cat", made.seeded(3), 4.0)[0]
    with fl.attach(pipe, "cfg(5)") as attached:
        assert apart(pipe("a cat", made.seeded(3))[0], own) < 1e-5
    assert attached.cost.rows == 8


class Augmented(Mine):
    """Noise of its own on the samples of each call, as Cosmos has it on a condition."""

    order = 1

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, guidance_scale: float = 5.0, steps: int = 4) -> Any:
        texts = self.encode_prompt(prompt, "cpu", 1, True, negative_prompt="blurry")[: 2 if guidance_scale > 1 else 1]
        x = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            out = []
            for text in texts[:: self.order]:
                noised = x + 0.3 * torch.randn(x.shape, generator=generator)
                out.append(self.unet(noised, t, encoder_hidden_states=text).sample)
            cond, null = out[:: self.order][0], out[:: self.order][-1]
            x = self.scheduler.step(null + guidance_scale * (cond - null), t, x).prev_sample
        return (x,)


class NullFirst(Augmented):
    order = -1


@pytest.mark.parametrize("kind", [Augmented, NullFirst])
def test_each_prediction_may_have_noisy_samples_of_its_own(kind: Any) -> None:
    """A step is guided at its second call, when both are known; what answers the first costs a row."""
    pipe = made.quiet(kind(**made.sd().components, requires_safety_checker=False))
    own, weaker = (pipe("a cat", made.seeded(3), scale, 3)[0] for scale in (5.0, 2.0))
    assert apart(weaker, own) > 1e-3
    for text, expected in (("cfg(5)", own), ("cfg(2)", weaker)):
        with fl.attach(pipe, text) as attached:
            assert apart(pipe("a cat", made.seeded(3), 5.0, 3)[0], expected) < 1e-5
        assert attached.cost.rows == 3 * 3


def test_a_network_that_drops_values_or_was_replaced_is_refused() -> None:
    parts = made.sd(network=made.unet(dropout=0.1)).components
    pipe = made.quiet(Mine(**parts, requires_safety_checker=False))
    pipe.unet.train()
    with pytest.raises(UsageError, match=r"call pipe.unet.eval\(\) first"), fl.attach(pipe, "cfg(4)"):
        pass
    pipe.unet.eval()
    with fl.attach(pipe, "cfg(4)"):
        pipe.unet = made.unet()
        with pytest.raises(UsageError, match="was replaced inside the block"):
            pipe("a cat")


class Distilled(Mine):
    """Without guidance of its own, and with a negative prompt that it reads for nothing."""

    @torch.no_grad()
    def __call__(self, prompt: str, generator: Any = None, negative_prompt: Any = None, steps: int = 4) -> Any:
        own, _ = self.encode_prompt(prompt, "cpu", 1, False)
        x = torch.randn(len(own), 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t, encoder_hidden_states=own).sample, t, x).prev_sample
        return (x,)


@pytest.mark.parametrize("way", ["attach", "call", "list"])
def test_a_negative_is_the_null_of_a_pipeline_without_one(way: str) -> None:
    guided = made.quiet(Mine(**made.sd().components, requires_safety_checker=False))
    expected = guided("a cat", made.seeded(3), 5.0)[0]  # away from "blurry"
    pipe = made.quiet(Distilled(**made.sd().components, requires_safety_checker=False))
    none = "asks for the null prediction, and Distilled makes none"
    with pytest.raises(UsageError, match=none), fl.attach(pipe, "cfg(5)"):
        pipe("a cat", made.seeded(3))
    given: dict[str, Any] = {
        "attach": {},
        "call": {"negative_prompt": "blurry"},
        "list": {"negative_prompt": ["blurry"]},
    }
    with fl.attach(pipe, "cfg(5)", negative="blurry" if way == "attach" else None) as attached:
        assert apart(pipe("a cat", made.seeded(3), **given[way])[0], expected) < 1e-5
    assert attached.cost.rows == 8
