"""``fairlead train-classifier`` end to end, and guiding with what it wrote."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fairlead.cli import main
from fairlead.data.digits import load_digits
from fairlead.train.checkpoint import find_checkpoint
from fairlead.train.loop import Training
from tests.cli.test_bad_input import refused
from tests.train.tiny import same_bits, tensors_of, tiny_config, tiny_net

TINY = ["--steps", "6", "--channels", "8", "--batch-size", "32", "--warmup", "2", "--precision", "fp32"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clf") / "digits"
    assert main(["train-classifier", "--out", str(out), "--checkpoint-every", "3", *TINY]) == 0
    return out


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unconditional")
    config = replace(tiny_config(net={**tiny_net(), "classes": 0}), data={"spec": "digits"})
    list(Training(load_digits().subset(slice(0, 64)), config, out).run())
    return out


def test_it_leaves_a_checkpoint_and_a_plot_of_its_accuracy(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in classifier.iterdir()) == ["accuracy.png", "loss.csv", "step-000006"]
    files = sorted(path.name for path in (classifier / "step-000006").iterdir())
    assert files == ["ema.safetensors", "model.json", "raw.safetensors", "training.safetensors"]
    with Image.open(classifier / "accuracy.png") as picture:
        picture.verify()
    assert main(["info", str(classifier)]) == 0
    printed = capsys.readouterr().out
    assert "classifier of noisy images, p(class | x_t, t)" in printed
    assert "cross-entropy on {'name': 'vp_cosine'" in printed
    assert "dropped" not in printed


def test_it_prints_the_accuracy_by_noise_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-classifier", "--out", str(tmp_path / "c"), *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "label objective" in lines[0]
    start = next(i for i, line in enumerate(lines) if line.endswith("accuracy on 359 test images"))
    table = [line.split() for line in lines[start + 1 : start + 9]]
    assert [(entry[0], entry[2]) for entry in table] == [(str(k), str(k + 2)) for k in range(6, -10, -2)]
    assert all(0 <= float(entry[3]) <= 100 and entry[4] == "%" for entry in table)


def test_resuming_gives_the_same_bits(classifier: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "c", find_checkpoint(classifier).about["train"]
    from fairlead.train.config import TrainConfig

    training = Training(load_digits("train"), TrainConfig(**config), out)
    for record in training.run():
        if record.step == 4:
            break
    assert main(["train-classifier", "--out", str(out), "--resume", "--checkpoint-every", "3", *TINY]) == 0
    assert same_bits(tensors_of(out), tensors_of(classifier))


BAD = [
    (["--data", "digitz"], "unknown data 'digitz'; did you mean 'digits'?"),
    (["--recipe", "cifar10"], "unknown recipe 'cifar10' (known: digits, mnist)"),
    (["--net", "dit-small"], "unknown network preset 'dit-small'"),
    (["--schedule", "cosine"], "unknown schedule 'cosine'; did you mean 'vp_cosine'?"),
    (["--steps", "0"], "steps: expected at least 1"),
    (["--size", "9"], "no network preset fits images of 9x9; pass --size 8x8"),
    (["--channels", "0"], "channels: expected at least 1, got 0"),
    (["--drop", "0.1"], "drop"),
    (["--objective", "v"], "objective"),
]


@pytest.mark.parametrize(("extra", "message"), BAD, ids=[" ".join(extra) for extra, _ in BAD])
def test_bad_input(extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, ["train-classifier", "--steps", "2", "--out", str(tmp_path / "o"), *extra])
    assert message in line
    assert not list(tmp_path.glob("o/step-*"))


def test_the_two_kinds_are_not_confused(
    classifier: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "o")]
    line = refused(capsys, ["sample", str(classifier), *out])
    assert line.count("\n") == 1
    assert "is a classifier of noisy images, expected a diffusion model" in line
    line = refused(capsys, ["sample", str(tiny_run), "--cond", "7", "--guidance", f'classifier(2, "{tiny_run}")', *out])
    assert line.count("\n") == 1
    assert "is a diffusion model, expected a classifier of noisy images" in line
    assert "cannot resume" in refused(capsys, ["train", "--out", str(classifier), "--resume"])
    assert "cannot resume" in refused(capsys, ["train-classifier", "--out", str(tiny_run), "--resume"])
    assert not (tmp_path / "o").exists()


def test_it_gives_an_unconditional_model_its_words(
    classifier: Path, unconditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", str(unconditional), "--cond", "seven", "--n", "2", "--steps", "3"]
    assert "unconditional" in refused(capsys, [*command, "--out", str(tmp_path / "o")])
    guidance = ["--guidance", f'classifier(3, "{classifier}")']
    assert main([*command, *guidance, "--out", str(tmp_path / "a")]) == 0
    entry = json.loads(Image.open(tmp_path / "a" / "00001.png").text["fairlead"])  # type: ignore[attr-defined]
    assert (entry["cond"], entry["guidance"]) == ("seven", f'classifier(3, "{classifier}")')
    assert json.loads((tmp_path / "a" / "run.json").read_text())["rows"] == 2 * 3 * 2
    assert "unknown class 'sevn'" in refused(
        capsys, [*command[:2], "--cond", "sevn", *guidance, "--out", str(tmp_path / "b")]
    )
    energy = ["--guidance", f'energy(label("{classifier}"), 2) + energy(brightness(0.3), through=False)']
    assert main([*command, *energy, "--precision", "bf16", "--out", str(tmp_path / "c")]) == 0


def test_the_last_step_is_the_trained_classifier(classifier: Path) -> None:
    from fairlead.models.noisy_classifier_model import load_classifier

    model = load_classifier(classifier, device="cpu")
    raw = load_classifier(classifier, weights="raw", device="cpu")
    assert not torch.equal(next(model.network.parameters()), next(raw.network.parameters()))
