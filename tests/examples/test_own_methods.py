"""Somebody else's methods: registered in a program, or installed as a package; all that knows names knows theirs."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from examples.own_methods.signs import Calm, Signs

import fairlead as fl
from fairlead.cli import main
from fairlead.core import registry
from fairlead.core.errors import Note
from fairlead.core.registry import EXPRESSIONS, GROUPS, PUBLIC, REGISTRY, kind_of, names
from fairlead.data.images import ImageData
from fairlead.guide.moment import Seen
from fairlead.guide.rewards.reward import Reward
from fairlead.guide.scales import ScaleSchedule
from fairlead.guide.step import Step
from fairlead.guide.terms import Finisher, as_guidance
from fairlead.measure.extractors import Extractor, extractor
from fairlead.sample.euler import Euler
from fairlead.sample.sampler import parse_sampler
from tests.guide import examples
from tests.guide import test_contract as contract
from tests.guide.toy import call, close, steered

SOURCE = Path(__file__).parent.parent.parent / "examples" / "own_methods"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names registered in a test are gone after it, and packages are looked for anew."""
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in GROUPS})
    yield
    registry._of_packages.cache_clear()


@pytest.fixture
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--out", str(out), "--steps", "3", "--channels", "8", "--batch-size", "32"]) == 0
    return out


@pytest.fixture
def registered() -> None:
    fl.register("signs", Signs)
    fl.register("calm", Calm)


def installed(folder: Path, name: str, groups: dict[str, dict[str, str]], version: str = "0.1") -> Path:
    """The files by which Python knows that a package is installed in ``folder``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def as_installed(folder: Path) -> Path:
    """``pip install examples/own_methods``, by what its pyproject.toml says."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    shutil.copy(SOURCE / "signs.py", folder)
    return installed(folder, project["name"], project["entry-points"], project["version"])


def fairlead(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(path), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "fairlead", *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, cwd=path,
    )  # fmt: skip


def test_a_registered_method_is_like_one_of_fairlead(registered: None) -> None:
    guidance = fl.signs(2, cap=0.5) + fl.calm(fl.cfg(3))  # type: ignore[attr-defined]
    assert str(guidance) == "signs(2, cap=0.5) + calm(cfg(3))"
    assert fl.parse(str(guidance)) == guidance
    assert {"signs", "calm"} <= set(dir(fl))
    assert names("term")[-2:] == ["signs", "calm"]
    with pytest.raises(fl.UsageError, match=r"unknown guidance 'sings'; did you mean 'signs'\?.*, calm"):
        fl.parse("sings(2)")


@pytest.mark.parametrize("name", ["signs", "calm"])
def test_it_keeps_the_contract_without_another_line(
    name: str, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = examples.term(name)
    assert example is not None
    monkeypatch.setitem(examples.TERMS, name, example)
    contract.test_off_is_the_plain_model_and_costs_nothing(name)
    contract.test_the_row_formula(name)
    text, _, specs = example
    for batching in ("fused", "sequential"):
        contract.test_permuting_the_batch_permutes_the_result(text, specs, batching)
    contract.test_running_twice_gives_the_same_bits(text, specs)
    contract.test_dtype_is_kept(text, specs, torch.float32)
    contract.test_the_text_parses_back_to_an_equal_and_equally_hashed_guidance(text, specs)
    contract.test_one_sample_alone_is_that_sample_of_the_batch(text, specs)


def test_signs_by_hand() -> None:
    conditional, null = x0("none"), x0("cfg(0)")
    move = conditional - null
    rms = move.square().mean((1, 2, 3), keepdim=True).sqrt()
    close(x0(Signs(3, cap=0.8)), conditional + 2 * (move / rms).clamp(-0.8, 0.8), 1e-10)


def test_calm_weighs_by_the_step_before() -> None:
    """The first step has the whole weight, the second the one that the first direction allows."""
    guided = steered(as_guidance(Calm(fl.cfg(3), 0.01)), examples.LABELLED, times=contract.GRID)
    factor: torch.Tensor | float = 1.0
    for step in (0, 1):
        conditional, null = x0("none", step), x0("cfg(0)", step)
        found = guided.at(step)(contract.X_T, contract.GRID[step], guided.condition).x0
        close(found, conditional + 2 * factor * (conditional - null), 1e-9)
        factor = (0.01 / (conditional - null).square().mean((1, 2, 3), keepdim=True).sqrt()).clamp(max=1)
        assert bool((factor < 0.9).all())


def x0(guidance: Any, step: int | None = None) -> torch.Tensor:
    """What one step gives: of the contract's time, or of a step of its grid."""
    denoiser = steered(as_guidance(guidance), examples.LABELLED, times=contract.GRID)
    if step is None:
        return call(denoiser, contract.X_T)[0].x0
    return denoiser.at(step)(contract.X_T, contract.GRID[step], denoiser.condition).x0


@dataclass(frozen=True)
class Half(Euler):
    name: ClassVar[str] = "half"


@dataclass(frozen=True)
class Flat(ScaleSchedule):
    name: ClassVar[str] = "flat"

    def value(self, step: Step) -> float:
        return 2.0


@dataclass(frozen=True)
class Shrink(Finisher):
    name: ClassVar[str] = "shrink"

    def finish(self, x0: torch.Tensor, seen: Seen) -> torch.Tensor:
        return x0 / 2


@dataclass(frozen=True)
class Contrast(Reward):
    name: ClassVar[str] = "contrast"


def some_digits(split: str, n: int = 20) -> ImageData:
    return fl.load_data("digits", split=split, limit=n)


def mean(argument: str, data: ImageData | None, device: torch.device) -> Extractor:
    return Extractor("mean", "mean of the channels", 3, lambda images: images.float().mean((2, 3)))


def test_every_kind_can_be_registered() -> None:
    for thing in (Half, Flat, Shrink, Contrast):
        fl.register(thing.name, thing)
    fl.register("some_digits", some_digits, kind="data")
    fl.register("mean", f"{__name__}:mean", kind="extractor")
    assert str(parse_sampler("half")) == "half"
    text = "cfg(flat()) + energy(contrast(), 2) | shrink()"
    assert str(fl.parse(text)) == text
    close(x0("cfg(flat()) | shrink()"), x0("cfg(2)") / 2, 1e-12)
    assert len(fl.load_data("some_digits(n=12)")) == 12
    assert extractor("mean").embed(torch.full((2, 3, 4, 4), 7)).tolist() == [[7.0] * 3] * 2
    with pytest.raises(fl.UsageError, match=r"known: digits, mnist, cifar10, scenes, some_digits"):
        fl.load_data("some_digit")


@dataclass(frozen=True)
class Misnamed(Signs):
    name: ClassVar[str] = "other"


@pytest.mark.parametrize(
    ("name", "thing", "kind", "message"),
    [
        ("cfg", Signs, None, "calls itself 'signs'"),
        ("signs", Misnamed, None, "calls itself 'other'; write name: ClassVar"),
        ("half", Half, "term", "expected a dataclass that derives from fairlead.guide.terms.Term"),
        ("signs", Signs(2), "term", "expected a dataclass that derives from"),
        ("signs", "signs.Signs", "term", "or 'module:attribute', got 'signs.Signs'"),
        ("signs", len, None, "expected kind to be one of term, finisher"),
        ("unet", len, "net", "expected kind to be one of term, finisher"),
        ("in", len, "data", "expected a name such as my_data"),
        ("some set", len, "data", "expected a name such as my_data"),
        ("inf", "signs:Signs", "term", "expected a name such as my_term"),
        (3, len, "data", "expected a name such as my_data"),
        ("digits", some_digits, "data", "the data 'digits' of fairlead has that name already"),
        ("rescale", "signs:Signs", "term", "the finisher 'rescale' of fairlead has that name"),
        ("sample", "signs:Signs", "term", "fl.sample has that name"),
        ("guide", "signs:Signs", "term", "fl.guide has that name"),
        ("mean", lambda data: None, "extractor", "expected a function of (argument, data, device)"),
    ],
)
def test_what_cannot_be_registered(name: Any, thing: Any, kind: str | None, message: str) -> None:
    with pytest.raises(fl.UsageError) as caught:
        fl.register(name, thing, kind=kind)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_is_given_once_but_a_cell_may_run_twice(registered: None) -> None:
    fl.register("signs", Signs)
    with pytest.raises(fl.UsageError, match=r"the term 'signs' of register\(...\) has that name already"):
        fl.register("signs", "signs:Signs", kind="finisher")


def test_a_package_is_known_to_the_command_line(tmp_path: Path, tiny_run: Path) -> None:
    as_installed(tmp_path)
    arguments = ["sample", str(tiny_run), "--cond", "seven", "--n", "2", "--steps", "3", "--guidance"]
    done = fairlead(*arguments, "signs(2)", "--out", "out", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2
    assert "signs(2)" in (tmp_path / "out" / "run.json").read_text()
    wrong = fairlead(*arguments, "sings(2)", "--out", "other", path=tmp_path)
    assert wrong.returncode == 2
    assert "unknown guidance 'sings'; did you mean 'signs'?" in wrong.stderr
    listed = fairlead("info", path=tmp_path).stdout
    ours = [*REGISTRY["term"]][-1]
    assert f"{ours}, signs (package fairlead-signs 0.1), calm (package fairlead-signs 0.1)\n" in listed


@pytest.mark.slow
def test_a_sweep_and_its_report_know_a_package(tmp_path: Path, tiny_run: Path) -> None:
    as_installed(tmp_path)
    arguments = (
        "--guidance",
        "calm(cfg({scale}))",
        "--scales",
        "1",
        "2",
        "--n",
        "60",
        "--steps",
        "2",
        "--out",
        "sweep",
    )
    swept = fairlead("sweep", str(tiny_run), *arguments, path=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert "calm(cfg(2))" in (tmp_path / "sweep" / "report.html").read_text()


def test_packages_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("import a_module_that_nobody_has")
    installed(tmp_path, "broken", {"fairlead.terms": {"broken": "broken_one:Broken", "odd": "json:dumps"}})
    installed(tmp_path, "first", {"fairlead.terms": {"twice": "broken_one:A"}}, "1.0")
    installed(tmp_path, "second", {"fairlead.finishers": {"twice": "broken_one:B"}}, "2.0")
    installed(tmp_path, "greedy", {"fairlead.terms": {"cfg": "broken_one:C", "sample": "broken_one:S"}})
    monkeypatch.syspath_prepend(tmp_path)
    registry._of_packages.cache_clear()
    with pytest.warns(Note) as said:
        assert {"broken", "odd", "twice"} <= {*names("term"), *names("finisher")}
    assert sorted(str(one.message) for one in said) == [
        "the term 'cfg' of package greedy 0.1 is left out: fairlead has that name; give it another",
        "the term 'sample' of package greedy 0.1 is left out: fairlead has that name; give it another",
    ]
    assert str(fl.parse("cfg(3)")) == "cfg(3)"
    assert fl.sample.__module__ == "fairlead.sample.run"
    for text, message in (
        (
            "broken(2)",
            "term 'broken' of package broken 0.1 cannot be imported (ModuleNotFoundError: No module named 'a_mo",
        ),
        ("odd(2)", "term 'odd' of package broken 0.1 is <function dumps"),
        ("twice(2)", "'twice' is registered by package "),
    ):
        with pytest.raises(fl.UsageError) as caught:
            fl.parse(text)
        assert message in str(caught.value)
    with pytest.raises(fl.UsageError, match=r"the term 'broken' of package broken 0\.1 has that name already"):
        fl.register("broken", "signs:Signs", kind="term")


def test_no_name_means_two_things() -> None:
    """What is reachable as ``fl.NAME`` or in an expression; kinds that are asked for in places of their own (features,
    text encoders, networks) have names of their own."""
    together = [*PUBLIC, *(name for kind in EXPRESSIONS for name in REGISTRY[kind]), "none", "inf", "during"]
    assert len(together) == len(set(together))
    assert all(kind_of(name) is None for name in PUBLIC)
    assert {kind: group for kind, group in GROUPS.items() if kind not in REGISTRY} == {}
