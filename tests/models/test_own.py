"""A function as a model: by the exact mixture in every objective, its rows counted, what does not fit refused."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.core.prediction import Objective, target
from fairlead.core.schedule import schedule_from_config

MIXTURE = fl.GaussianMixture.ring(classes=4, radius=1.5, std=0.6)


@pytest.mark.parametrize("name", ["flow", "vp_cosine", "ve"])
@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_function_samples_as_the_model_that_it_is(name: str, objective: Objective) -> None:
    schedule = schedule_from_config({"name": name})
    if objective == "eps" and name == "flow":
        return  # no eps at pure noise

    def predict(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        ts = torch.linspace(1e-9, 1, 20_001, dtype=torch.float64)
        sigmas = schedule.alpha_sigma(ts)[1]
        t = ts[(sigmas - sigma[0].double()).abs().argmin()] if name != "flow" else sigma[0].double()
        alpha = schedule.alpha_sigma(t)[0]
        sigma = sigma[:, None].double()
        label, keep = condition.values["label"], condition.keep["label"]
        x0 = MIXTURE.denoise(x.double(), alpha, sigma, label, keep=keep)
        return target(x0, (x.double() - alpha * x0) / sigma, objective, alpha, sigma).to(x)

    own = fl.denoiser(predict, schedule, shape=(2,), objective=objective, classes=[*"0123"])
    toy = fl.toy(MIXTURE, schedule)
    given: dict[str, Any] = {"guidance": "cfg(3)", "n": 6, "steps": 6}
    run, exact = fl.sample(own, "2", **given), fl.sample(toy, "2", **given)
    torch.testing.assert_close(run.x0, exact.x0, rtol=2e-3, atol=2e-3)
    assert (run.cost.rows, run.cost.calls) == (exact.cost.rows, exact.cost.calls) == (72, 6)


def test_a_function_that_asks_a_model_of_ours_counts_its_rows_once() -> None:
    toy = fl.toy(MIXTURE, "flow")

    def predict(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return toy.denoiser(x, sigma, condition).x0

    own = fl.denoiser(predict, "flow", shape=[2], classes=[*"0123"])
    run, exact = fl.sample(own, "1", n=3, steps=4), fl.sample(toy, "1", n=3, steps=4)
    assert torch.equal(run.x0, exact.x0)
    assert run.cost.rows == exact.cost.rows == 12


def test_images_without_conditions_are_saved(tmp_path) -> None:
    own = fl.denoiser(lambda x, sigma, condition: torch.zeros_like(x), "flow", shape=(1, 4, 4))
    run = fl.sample(own, n=2, steps=2)
    assert run.images is not None
    assert run.images.unique().tolist() == [128]
    run.save(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2
    with pytest.raises(fl.UsageError, match="unconditional"):
        fl.sample(own, "seven")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predict": 3}, "expected a function"),
        ({"schedule": "vp"}, "unknown schedule 'vp'"),
        ({"objective": "x1"}, "unknown objective 'x1'"),
        ({"objective": "eps", "schedule": "flow"}, "eps"),
        ({"shape": (0,)}, "shape of one sample"),
        ({"classes": "ab"}, "list of texts"),
        ({"classes": ["a"], "encode": len}, "got both"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(fl.UsageError, match=message):
        fl.denoiser(**{"predict": lambda x, sigma, condition: x, "schedule": "vp_cosine", "shape": (2,), **given})


def test_a_prediction_of_another_shape_is_refused() -> None:
    own = fl.denoiser(lambda x, sigma, condition: x[:, :1], "flow", shape=(2,))
    with pytest.raises(fl.UsageError, match=r"expected a prediction \[1, 2\] like x, got \[1, 1\]"):
        fl.sample(own, n=1, steps=1)
