"""A student in training: it begins as its teacher, is taught by its answers, and is a model like any other."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.cli import main
from fairlead.core.condition import Condition
from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.core.prediction import Mixing
from fairlead.data.images import ImageData
from fairlead.data.toys import GaussianMixture
from fairlead.guide.engine import GuidedDenoiser
from fairlead.models.load import load, model_of
from fairlead.models.model import Model
from fairlead.models.toy import toy_model
from fairlead.report.trainings.distilling import distill
from fairlead.sample.teacher import Teacher
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from fairlead.train.objective import Draw
from fairlead.train.tasks import scale_drawn
from tests.train.tiny import digits, same_bits, tensors_of, tiny_config, tiny_net, trained

LESSON = {"teacher": "none", "weights": "ema", "hash": "0", "guidance": "cfg(2)"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    trained(tiny_config(steps=12, data={"spec": "digits"}, weighting="min_snr"), out)
    return out


def student_of(run: Path, **changes: Any) -> Training:
    net = {**tiny_net(), "scale": [1, 4]}
    config = tiny_config(net=net, distill={**LESSON, "guidance": "cfg({scale})"}, **changes)
    return Training(digits(), config, None, teacher=Teacher.of(load(run), "cfg({scale})", (1, 4)))


# --- the task -------------------------------------------------------------------------------------------------------


def test_a_fresh_student_is_its_teacher_at_every_scale(run: Path) -> None:
    model = load(run)
    student = model_of(student_of(run).averaged_network(), student_of(run).about(), {})
    x, t = torch.randn(3, 1, 8, 8), torch.tensor(0.4, dtype=torch.float64)
    condition = student.encode(["seven", "one", None])
    own = model.denoiser(x, t, condition).x0
    for guidance in ("none", "distilled([1, 2.5, 4])", "distilled(ramp(1, 4))"):
        with counting() as cost:
            assert torch.equal(GuidedDenoiser.of(student, guidance, condition)(x, t, condition).x0, own)
        assert cost.rows == 3


def test_a_student_that_answers_as_its_teacher_has_no_loss(run: Path) -> None:
    """And any other the weighted error of its output, as an error of x0 would be weighted."""
    training = student_of(run, weighting="min_snr")
    teacher, config = Teacher.of(load(run), "cfg({scale})", (1, 4)), training.config
    x0, labels = training.batches.batch(0)
    draw = Draw.of(8, (1, 8, 8), {"label": 0.1}, 0, 0, levels=4)
    scale = torch.full((8,), 2.0)
    condition = Condition.of(label=labels, scale=scale)
    inputs = training.task.inputs(x0, draw, condition, training.schedule)
    mixing = Mixing(*(level.float()[:, None, None, None] for level in training.schedule.alpha_sigma(draw.t)))
    x_t = mixing.alpha * x0 + mixing.sigma * draw.eps
    answer = teacher.answer(x_t, draw.t, condition)

    def output(x0: Tensor) -> Any:
        network: Any = lambda *_: mixing.output(x0, x_t, "v")  # noqa: E731
        return training.task.output(network, inputs, config)

    def loss(x0: Tensor) -> float:
        return float(training.task.loss(output(x0), x0, labels, draw, config, training.schedule))

    assert loss(answer) < 1e-9
    snr = training.schedule.log_snr(draw.t).exp().clamp(max=5)
    assert loss(answer + 0.1) == pytest.approx(float((0.01 * snr).mean()), rel=1e-3)


def test_scales_fill_their_range_and_some_are_dropped(run: Path) -> None:
    training = student_of(run, drop=0.25, batch_size=64)
    values, kept = [], []
    for step in range(64):
        draw = Draw.of(64, (1, 8, 8), {}, 0, step, levels=16)
        condition = scale_drawn(Condition(64), draw, training.config)
        pairs = {(float(t), float(s)) for t, s in zip(draw.t, condition.values["scale"], strict=True)}
        assert len(pairs) == 16
        values.append(condition.values["scale"][condition.keep["scale"]])
        kept.append(condition.keep["scale"])
    scales = torch.cat(values)
    assert 1 <= float(scales.min()) < 1.05
    assert 3.95 < float(scales.max()) <= 4
    quarters = torch.tensor([0.25, 0.5, 0.75])  # of the arcsine distribution between 1 and 4
    assert torch.allclose(scales.quantile(quarters), 2.5 - 1.5 * (torch.pi * quarters).cos(), atol=0.15)
    assert float(torch.cat(kept).double().mean()) == pytest.approx(0.75, abs=0.04)


def test_times_are_shared_in_groups_one_in_each_of_equal_parts() -> None:
    for step in range(5):
        draw = Draw.of(40, (1,), {}, 3, step, levels=8)
        different = draw.t.unique()
        assert torch.equal((different * 8).ceil(), torch.arange(1.0, 9, dtype=torch.float64))
        assert [int((draw.t == t).sum()) for t in different] == [5] * 8
    alone = Draw.of(40, (1,), {"label": 0.5}, 3, 0)
    assert alone.level is None
    assert len(alone.t.unique()) == 40


# --- the command ----------------------------------------------------------------------------------------------------

QUICK: dict[str, Any] = {"steps": 4, "batch_size": 8, "precision": "fp32"}


def test_a_student_of_a_range_is_a_model_like_any_other(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    done = distill(run, out, guidance="cfg({scale})", range="scale=1:4", **QUICK)
    assert done.step == 4
    model = load(out)
    assert model.scale_range == (1.0, 4.0)
    assert (model.condition_kind, model.conditions) == ("label", ("label",))
    images = fl.sample(model, ["seven", None], guidance="distilled([1, 4])", steps=3)
    assert images.cost.rows == 6
    about = find_checkpoint(out).about["train"]["distill"]
    assert about == {
        "teacher": str(run), "weights": "ema", "hash": find_checkpoint(run).about["files"]["ema"],
        "guidance": "cfg({scale})",
    }  # fmt: skip
    assert images.settings["model"]["distilled"] == about
    again = distill(out, tmp_path / "again", guidance="distilled(3) + pag(1)", **QUICK)
    assert load(again.folder).scale_range is None
    assert find_checkpoint(again.folder).about["train"]["distill"]["before"] == about


def test_a_resumed_student_has_the_same_bits(run: Path, tmp_path: Path) -> None:
    given = {**QUICK, "steps": 6, "checkpoint_every": 3, "guidance": "cfg({scale})", "range": "scale=1:4"}
    distill(run, tmp_path / "whole", **given)
    lesson = {**LESSON, **find_checkpoint(tmp_path / "whole").about["train"]["distill"]}
    config = TrainConfig.from_json(find_checkpoint(tmp_path / "whole").about["train"])
    assert config.distill == lesson
    teacher = Teacher.of(load(run), "cfg({scale})", (1, 4))
    data = fl.load_data("digits")
    for record in Training(data, config, tmp_path / "part", teacher=teacher).run():
        if record.step == 3:
            break
    distill(run, tmp_path / "part", **given, resume=True)
    assert same_bits(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "part"))


@pytest.mark.parametrize(("given", "each"), [({}, 4), ({"steps_from": 12}, 3)])
def test_fewer_steps_are_those_of_the_teacher_several_at_a_time(
    run: Path, tmp_path: Path, given: Any, each: int
) -> None:
    out = tmp_path / "four"
    distill(run, out, guidance="cfg({scale})", range="scale=1:4", steps_to=4, **given, **QUICK)
    lesson = find_checkpoint(out).about["train"]["distill"]
    assert (lesson["steps"], lesson["each"], lesson["guidance"]) == (4, each, "cfg({scale})")
    assert [entry.name for entry in out.iterdir() if entry.is_dir()] == ["step-000004"]


def test_a_head_in_the_middle_is_left_behind(tmp_path: Path) -> None:
    trained(tiny_config(net=tiny_net(internal=True), internal=0.5, data={"spec": "digits"}), tmp_path / "run")
    distill(tmp_path / "run", tmp_path / "student", guidance="internal(1.5)", **QUICK)
    assert "internal" not in load(tmp_path / "student").layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance": "cfg(3) | history(0.5)"}, "remembers earlier steps, which a student cannot"),
        ({"guidance": "cfg({scale})"}, "a guidance with {scale} and a range go together"),
        ({"guidance": "cfg(3)", "range": "scale=1:8"}, "a guidance with {scale} and a range go together"),
        ({"guidance": "cfg({scale})", "range": "8:1"}, "range '8:1': expected scale=LOW:HIGH with LOW below HIGH"),
        ({"guidance": "cfg({scale})", "range": "scale=8:1"}, "with LOW below HIGH"),
        ({"guidance": "cgf(3)"}, "did you mean 'cfg'"),
        ({}, "nothing to teach"),
        ({"guidance": "cfg(2)", "steps_from": 16}, "--steps-from: it needs --steps-to"),
        ({"guidance": "cfg(2)", "steps_to": 4, "steps_from": 14}, "--steps-from: expected 4 times 2, 3, 4"),
        ({"guidance": "cfg(2)", "steps_to": 4, "steps_from": 4}, "--steps-from: expected 4 times 2, 3, 4"),
        ({"guidance": "cfg(2)", "steps_to": 0}, "--steps-to: expected an integer of at least 1"),
        ({"guidance": "cfg(2)", "steps": 0}, "steps: expected at least 1"),
    ],
)
def test_bad_input_is_one_line_before_any_work(run: Path, tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        distill(run, tmp_path / "x", **given)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("model.json"))


def test_networks_without_a_scale_are_taught_one(tmp_path: Path) -> None:
    net = fl.TrainConfig({"kind": "lesson-mnist", "channels_in": 1, "size": 8, "classes": 10, "channels": 8})
    trained(replace(net, steps=2, batch_size=4, data={"spec": "digits"}, precision="fp32"), tmp_path / "run")
    with pytest.raises(UsageError, match="has no input for a scale; teach it one scale, as in --guidance 'cfg"):
        distill(tmp_path / "run", tmp_path / "a", guidance="cfg({scale})", range="scale=1:4", **QUICK)
    distill(tmp_path / "run", tmp_path / "b", guidance="cfg(2)", **QUICK)
    assert fl.sample(tmp_path / "b", "seven", steps=2).cost.rows == 2


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="a student and a teacher go together"):
        Training(digits(), tiny_config(distill=LESSON), None)
    with pytest.raises(UsageError, match="a network with a scale is a student's"):
        tiny_config(net={**tiny_net(), "scale": [1, 4]})
    with pytest.raises(UsageError, match=r"a guidance with \{scale\} and a network with a scale go together"):
        tiny_config(net={**tiny_net(), "scale": [1, 4]}, distill=LESSON)
    with pytest.raises(UsageError, match="distill: weights is nothing, expected a text"):
        tiny_config(distill={"teacher": "x"})


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", str(run), "--guidance", "cfg({scale})", "--range", "scale=1:4", "--out", str(tmp_path / "s")]
    assert main([*command, "--steps", "2", "--batch-size", "8"]) == 0
    assert "under cfg({scale}), scale 1 to 4" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "s")]) == 0
    assert f"of {run} #{find_checkpoint(run).about['files']['ema']} under cfg({{scale}})" in capsys.readouterr().out
    sampled = [
        "sample",
        str(tmp_path / "s"),
        "--cond",
        "seven",
        "--n",
        "2",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "i"),
    ]
    assert main([*sampled, "--guidance", "distilled(9)"]) == 2
    assert "the student learned scales from 1 to 4, got 9" in capsys.readouterr().err
    assert main([*sampled, "--guidance", "distilled(3)"]) == 0
    assert json.loads((tmp_path / "i" / "run.json").read_text())["model"]["distilled"]["guidance"] == "cfg({scale})"


# --- how far it is from its teacher -----------------------------------------------------------------------------------


def of_teacher(model: Model) -> Any:
    (found,) = [finding for finding in fl.doctor(model, steps=4, data=None) if finding.question == "teacher"]
    return found


def test_the_doctor_measures_the_distance_to_the_teacher(run: Path, tmp_path: Path) -> None:
    """A student that has learnt nothing is as far as its teacher alone; one that is the guided teacher is there."""
    distill(run, tmp_path / "student", guidance="cfg({scale})", range="scale=1:4", **{**QUICK, "lr": 1e-12})
    student = load(tmp_path / "student")
    finding = of_teacher(student)
    assert finding.level == "WARN"
    assert finding.numbers["relative_error"] == pytest.approx(finding.numbers["relative_change"], rel=1e-3)
    assert max(finding.numbers["relative_change"]) > 0

    teacher = Teacher.of(load(run), "cfg({scale})", (1, 4))

    def perfect(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        prediction = load(run).denoiser(x_t, t, condition.drop(names=[]))
        if "scale" in condition.values:
            prediction.x0 = teacher.answer(x_t, t.expand(len(x_t)), condition)
        return prediction

    there = of_teacher(replace(student, denoiser=perfect, embed=None))
    assert there.level == "PASS"
    assert max(there.numbers["relative_error"]) < 1e-6
    assert not [finding for finding in fl.doctor(str(run), steps=4) if finding.question == "teacher"]


def test_the_doctor_says_when_there_is_no_teacher_to_ask(run: Path, tmp_path: Path) -> None:
    distill(run, tmp_path / "student", guidance="cfg(2)", **QUICK)
    model = load(tmp_path / "student")
    lesson = model.metadata["distilled"]
    gone = replace(model, metadata={**model.metadata, "distilled": {**lesson, "teacher": str(tmp_path / "gone")}})
    assert "its teacher cannot be asked (no checkpoint" in of_teacher(gone).text
    other = replace(model, metadata={**model.metadata, "distilled": {**lesson, "hash": "0"}})
    assert "has other weights now" in of_teacher(other).text


# --- with enough capacity it is the guided teacher --------------------------------------------------------------------

RING = GaussianMixture.ring(classes=4, radius=0.6, std=0.2)


def as_images() -> tuple[Model, ImageData]:
    """The exact mixture as a model of images of 1 x 1 x 2, and images of it."""
    toy = toy_model(RING, "vp_cosine")

    def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        x0 = toy.denoiser(x_t.flatten(1), t, condition).x0.reshape(x_t.shape)
        return fl.Prediction.from_x0(x0, x_t, *toy.schedule.alpha_sigma(t))

    labels = torch.arange(4096) % 4
    x0 = RING.sample(len(labels), labels, seed=0).reshape(-1, 1, 1, 2).clamp(-1, 1)
    return replace(toy, denoiser=denoise, shape=(1, 1, 2), image_shape=(1, 1, 2)), fl.data(
        x0, labels, classes=list("0123")
    )


class AtOnce(Teacher):
    """The answers of ``cfg({scale})`` on the mixture, for all times in one call: ``tests/sample/test_teacher.py`` finds
    a teacher's to be these, and asking it for one time after another takes most of a step of so small a network."""

    def answer(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        label, kept = condition.values["label"], condition.keep["scale"]
        scale = torch.where(kept, condition.values["scale"].double(), 1.0)
        alpha, sigma = (level[:, None] for level in self.model.schedule.alpha_sigma(t))
        answer = RING.guided_denoise(x_t.flatten(1), alpha, sigma, label, scale, condition.keep["label"])
        return answer.reshape(x_t.shape).float()


@pytest.mark.slow
def test_a_student_comes_to_answer_as_the_exact_mixture_under_guidance() -> None:
    """Relative error below 1 % at every noise level and scale, the ends of its range included; in one row."""
    model, data = as_images()
    net = {
        "kind": "unet", "channels_in": 1, "size": [1, 2], "classes": 4, "channels": 64, "multipliers": [1],
        "blocks": 1, "embed": 128, "scale": [1, 4],
    }  # fmt: skip
    config = TrainConfig(
        net, objective="x0", steps=2000, batch_size=128, lr=4e-3, optimizer="muon", precision="fp32",
        distill={**LESSON, "guidance": "cfg({scale})"},
    )  # fmt: skip
    training = Training(data, config, None, teacher=AtOnce(model, "cfg({scale})", (1, 4)))
    for _ in training.run():
        pass
    student = model_of(training.averaged_network(), training.about(), {})
    labels = torch.arange(1024) % 4
    x0, condition = RING.sample(1024, labels, seed=1), student.encode([str(int(label)) for label in labels])
    noise = torch.randn(1024, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors: dict[tuple[float, float], float] = {}
    for log_snr in (-4.0, -2.0, 0.0, 2.0):
        t = student.schedule.t_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))
        alpha, sigma = student.schedule.alpha_sigma(t)
        x_t = (alpha * x0 + sigma * noise).float()
        for scale in (1.0, 1.5, 2.5, 3.5, 4.0):
            guided = GuidedDenoiser.of(student, f"distilled({scale})", condition)
            found = guided(x_t.reshape(-1, 1, 1, 2), t, condition).x0.flatten(1).double()
            exact = RING.guided_denoise(x_t, alpha, sigma, labels, scale)
            errors[log_snr, scale] = float(((found - exact).square().mean() / exact.square().mean()).sqrt())
    shown = "\n".join(f"log-SNR {level:g}, scale {scale:g}: {error:.2%}" for (level, scale), error in errors.items())
    assert max(errors.values()) < 0.01, shown
