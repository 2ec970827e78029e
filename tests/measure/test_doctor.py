"""Healthy models pass every question; each deliberate fault is found by its own question and by no other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairlead.core.condition import Condition
from fairlead.core.denoiser import NetworkDenoiser
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Prediction
from fairlead.core.schedule import VE, NoiseSchedule, RectifiedFlow, VPCosine, vp_linear, vp_scaled_linear
from fairlead.core.strict_json import sealed
from fairlead.data.digits import load_digits
from fairlead.data.hub import load_data
from fairlead.data.toys import Gaussian, GaussianMixture
from fairlead.measure.examination import doctor
from fairlead.measure.run_findings import Finding
from fairlead.models.load import load
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.nets.build import net_config
from fairlead.train.checkpoint import file_hash
from fairlead.train.conditions import asked
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from tests.train.tiny import tiny_config, tiny_net, trained

QUESTIONS = ["condition", "null", "labels", "guidance", "schedule", "network", "weights"]
TOY = toy_model(GaussianMixture.ring(classes=3), vp_linear())


def settings(**changes: Any) -> dict[str, Any]:
    fixed: dict[str, Any] = {
        "net": tiny_net(), "steps": 80, "batch_size": 32, "warmup": 10, "lr": 1e-2, "ema": 0.95, "drop": 0.15
    }  # fmt: skip
    return {**fixed, **changes}


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learned what the classes are about."""
    out = tmp_path_factory.mktemp("doctor") / "run"
    trained(tiny_config(**settings(snapshot_every=20)), out, data=load_digits())
    return out


@pytest.fixture
def model(digits_run: Path) -> Model:
    return load(digits_run, device="cpu")


def network_of(model: Model) -> Any:
    assert isinstance(model.denoiser, NetworkDenoiser)
    return model.denoiser.network


def judged(findings: list[Finding]) -> dict[str, Finding]:
    """What is not a PASS."""
    return {finding.question: finding for finding in findings if finding.level != "PASS"}


def only(findings: list[Finding], question: str, level: str) -> Finding:
    found = judged(findings)
    assert list(found) == [question], [str(finding) for finding in findings]
    assert found[question].level == level
    return found[question]


class Changed:
    """A denoiser whose predictions are changed; it keeps no network."""

    def __init__(self, model: Model, change: Callable[[Prediction, Tensor, Condition], Tensor]) -> None:
        self.model, self.change = model, change

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        x0 = self.change(self.model.denoiser(x_t, t, condition), x_t, condition)
        alpha, sigma = (value.to(x_t) for value in self.model.schedule.alpha_sigma(t))
        return Prediction.from_x0(x0, x_t, alpha, sigma)


# --- healthy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [vp_linear(), VPCosine(), RectifiedFlow(), VE()], ids=lambda s: s.config()["name"])
@pytest.mark.parametrize("guidance", [None, "cfg(3)", "cfg(2).during(t=(0.3, 0.8))", 'compose({"1": 2, "2": -1})'])
def test_an_exact_model_passes_every_question(schedule: NoiseSchedule, guidance: str | None) -> None:
    exact = replace(toy_model(GaussianMixture.ring(classes=3), schedule), objective="x0")
    findings = doctor(exact, guidance)
    assert [finding.question for finding in findings] == QUESTIONS
    assert judged(findings) == {}


def test_a_trained_network_passes_every_question(model: Model) -> None:
    findings = doctor(model, "cfg(3) | clip()")
    assert [str(finding) for finding in findings if finding.level != "PASS"] == []
    numbers = {finding.question: finding.numbers for finding in findings}
    null = numbers["null"]
    assert null["drop"] == {"label": 0.15}
    assert null["loss_conditional"] < null["loss_null"] < null["loss_wrong_label"]
    assert numbers["guidance"]["rows_a_sample"] == 40
    assert "images of digits test" in findings[1].text


def test_the_answer_about_a_label_is_the_difference_of_the_exact_predictions() -> None:
    """Mixture of two points +-1 of the same spread: D(x, 1) - D(x, 0) is 2 (1 - alpha^2 s^2 / v), whatever x is."""
    s = 0.5
    means, stds = torch.tensor([[1.0], [-1.0]]), torch.tensor([s, s])
    two = toy_model(GaussianMixture(means, stds, torch.ones(2), torch.arange(2)), vp_linear())
    numbers = doctor(two)[0].numbers
    for log_snr, share in zip(numbers["log_snr"], numbers["relative_change"], strict=True):
        snr = torch.tensor(log_snr).exp()
        gain = snr * s**2 / (snr * s**2 + 1)
        difference = 2 * (1 - gain)  # over the root mean square of D, which is that of a sample shrunk towards its mean
        size = (1 + gain * s**2) ** 0.5
        assert share == pytest.approx(float(difference / size), rel=0.1)


def test_an_unconditional_model_has_no_condition_to_examine() -> None:
    plain = toy_model(Gaussian(torch.zeros(2), 1.0), vp_linear())
    findings = doctor(plain)
    assert judged(findings) == {}
    assert all("unconditional" in finding.text for finding in findings[:3])
    refused = only(doctor(plain, "cfg(3)"), "guidance", "FAIL")
    assert "none was given" in refused.text


# --- broken ----------------------------------------------------------------------------------------------------------


def test_a_model_that_ignores_its_label() -> None:
    deaf = replace(TOY, denoiser=lambda x_t, t, condition: TOY.denoiser(x_t, t, condition.drop()))
    found = only(doctor(deaf), "condition", "FAIL")
    assert found.numbers["relative_change"] == [0.0] * 4
    assert set(judged(doctor(deaf, "cfg(3)"))) == {"condition", "guidance"}


def test_a_model_that_hardly_hears_its_label() -> None:
    def mostly_null(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        alpha, sigma = (value.to(x_t) for value in TOY.schedule.alpha_sigma(t))
        null, own = TOY.denoiser(x_t, t, condition.drop()).x0, TOY.denoiser(x_t, t, condition).x0
        return Prediction.from_x0(null + 1e-3 * (own - null), x_t, alpha, sigma)

    found = only(doctor(replace(TOY, denoiser=mostly_null)), "condition", "WARN")
    assert "the condition is hardly used, train longer" in found.text


def test_the_null_of_each_condition_is_asked_for(tmp_path: Path) -> None:
    data = load_data("scenes(n=60)")
    _, inputs, text = asked(data, ["text", "ink"])
    net = net_config("28x28", 3, 28, 0, channels=8, **inputs)
    config = TrainConfig(net, text=text, steps=1, batch_size=8, drop=0.2, drops={"ink": 0.0})
    assert len(list(Training(data, config, tmp_path / "run").run())) == 1
    found = {f.question: f for f in doctor(load(tmp_path / "run", device="cpu"), data=data)}["null"]
    assert found.level == "FAIL"
    assert found.numbers["drop"] == {"text": 0.2, "ink": 0.0}
    assert "'ink' was never dropped in training" in found.text
    config = TrainConfig(net, text=text, steps=1, batch_size=8, drop=0.2, drops={"ink": 0.0}, drop_all=0.1)
    assert len(list(Training(data, config, tmp_path / "all").run())) == 1
    numbers = {f.question: f.numbers for f in doctor(load(tmp_path / "all", device="cpu"), data=data)}
    assert numbers["null"]["drop"] == pytest.approx({"text": 1 - 0.8 * 0.9, "ink": 0.1})


def test_a_null_token_that_was_never_trained(tmp_path: Path) -> None:
    trained(tiny_config(**settings(drop=0.0, steps=40)), tmp_path / "run", data=load_digits())
    found = only(doctor(load(tmp_path / "run", device="cpu")), "null", "FAIL")
    assert "never dropped in training (drop 0)" in found.text
    assert "'label' is still its initial zero" in found.text


def test_a_null_token_that_is_reset(model: Model) -> None:
    with torch.no_grad():
        network_of(model).label.null.zero_()
    found = only(doctor(model), "null", "FAIL")
    assert "initial zero" in found.text
    assert "drop 0)" not in found.text


def test_a_null_prediction_that_is_worse_than_a_wrong_label() -> None:
    def spoiled(prediction: Prediction, x_t: Tensor, condition: Condition) -> Tensor:
        return torch.where(condition.keep["label"][:, None], prediction.x0, prediction.x0 + 5)

    found = only(doctor(replace(TOY, denoiser=Changed(TOY, spoiled))), "null", "WARN")
    assert "worse than a wrong label" in found.text
    assert found.numbers["loss_null"] > found.numbers["loss_wrong_label"] > found.numbers["loss_conditional"]


def test_labels_that_make_predictions_worse(model: Model) -> None:
    def mislabelled(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        label = (condition.values["label"] + 5) % 10
        return model.denoiser(x_t, t, replace(condition, values={"label": label}))

    wrong = replace(model, denoiser=mislabelled, metadata={})
    found = only(doctor(wrong, data=load_digits("test")), "null", "WARN")
    assert "the label makes predictions worse" in found.text
    assert found.numbers["loss_conditional"] > found.numbers["loss_null"]


def test_two_classes_with_one_embedding(model: Model) -> None:
    with torch.no_grad():
        table = network_of(model).label.table
        table[3] = table[8]
    found = only(doctor(model), "labels", "FAIL")
    assert found.numbers["duplicates"] == [["three", "eight"]]


def test_a_class_that_training_never_saw(tmp_path: Path) -> None:
    data = load_digits()
    trained(tiny_config(**settings(steps=40)), tmp_path / "run", data=data.subset(data.labels != 4))
    found = only(doctor(load(tmp_path / "run", device="cpu")), "labels", "FAIL")
    assert found.numbers["untrained"] == ["four"]


@pytest.mark.parametrize(
    ("guidance", "level", "reason"),
    [
        ("cfg(3).during(sigma=(500, 1000))", "FAIL", "contains none of the 20 steps, which start at sigma from 157"),
        (
            "cfg(3) + cfg(4).during(t=(0.001, 0.01))",
            "WARN",
            "contains none of the 20 steps, which start at t from 1",
        ),
        ("cfg(1)", "FAIL", "its scale is 1 at every step, which is off"),
        ("cfg(ramp(1, 1))", "FAIL", "its scale is 1 at every step, which is off"),
        ("pag(2)", "FAIL", "it cannot be used on this model: pag"),
        ("none | clip()", "FAIL", "it cannot be used on this model: clip"),
    ],
)
def test_a_guidance_that_does_nothing(guidance: str, level: str, reason: str) -> None:
    found = only(doctor(TOY, guidance), "guidance", level)
    assert reason in found.text


def test_a_guidance_whose_predictions_are_the_same() -> None:
    found = only(doctor(TOY, 'cfg(3, negative="1")', cond="1"), "guidance", "FAIL")
    assert "the predictions that it compares are the same (largest difference 0.0e+00)" in found.text


@pytest.mark.parametrize(
    ("objective", "schedule", "grid", "reason"),
    [
        (
            "eps",
            VPCosine(),
            "trailing",
            "alpha = 0.00091 on 'vp_cosine', which amplifies its errors 1,097 times",
        ),
        ("v", vp_scaled_linear(), "trailing", "'vp_scaled_linear' ends before pure noise: training saw 6.8% signal"),
        ("v", VPCosine(), "leading", "grid 'leading' starts at t = 0.951: training saw 7.7% signal there"),
    ],
)
def test_a_schedule_that_does_not_suit(objective: Any, schedule: NoiseSchedule, grid: str, reason: str) -> None:
    exact = replace(toy_model(GaussianMixture.ring(classes=3), schedule), objective=objective)
    found = only(doctor(exact, grid=grid), "schedule", "WARN")
    assert reason in found.text


def test_a_weight_that_is_not_finite_ends_the_examination(model: Model) -> None:
    with torch.no_grad():
        network_of(model).out.weight[0, 0, 0, 0] = torch.nan
    findings = doctor(model, "cfg(3)")
    found = only(findings, "network", "FAIL")
    assert found.numbers["broken"] == ["out.weight"]
    assert [finding.question for finding in findings] == ["network", "schedule"]


def test_dropout_that_is_left_on(model: Model) -> None:
    network_of(model).middle[0][0].dropout = nn.Dropout(0.1).train()
    assert "Dropout active" in only(doctor(model), "network", "FAIL").text


def test_samples_that_are_mixed() -> None:
    def mixed(prediction: Prediction, x_t: Tensor, condition: Condition) -> Tensor:
        return prediction.x0 + 0.05 * prediction.x0[:1]

    found = only(doctor(replace(TOY, denoiser=Changed(TOY, mixed))), "network", "FAIL")
    assert "with the order of its batch" in found.text


def test_an_average_that_lags_behind(digits_run: Path, tmp_path: Path) -> None:
    """The average of step 20 in the place of that of step 80."""
    folder = shutil.copytree(digits_run / "step-000080", tmp_path / "late")
    shutil.copy(digits_run / "step-000020" / "ema.safetensors", folder)
    about = json.loads((folder / "model.json").read_text())
    about["files"]["ema"] = file_hash(folder / "ema.safetensors")
    (folder / "model.json").write_text(json.dumps(sealed(about)))
    found = judged(doctor(load(folder, device="cpu")))["weights"]
    assert found.level == "WARN"
    assert found.numbers["loss_averaged"] > 1.05 * found.numbers["loss_raw"]
    assert "weights" not in judged(doctor(load(folder, "raw", "cpu")))


# --- usage -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_the_callers_error_not_a_finding() -> None:
    with pytest.raises(UsageError, match="unknown guidance 'cgf'"):
        doctor(TOY, "cgf(3)")
    with pytest.raises(UsageError, match="unknown grid"):
        doctor(TOY, grid="even")
    with pytest.raises(UsageError, match=r"images \[1, 8, 8\] of 10 classes, the model has \[2\] and 3"):
        doctor(TOY, data=load_digits("test"))


def test_it_leaves_the_model_and_the_global_stream_as_they_were(model: Model) -> None:
    before, state = {k: v.clone() for k, v in network_of(model).state_dict().items()}, torch.get_rng_state()
    doctor(model, "cfg(3)")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network_of(model).state_dict().items())
