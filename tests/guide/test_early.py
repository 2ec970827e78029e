"""What is refused before the first network call, and what precision the guidance itself has."""

import dataclasses

import pytest
import torch

from fairlead.core.errors import UsageError
from fairlead.guide.expression import to_guidance
from fairlead.guide.methods.bands import split
from fairlead.models.model import encode_nothing
from fairlead.models.resources import load_resources
from fairlead.sample.run import sample
from tests.guide.toy import NETWORK, WEAK, call, images, steered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfgpp(ramp(0.5, 1.5))", "cfgpp"),
        ("cfg(pixels([[1, 2]])).during(t=(0, 0.3))", "pixels"),
    ],
)
def test_a_scale_that_a_later_step_cannot_have_is_refused_at_the_door(text: str, message: str) -> None:
    def never(x_t, t, condition):
        raise AssertionError("no network call")

    with pytest.raises(UsageError, match=message):
        sample(dataclasses.replace(NETWORK, denoiser=never), "one", guidance=text)


def test_directions_are_not_rounded_to_bf16_where_the_network_is() -> None:
    """Under bf16 the same network rounds the same way with and without bands, so by hand the bands of its two
    predictions give what the guidance gives, to float32."""
    with torch.autocast("cpu", torch.bfloat16):
        x_t = images().float()
        conditional, null, guided = (
            call(steered(text, ["one"] * len(x_t)), x_t)[0].x0 for text in ("none", "cfg(0)", "bands([1, 6])")
        )
    fine = split(conditional - null, 2)[1]
    torch.testing.assert_close(guided, conditional + 5 * fine, rtol=1e-5, atol=1e-5)


def test_a_conditional_weak_model_does_not_fit_an_unconditional_one() -> None:
    alone = dataclasses.replace(NETWORK, classes=(), encode=encode_nothing)
    with pytest.raises(UsageError, match="model 'weak' has classes"):
        load_resources(to_guidance('auto(2, weak="weak")').resources(), alone, {"weak": WEAK})


class Known:
    """A classifier that knows these classes."""

    def __init__(self, *classes: str) -> None:
        self.classes, self.schedule, self.shape = classes, NETWORK.schedule, NETWORK.shape

    def log_prob(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_t.flatten(1)[:, : len(self.classes)].log_softmax(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cfg(4, negative="cat") + classifier(2, "a")', "needs a conditional model"),
        ('classifier(2, "a") + classifier(1, "b")', "know different classes"),
    ],
)
def test_what_an_unconditional_model_cannot_take_beside_a_classifier(text: str, message: str) -> None:
    alone = dataclasses.replace(NETWORK, classes=(), encode=encode_nothing)
    resources = {"a": Known("cat", "dog"), "b": Known("dog", "cat")}
    named = {resource.name for resource in to_guidance(text).resources()}
    with pytest.raises(UsageError, match=message):
        sample(alone, "cat", guidance=text, resources={name: resources[name] for name in named})
