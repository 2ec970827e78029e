"""The studies' runner, on one tiny study from end to end: means, paired differences, going on, and the page."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.studies.__main__ import NAMES, study_of
from benchmarks.studies.models import BASE, Variant
from benchmarks.studies.plots import dots, lines
from benchmarks.studies.runner import (
    MEASURED,
    Bench,
    Block,
    Case,
    Found,
    Picture,
    Study,
    mean,
    protocol,
    scores,
    table,
    write_page,
)  # fmt: skip
from safetensors.torch import load_file

from fairlead.core.denoiser import counting
from fairlead.measure.frechet import Moments, frechet_jackknife
from fairlead.measure.metrics import Estimate

RAW = Variant("raw", weights="raw", of="base")
CASES = [Case(BASE, "cfg(1)", steps=2), Case(BASE, "cfg(3)", steps=2, label="three"), Case(RAW, "cfg(3)", steps=2)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.studies.models.CHANNELS", 8)
        bench = Bench(tmp_path_factory.mktemp("studies"), n=70, trainings=(3, 4), train_steps=3)
        for seed in bench.trainings:
            bench.run(BASE, seed)
        yield bench


@pytest.fixture(scope="module")
def found(bench: Bench) -> Found:
    return bench.measure("tiny", CASES)


def stored(found: Found, case: Case, training: int) -> dict[str, torch.Tensor]:
    folder = found.folder.folder / "settings" / found.keys[case, training]
    return load_file(folder / "samples.safetensors")


def test_estimates_and_paired_differences_are_those_of_the_stored_samples(found: Found) -> None:
    real = load_file(found.folder.folder / "reference.safetensors")
    reference = Moments(int(real["n"]), real["mean"], real["scatter"])
    a, b = CASES[1], CASES[0]
    hits, changes, distances = [], [], []
    for training in (3, 4):
        one, other = stored(found, a, training), stored(found, b, training)
        assert torch.equal(one["labels"], other["labels"])
        hits.append(float(one["value accuracy"].mean()))
        change = one["value confidence"] - other["value confidence"]
        changes.append((float(change.mean()), float(change.std()) / math.sqrt(70)))
        labels = one["labels"]
        each = [
            frechet_jackknife(real=reference, fake_features=part["features"], labels=labels).value
            for part in (one, other)
        ]
        distances.append(each)
    assert found.estimate(a, "accuracy").value == pytest.approx(sum(hits) / 2)
    assert found.estimate(a, "distance_debiased").value == pytest.approx((distances[0][0] + distances[1][0]) / 2)
    difference = found.difference(a, b, "confidence")
    (first, e), (second, f) = changes
    assert difference.value == pytest.approx((first + second) / 2)
    # sd / sqrt(2) of two numbers is half their difference
    assert difference.error == pytest.approx(math.sqrt(((first - second) / 2) ** 2 + (e * e + f * f) / 2))
    apart = found.difference(a, b, "distance_debiased")
    assert apart.value == pytest.approx(sum(one - other for one, other in distances) / 2)
    assert found.difference(a, a, "accuracy") == Estimate(0, 0, 140)
    assert found.point(a).score.metrics["accuracy"] == found.estimate(a, "accuracy")
    assert found.lowest([b, a], "accuracy") is (b if found.estimate(b, "accuracy").value <= sum(hits) / 2 else a)


def test_the_mean_over_trainings() -> None:
    alone = Estimate(2.0, 0.5, 10)
    assert mean([alone]) == alone
    assert mean([Estimate(1, 0.3, 10), Estimate(3, 0.4, 10)]) == Estimate(2, math.sqrt(1 + 0.125), 20)


def test_raw_weights_are_of_the_same_training(bench: Bench, found: Found) -> None:
    assert bench.run(RAW, 3) == bench.run(BASE, 3)
    averaged, raw = bench.load(BASE, 3), bench.load(RAW, 3)
    assert averaged.metadata["weights_hash"] != raw.metadata["weights_hash"]
    assert not torch.equal(stored(found, CASES[1], 3)["features"], stored(found, CASES[2], 3)["features"])


def test_what_is_stored_is_not_made_again(bench: Bench, found: Found) -> None:
    with counting() as cost:
        again = bench.measure("tiny", CASES[:2])
    assert cost.rows == 0
    assert again.estimate(CASES[1], "accuracy") == found.estimate(CASES[1], "accuracy")


def test_the_table_and_the_page(bench: Bench, found: Found, tmp_path: Path) -> None:
    text = scores(found, CASES[:2], {CASES[1]: CASES[0]})
    head, _, first, second, real = text.splitlines()
    assert head.endswith("| debiased distance against | difference | of accuracy |")
    assert first.startswith("| `cfg(1)` | ")
    assert f"| three | {found.estimate(CASES[1], 'distance_debiased')} |" in second
    assert "| cfg(1) |" in second
    assert real.startswith("| real images |")
    assert "N = 70 images" in protocol(found)
    assert "2 trainings per model (seeds 3, 4)" in protocol(found)

    study = Study("tiny", "Is it?", "it is.", lambda bench: [text])
    blocks: list[Block] = [text, Picture("a.png", b"png", "a picture")]
    path = write_page(tmp_path, study, blocks, "python -m benchmarks.studies tiny")
    path.write_text(path.read_text().replace("not said yet", "it was not"))
    write_page(tmp_path, study, ["other"], "python -m benchmarks.studies tiny")
    page = path.read_text()
    assert page.startswith("# Is it?\n\n**The lessons say:** it is.\n\n**Here:** it was not.\n")
    assert page.split(MEASURED)[1].strip().splitlines()[-1] == "other"
    assert (tmp_path / "a.png").read_bytes() == b"png"


def test_plots_are_pngs(found: Found) -> None:
    for picture in (
        dots("d", found, {"": CASES[:1], "high": CASES[1:]}, "dots"),
        lines("l", {"error": {"ddim": [(5, Estimate(1, 0.1, 3)), (10, Estimate(0.5, 0.1, 3))]}}, "steps", "lines"),
    ):
        assert picture.png.startswith(b"\x89PNG")


def test_cells_are_safe_in_markdown() -> None:
    assert table(["a"], [["cfg(3) | clip()"]]).splitlines()[-1] == "| cfg(3) \\| clip() |"


@pytest.mark.parametrize("name", NAMES)
def test_every_study_is_there_with_its_question(name: str) -> None:
    study = study_of(name)
    assert study.name == name
    assert study.claim.endswith(".")
