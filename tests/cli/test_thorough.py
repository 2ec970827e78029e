"""The thorough judge: what it looks at, how long it is trained, and where it is asked for."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import fairlead as fl
from fairlead.cli import main
from fairlead.core.errors import UsageError
from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData
from fairlead.measure.augment import holed
from fairlead.measure.judge import Classifier, ClassifierRecipe, cached_classifier, recipe_for, trained_on
from fairlead.measure.references import evaluator_for
from fairlead.measure.sample_metrics import accuracy
from fairlead.measure.stages import Stage, Whitening, deep_stages, keep_sizes


def test_it_knows_nearly_all_held_out_digits_after_a_quarter_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, test = load_digits("train"), load_digits("test")
    fewer = replace(recipe_for(data, "thorough judge"), steps=100)
    monkeypatch.setattr(import_module("fairlead.measure.judge"), "recipe_for", lambda data, role: fewer)
    judge = cached_classifier(data, "thorough judge", tmp_path)
    assert accuracy(judge.logits(test.images), test.labels).value >= 0.98
    assert cached_classifier(data, "thorough judge", tmp_path).weight_hash == judge.weight_hash


@pytest.mark.parametrize(("flip", "alike"), [(True, True), (False, False)])
def test_mirror_images_are_the_same_to_it_where_those_of_training_were_mirrored(flip: bool, alike: bool) -> None:
    data = replace(load_digits("train"), flip=flip)
    torch.manual_seed(0)
    judge = Classifier(ClassifierRecipe(seed=1, steps=1, width=8, deep=True), trained_on(data))
    images = data.images[:50]
    assert torch.allclose(judge.logits(images), judge.logits(images.flip(-1)), atol=1e-6) == alike


@pytest.mark.parametrize(("n", "steps"), [(100, 200), (45_000, 1260), (10_000_000, 5000)])
def test_it_sees_every_image_fourteen_times_between_200_and_5000_steps(n: int, steps: int) -> None:
    few = load_digits("train")
    data = replace(few, images=few.images[:1].expand(n, -1, -1, -1), labels=few.labels[:1].expand(n))
    assert recipe_for(data, "thorough judge").steps == steps


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 28, 28), (3, 24, 96), (1, 5, 9), (1, 3, 3)])
def test_an_image_of_any_shape_is_answered_as_if_alone(shape: tuple[int, int, int]) -> None:
    stages, out = deep_stages(shape, 8)
    network, x = nn.Sequential(*stages).eval(), torch.randn(3, *shape)
    torch.testing.assert_close(network(x), torch.stack([network(one[None])[0] for one in x]), rtol=0, atol=1e-5)
    assert network(x).shape == (3, out)


def test_a_kernel_begins_by_passing_on_what_it_sees() -> None:
    first = Stage(6, 9).parts[0]
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(first(x)[:, :6], x)


def test_kernels_are_kept_at_one_size_which_changes_no_answer() -> None:
    stages, _ = deep_stages((3, 16, 16), 8)
    network, x = nn.Sequential(*stages).train(), torch.randn(50, 3, 16, 16)
    before = network(x)
    keep_sizes(network)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-3)
    kernels = [part.weight for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert kernels[1:]
    for kernel in kernels[1:]:
        assert kernel.norm().item() == pytest.approx(len(kernel) ** 0.5, rel=1e-5)
    assert kernels[0].norm().item() != pytest.approx(len(kernels[0]) ** 0.5, rel=0.01)  # the whitening's


def test_patches_come_out_of_the_whitening_uncorrelated_of_variance_one_and_once_more_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = 10 * torch.randn(3, 3, generator=generator)  # far above what is added to small variances
    x = F.avg_pool2d(torch.einsum("ab,nbhw->nahw", mix, torch.randn(200, 3, 17, 17, generator=generator)), 2, 1)
    whitening = Whitening(3)
    whitening.look_at(x)
    out = whitening(x).transpose(0, 1).flatten(1)
    kept = torch.cov(out[:12])
    assert torch.allclose(kept, torch.eye(12), atol=0.002)
    assert torch.equal(out[12:], -out[:12])
    assert [name for name, parameter in whitening.named_parameters() if parameter.requires_grad] == ["patches.bias"]


def test_a_quarter_of_each_side_is_hidden_from_it_anywhere() -> None:
    hidden = holed(torch.ones(4000, 1, 32, 32), 0.25, torch.Generator().manual_seed(0)) == 0
    sides = hidden.amax(3).sum(2).flatten()
    assert sides.max() == 9  # the middle, and 4 to each side
    assert sides.min() == 5  # the middle is the first or the last row
    assert torch.equal(hidden.sum((1, 2, 3)), sides * hidden.amax(2).sum(2).flatten())  # rectangles
    often = hidden.float().mean((0, 1))
    assert often.min() > 0.5 * (5 / 32) ** 2
    assert often.max() < 1.5 * (9 / 32) ** 2


def _quick(data: ImageData, role: str) -> ClassifierRecipe:
    return ClassifierRecipe(seed=len(role), steps=2, width=8, features=6, deep=role == "thorough judge")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(import_module("fairlead.measure.judge"), "recipe_for", _quick)
    monkeypatch.setenv("FAIRLEAD_CACHE", str(tmp_path / "cache"))


def test_a_sweep_says_which_judge_looked(quick: None, tiny_run: Path, tmp_path: Path) -> None:
    names = [evaluator_for(str(tiny_run), None, judged=kind).judge.name for kind in ("quick", "thorough")]
    assert [name.split("-")[1] for name in names] == ["cnn8", "deep8"]
    found = fl.sweep(tiny_run, tmp_path / "sweep", judge="thorough", scales=(1.0,), n=30, steps=2)
    assert found is not None
    assert [point.score.protocol.judge for point in found.points] == [names[1]]


def test_measure_says_which_judge_looked(quick: None, tmp_path: Path) -> None:
    for name, split in (("real", "train"), ("fake", "test")):
        data = load_digits(split)
        for i in range(200):
            folder = tmp_path / name / data.classes[int(data.labels[i])]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[i, 0].numpy()).save(folder / f"{i}.png")
    command = ["measure", str(tmp_path / "real"), str(tmp_path / "fake"), "--features", "random"]
    assert main([*command, "--judge", "thorough", "--json", str(tmp_path / "numbers.json")]) == 0
    assert "-deep8-" in json.loads((tmp_path / "numbers.json").read_text())["protocol"]["judge"]
    with pytest.raises(UsageError, match="judge 'thorough': accuracy is not among the metrics; leave it out"):
        fl.measure(tmp_path / "real", tmp_path / "fake", features="random", metrics="distance", judge="thorough")


@pytest.mark.parametrize("verb", [fl.sweep, fl.tune])
def test_another_judge_is_refused_before_anything_is_made(
    verb: Callable[..., object], tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"unknown judge 'deep' \(known: quick, thorough\)"):
        verb(tiny_run, tmp_path / "out", judge="deep")
    assert not list(tmp_path.rglob("*.json"))
