"""Rewards: what they give, how they add up and are written, what is refused."""

import math

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.errors import UsageError
from fairlead.core.registry import _REGISTERED
from fairlead.data.toys import GaussianMixture
from fairlead.guide.expression import parse_reward
from fairlead.guide.moment import Context
from fairlead.guide.rewards.reward import WeightedSum, as_reward
from tests.guide.toy import CLASSES, MIXTURE, MODEL, close, network_model, noisy_classifier

ZERO = torch.zeros((), dtype=torch.float64)


class Exact:
    """The exact classifier of a mixture, of clean samples."""

    def __init__(self, mixture: GaussianMixture, classes: tuple[str, ...]) -> None:
        self.mixture, self.classes = mixture, classes
        self.shape, self.schedule = (2,), MODEL.schedule

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.mixture.class_log_posterior(x_t, 1.0, 0.0)


def value(reward, x0: Tensor, model=MODEL, specs=None, resources=None) -> Tensor:
    specs = [None] * len(x0) if specs is None else specs
    on = Context(model=model, condition=model.encode(specs), resources=resources or {}, specs=tuple(specs))
    made = as_reward("reward", reward)
    made.check(on)
    return made.of_samples(on)(x0, ZERO, on.condition)


def test_label_is_the_classifiers_log_probability_of_the_runs_condition_or_of_a_class() -> None:
    x0 = MIXTURE.sample(6, seed=2)
    exact = MIXTURE.class_log_posterior(x0, 1.0, 0.0)
    given = {"exact": Exact(MIXTURE, MODEL.classes)}
    specs = ["0", "1", "2", None, "3", "3"]
    wanted = torch.stack([exact[0, 0], exact[1, 1], exact[2, 2], ZERO, exact[4, 3], exact[5, 3]])
    close(value('label("exact")', x0, specs=specs, resources=given), wanted)
    close(value('label("exact", "2")', x0, resources=given), exact[:, 2])
    other = {"exact": Exact(MIXTURE, ("left", "up", "right", "down"))}  # not the model's names
    close(value('label("exact", "right")', x0, resources=other), exact[:, 2])


def test_a_weighted_sum_is_the_sum_of_its_weighted_parts_and_decodes_once() -> None:
    model, decoded = network_model(), []

    def decode(x0: Tensor) -> Tensor:
        decoded.append(len(x0))
        return x0 / 2

    object.__setattr__(model, "decode", decode)
    x0 = torch.rand(3, 1, 8, 8) * 2 - 1

    def own(x0: Tensor, t: Tensor, condition) -> Tensor:
        return x0.flatten(1).sum(1)

    clf = {"clf": noisy_classifier()}
    both = 2 * fl.label("clf", CLASSES[1]) + fl.brightness(0.3) * -0.5 + as_reward("x", own)
    given = value(both, x0, model, resources=clf)
    assert decoded == [3]
    close(
        given,
        2 * value(fl.label("clf", CLASSES[1]), x0, model, resources=clf)
        - 0.5 * value(fl.brightness(0.3), x0, model)
        + x0.flatten(1).sum(1),
        1e-5,
    )
    assert (both.rows(), [r.name for r in both.resources()]) == (1, ["clf"])


@pytest.mark.parametrize(
    "text",
    [
        "brightness(0.8)",
        '2 * label("runs/clf", "seven") + brightness(0.8)',
        '-0.5 * color("red") + 3 * label("a") + 0.25 * label("b", 3)',
        '20 * judged("digit=seven; ink=red", hard=true)'.replace("true", "True"),
        'similarity("a red seven") + preference("here", of_class="liked")',
    ],
)
def test_what_is_written_is_read(text: str) -> None:
    reward = parse_reward(text)
    assert str(reward) == text
    assert parse_reward(str(reward)) == reward


def test_sums_are_flat_and_weights_multiply() -> None:
    a, b = fl.brightness(0.2), fl.brightness(0.4)
    assert 2 * (a + 3 * b) == WeightedSum(((2.0, a), (6.0, b)))
    assert parse_reward("2 * (brightness(0.2) + brightness(0.4) * 3)") == 2 * (a + 3 * b)


def test_energy_takes_sums_and_refuses_what_has_no_gradient() -> None:
    text = 'energy(2 * label("clf", "one") + brightness(0.8), 3)'
    assert str(fl.parse(text)) == text
    for wrong in ('energy(judged("seven"))', 'energy(brightness(0.5) + judged("seven"), 2)'):
        with pytest.raises(UsageError, match=r"has no gradient; steer by it with particles") as caught:
            fl.parse(wrong)
        assert "\n" not in str(caught.value)


def test_a_function_of_ones_own_has_a_name(monkeypatch) -> None:
    monkeypatch.setitem(_REGISTERED, "reward", {})

    def sharp(x0: Tensor, t: Tensor, condition) -> Tensor:
        return x0.round().flatten(1).sum(1)

    sharp.differentiable = False  # type: ignore[attr-defined]
    fl.register("sharp", sharp, kind="reward")
    assert fl.sharp is sharp  # type: ignore[attr-defined]
    assert str(parse_reward("2 * sharp()")) == "2 * sharp()"
    close(value("2 * sharp()", torch.tensor([[0.6, 0.3], [1.2, 2.9]])), torch.tensor([2.0, 8.0]))
    with pytest.raises(UsageError, match="has no gradient"):
        fl.parse("energy(sharp())")
    with pytest.raises(UsageError, match=r"expected a function of \(x0, t, condition\)"):
        fl.register("blunt", lambda x0: x0, kind="reward")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("cfg(3)", "not a reward; write one of brightness, color"),
        ("3", "is 3, not a reward"),
        ("brightness(0.5) * brightness(0.5)", "cannot read"),
        ("brightness(0.5) + 1", "'+' adds guidance terms or rewards"),
        ("sparkle()", "known: "),
        (3, "expected a reward such as brightness"),
        ("judged(2.5)", "expected a class such as"),
        ('judged("seven", hard=2)', "expected hard to be True or False"),
        ("label(3)", "expected the path of a classifier"),
        ('label("x", 2.5)', "expected a class of the classifier"),
        ("similarity(3)", "expected text to be text"),
        ("preference(3)", "expected network to be text"),
    ],
)
def test_bad_rewards_are_refused_in_one_line(reward, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_reward("reward", reward)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_is_a_number() -> None:
    with pytest.raises(UsageError, match="expected a number times"):
        fl.brightness(0.5) * math.nan


def test_what_does_not_suit_the_model_is_refused() -> None:
    clf = {"clf": noisy_classifier()}
    with pytest.raises(UsageError, match="class"):
        value('label("clf", "nine")', torch.zeros(2, 1, 8, 8), network_model(), resources=clf)
    with pytest.raises(UsageError, match="is a reward of images"):
        value("brightness(0.5)", torch.zeros(2, 2))
    with pytest.raises(UsageError, match="nothing says what the model was trained on"):
        value('judged("one")', torch.zeros(2, 1, 8, 8), network_model())
