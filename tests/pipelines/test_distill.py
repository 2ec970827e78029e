"""Adapters that answer as their pipeline does under a guidance: their lessons, their file, what is refused."""

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.guide.engine import GuidedDenoiser
from fairlead.models.load import load
from fairlead.report.trainings.adapter_lessons import Paths, adapter_lesson
from fairlead.report.trainings.distilling import distill
from fairlead.sample.noise import NoiseStream
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.objective import Draw
from tests.pipelines import made
from tests.pipelines.families import apart

PROMPTS = ("a red square", "a blue square")
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 4, "n": 4, "path_steps": 3, "precision": "fp32"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill") / "pipeline"
    scheduler = made.ddim(prediction_type="v_prediction", timestep_spacing="trailing", set_alpha_to_one=True)
    made.sd(scheduler=scheduler).save_pretrained(folder)
    return folder


def lesson(pipeline: Path, guidance: str, n: int = 3, steps: int = 4) -> tuple[Any, Any, Paths]:
    return adapter_lesson(str(pipeline), guidance, 2, PROMPTS, n, steps, {}, torch.device("cpu"), lambda _: None)


def test_the_paths_are_those_of_the_pipeline_under_the_guidance(pipeline: Path) -> None:
    guidance = "cfg(7.5) | rescale(0.7)"
    data, config, paths = lesson(pipeline, guidance)
    model = load(pipeline)
    conds = ["a red square", "a blue square", "a red square"]
    run = fl.sample(model, conds, guidance=guidance, seeds=0, steps=4)
    x_t, answers = paths.recorded.unbind(1)
    assert apart(answers[:, -1], run.x0) < 1e-5
    assert (
        apart(
            x_t[:, 0],
            NoiseStream((0, 1, 2), model.shape).start() * float(model.schedule.alpha_sigma(paths.times[0])[1]),
        )
        < 1e-6
    )
    condition = model.encode(conds)
    for k, t in enumerate(paths.times):
        guided = GuidedDenoiser.of(model, guidance, condition)(x_t[:, k], t, condition).x0
        assert apart(answers[:, k], guided) < 1e-4
    assert data.captions == tuple(conds)
    assert run.images is not None
    assert torch.equal(data.images, run.images)
    assert config.drop == 0


def test_a_batch_has_one_step_of_each_path(pipeline: Path) -> None:
    recorded = torch.arange(5 * 2 * 4, dtype=torch.float32).reshape(5, 2, 4, 1, 1, 1)
    times = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    draw = Draw(torch.tensor([1.0, 0.76, 0.75, 0.3, 0.01], dtype=torch.float64), torch.zeros(5), {})
    x_t, t, answer = Paths(recorded, times).noised(recorded, draw, load(pipeline).schedule)
    assert t.tolist() == [1.0, 1.0, 0.75, 0.5, 0.25]
    place = torch.tensor([0, 0, 1, 2, 3])
    assert torch.equal(x_t.flatten(), recorded[torch.arange(5), 0, place].flatten())
    assert torch.equal(answer.flatten(), recorded[torch.arange(5), 1, place].flatten())


def test_plain_diffusers_draws_with_the_file_what_the_student_does(pipeline: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(pipeline, out, guidance="cfg(4)", lora=2, prompts=PROMPTS, **{**QUICK, "lr": 1e-2})
    assert find_checkpoint(out).about["train"]["distill"]["guidance"] == "cfg(4)"
    student = load(out)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(pipeline)
    pipe.set_progress_bar_config(disable=True)
    before = load(pipe)
    x_t, t = torch.randn(2, 4, 8, 8, generator=made.seeded()), torch.tensor(0.5, dtype=torch.float64)

    def predicted(model: fl.Model) -> Tensor:
        return model.denoiser(x_t, t, model.encode(list(PROMPTS))).x0

    was = predicted(before)
    pipe.load_lora_weights(out / "adapters")
    assert apart(predicted(load(pipe)), predicted(student)) < 1e-4
    assert apart(was, predicted(student)) > 1e-3
    start = torch.randn(1, 4, 8, 8, generator=made.seeded(3))
    drawn = pipe(PROMPTS[0], guidance_scale=1, num_inference_steps=3, latents=start, output_type="latent").images
    assert drawn.shape == (1, 4, 8, 8)


@pytest.mark.slow
def test_adapters_come_closer_to_the_guided_pipeline(pipeline: Path, tmp_path: Path) -> None:
    """On paths that they have not seen, as far as adapters of a few random layers can; the doctor measures it too."""
    out = tmp_path / "run"
    given = {**QUICK, "steps": 150, "n": 16, "path_steps": 6, "batch_size": 16, "lr": 1e-2, "ema": 0.9}
    distill(pipeline, out, guidance="cfg(3)", lora=8, prompts=PROMPTS, **given)
    model, student = load(pipeline), load(out)
    conds = list(PROMPTS) * 4
    guided = fl.sample(model, conds, guidance="cfg(3)", seeds=500, steps=6).x0
    alone = fl.sample(model, conds, seeds=500, steps=6).x0
    taught = fl.sample(student, conds, seeds=500, steps=6)
    assert taught.cost.rows == 6 * 8
    assert apart(taught.x0, guided) < 0.85 * apart(alone, guided)
    (finding,) = [found for found in fl.doctor(student, steps=4) if found.question == "teacher"]
    assert sum(finding.numbers["relative_error"]) < 0.9 * sum(finding.numbers["relative_change"]), str(finding)


def test_resumed_adapters_have_the_same_lessons(pipeline: Path, tmp_path: Path) -> None:
    given = {"guidance": "cfg(4)", "lora": 2, "prompts": PROMPTS, **QUICK}
    first = distill(pipeline, tmp_path / "run", **given)
    again = distill(pipeline, tmp_path / "run", resume=True, **given)
    assert (first.step, again.step, again.loss) == (3, 3, None)


def test_the_command_line(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ["distill", str(pipeline), "--guidance", "cfg(4)", "--out", str(tmp_path / "run")]
    adapters = ["--lora", "2", "--prompts", str(tmp_path / "prompts.txt")]
    few = ["--n", "2", "--path-steps", "2", "--steps", "1", "--batch-size", "2"]
    for given, message in (
        ([], "--lora: "),
        (["--lora", "2"], "--prompts: "),
        ([*adapters, "--range", "scale=1:8"], "--range: not of adapters of a pipeline"),
        ([*adapters, "--guidance", "cfgpp(0.6)", *few], "re-noises with another prediction"),
    ):
        assert main([*words, *given]) == 2
        assert message in capsys.readouterr().err
    assert main([*words, *adapters, *few]) == 0
    assert "pipe.load_lora_weights(" in capsys.readouterr().out
    assert (tmp_path / "run" / "adapters" / "pytorch_lora_weights.safetensors").is_file()


def test_a_training_run_has_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match=re.escape("--lora: ")):
        distill(tmp_path / "run", tmp_path / "out", guidance="cfg(2)", lora=2)
