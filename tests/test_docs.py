"""README and docs stay true: Python blocks run, command lines run or at least parse, links lead somewhere."""

import itertools
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro
from examples.own_methods.signs import Signs

from fairlead.cli import COMMANDS, main
from fairlead.core import registry
from fairlead.guide.expression import parse
from tests.measure.test_extractors import CLIP
from tests.measure.tiny_clip import tiny_clip
from tests.pipelines import made
from tests.pipelines.test_learned import wan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
QUICK = {
    "train": ["--steps", "3", "--channels", "8", "--batch-size", "32"],
    "train-autoencoder": ["--steps", "3", "--channels", "8", "--batch-size", "32"],
    "train-classifier": ["--steps", "3", "--channels", "8", "--batch-size", "32"],
    "distill": ["--steps", "2", "--batch-size", "16"],
    "sample": ["--steps", "2"],
    "edit": ["--steps", "3"],
    "sweep": ["--n", "60", "--steps", "2"],
    "tune": ["--budget", "1500", "--report", "60", "--steps", "2", "--constraint", "accuracy >= 0"],
    "explain": ["--steps", "2"],
    "doctor": ["--steps", "2"],
}


def quick(words: list[str]) -> list[str]:
    """A command with few steps and images in place of what it says."""
    more = QUICK.get(words[0], [])
    for option in more[::2]:
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    return words + more


def blocks(language: str, pages: list[Path] = PAGES) -> list[tuple[str, str]]:
    return [(page.name, text) for page in pages for kind, text in BLOCK.findall(page.read_text()) if kind == language]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the commands of docs/command-line.md have been run in their order, with few steps and
    images."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, text in blocks("sh", [ROOT / "docs" / "command-line.md"]):
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "fairlead" and words[1] != "app":  # which serves until it is interrupted
                    expected = (0, 1) if words[1] == "doctor" else (0,)  # a model of three steps may not pass
                    assert main(quick(words[1:])) in expected, line
        made.sd().save_pretrained(folder / "my-pipeline")  # of docs/diffusers.md
        encoder = {"tokenizer": made.word_tokenizer(), "text_encoder": made.t5(width=8)}
        wan(**encoder).save_pretrained(folder / "my-video-pipeline")  # of docs/pipelines/video.md
        for part in (made.clip_text(), made.clip_tokenizer()):  # of docs/training-diffusers.md
            part.save_pretrained(folder / "my-clip")
        made.vae().save_pretrained(folder / "my-vae")
        tiny_clip(folder / "clip-vit-base-patch32", CLIP)  # of docs/diffusers.md
    return folder


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda value: value if value.endswith(".md") else "")
def test_python_blocks_run(page: str, code: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in registry.GROUPS})
    exec(compile(code, page, "exec"), {"__name__": "__main__"})


def test_the_commands_wrote_what_the_text_says(workplace: Path) -> None:
    assert len(list((workplace / "sevens-and-threes").glob("0*.png"))) == 16
    assert (workplace / "runs" / "digits" / "sweep" / "report.html").is_file()


def commands() -> list[tuple[str, str]]:
    """Every ``fairlead ...`` in a code block or in backticks, on any page."""
    found = [(name, line) for name, text in blocks("sh") for line in text.splitlines() if line.startswith("fairlead ")]
    for page in PAGES:
        for text in re.findall(r"`(fairlead [a-z][a-z-]* [^`]*)`", page.read_text()):
            if "..." not in text and "COMMAND" not in text:
                found.append((page.name, text.replace("\\|", "|")))
    return found


def numbered(text: str) -> str:
    """1, 2, ... in place of the open numbers, so that low is below high."""
    numbers = itertools.count(1)
    return re.sub(r"\{[a-z_]+\}", lambda _: str(next(numbers)), text)


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_line_parses(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in registry.GROUPS})
    registry.register("signs", Signs)  # CONTRIBUTING installs the package that brings it
    words = shlex.split(line, comments=True)[1:]
    needs_out = (
        words[0] in ("train", "train-classifier", "train-autoencoder", "distill", "sample", "edit", "sweep", "tune")
        and "--out" not in words
    )
    command = tyro.cli(
        COMMANDS[words[0]],
        args=[*words[1:], "--out", "x"] if needs_out else words[1:],
        config=(tyro.conf.OmitArgPrefixes,),
    )
    guidance = getattr(command, "guidance", ())
    for text in (guidance,) if isinstance(guidance, str) else guidance:
        if text != "tuned":
            parse(numbered(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_what_the_methods_are_chosen_by_parses_and_names_pages() -> None:
    """docs/methods/pages.toml: expressions of the table by goal, and a section for nothing but methods."""
    written = tomllib.loads((ROOT / "docs" / "methods" / "pages.toml").read_text())
    known = {name for kind in registry.EXPRESSIONS for name in registry.REGISTRY[kind]}
    assert set(written) - {"goal"} <= known
    assert len(written["goal"]) >= 10
    for goal in written["goal"]:
        assert set(goal["see"]) <= known, goal["want"]
        for text in goal["take"]:
            parse(text)


def test_expressions_in_the_lessons_table_parse() -> None:
    page = (ROOT / "docs" / "lessons.md").read_text()
    found = re.findall(r"`((?:cfg|compose)\([^`]*)`", page)
    assert len(found) >= 5
    for text in found:
        parse(text.replace("\\|", "|"))


def test_the_table_of_kinds_in_contributing_names_registered_kinds() -> None:
    from fairlead.core.registry import REGISTRY

    page = (ROOT / "CONTRIBUTING.md").read_text()
    kinds = set(re.findall(r"\| `([a-z]+)` \|", page))
    assert kinds == set(REGISTRY)


def test_the_method_pages_are_what_the_code_gives() -> None:
    """`python docs/build_methods.py` writes them."""
    written = runpy.run_path(str(ROOT / "docs" / "build_methods.py"))["pages"]()
    there = {path.name: path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert sorted(there) == sorted(written), "run python docs/build_methods.py"
    outdated = [name for name, text in written.items() if there[name] != text]
    assert not outdated, f"run python docs/build_methods.py: {outdated}"


def test_the_page_of_public_names_is_true() -> None:
    """`python docs/build_methods.py` writes it."""
    written = runpy.run_path(str(ROOT / "docs" / "build_methods.py"))["api"]()
    assert (ROOT / "docs" / "api.md").read_text() == written, (
        "run python docs/build_methods.py: docs/api.md is outdated"
    )


def test_what_changed_in_public_names_is_in_the_changelog() -> None:
    """tests/released_api.json holds names and arguments of the last release."""
    before = json.loads((ROOT / "tests" / "released_api.json").read_text())
    now = runpy.run_path(str(ROOT / "docs" / "build_methods.py"))["signatures"]()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    text = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    silent = [name for name in changed if not re.search(rf"\b{name}\b", text)]
    assert not silent, f"say in CHANGELOG.md what changed in: {silent}"


def test_the_names_for_type_checkers_are_those_of_the_registry() -> None:
    """`python docs/build_methods.py` writes them."""
    written = runpy.run_path(str(ROOT / "docs" / "build_methods.py"))["stub"]()
    there = (ROOT / "src" / "fairlead" / "__init__.pyi").read_text()
    assert there == written, "run python docs/build_methods.py: src/fairlead/__init__.pyi is outdated"
