"""The house: an import only ever points to the same folder or to one before it."""

import ast
import functools
import re
from pathlib import Path

import pytest

ORDER = (
    "core",
    "data",
    "nets",
    "train",
    "models",
    "guide",
    "sample",
    "diffusers",
    "measure",
    "tune",
    "report",
    "app",
    "cli",
)
SOURCE = Path(__file__).parent.parent / "src" / "fairlead"


def folder_of(module: str) -> str:
    """fairlead.guide.methods.cfg -> guide; fairlead -> ""."""
    return [*module.split("."), ""][1]


def imports(source: str) -> list[tuple[int, str, str]]:
    """(line, module, name) of everything of ours that is imported anywhere in the source, relative imports refused."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            found += [(node.lineno, node.module or "", alias.name) for alias in node.names]
    return [entry for entry in found if entry[1].split(".")[0] == "fairlead"]


def upward(module: str, source: str) -> list[str]:
    """What is wrong with the imports of ``module``, one line each."""
    own, wrong = folder_of(module), []
    for line, target, name in imports(source):
        folder = folder_of(target) or (name if name in ORDER else "")
        if not folder:
            if name not in ("", "__version__"):
                wrong.append(f"{module}:{line} takes {name!r} from the top package; import it from where it lives")
        elif folder not in ORDER:
            wrong.append(f"{module}:{line} imports {target}, a folder with no place in the order")
        elif ORDER.index(folder) > ORDER.index(own):
            wrong.append(f"{module}:{line} imports {folder}, which is above {own}")
    taken = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fairlead"
    }
    bare = any(target == "fairlead" and name == "" for _, target, name in imports(source))
    wrong += [f"{module} takes fairlead.{name} from the top package" for name in taken - {"__version__"} if bare]
    return wrong


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package but its front doors: ``fairlead/__init__.py``, which re-exports from all folders, and
    ``fairlead/__main__.py``, which starts the command line."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts not in ((), ("__main__",)):
            found[".".join(("fairlead", *parts))] = path
    return found


def test_imports_point_down() -> None:
    for module, path in modules().items():
        assert folder_of(module) in ORDER, f"{module}: give its folder a place in the order"
        assert upward(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("fairlead.core.schedule", "from fairlead.data.toys import Gaussian", "imports data, which is above core"),
        ("fairlead.guide.methods.cfg", "import fairlead.sample.run", "imports sample, which is above guide"),
        ("fairlead.train.loop", "def f():\n    from fairlead.models import load", "loop:2 imports models"),
        ("fairlead.data.hub", "from fairlead import train", "imports train, which is above data"),
        ("fairlead.report.page", "from fairlead.app import tiles", "imports app, which is above report"),
        ("fairlead.app", "import fairlead.cli.main", "imports cli, which is above app"),
        ("fairlead.sample.run", "from fairlead import GaussianMixture", "takes 'GaussianMixture' from the top"),
        ("fairlead.sample.run", "import fairlead\nfairlead.load('x')", "takes fairlead.load from the top package"),
        ("fairlead.sample.run", "from fairlead.utils import x", "no place in the order"),
    ],
)
def test_the_checker_catches(module: str, source: str, complaint: str) -> None:
    (found,) = upward(module, source)
    assert complaint in found


def test_the_checker_allows() -> None:
    source = "import torch, fairlead\nfrom fairlead import __version__\nprint(fairlead.__version__)\n"
    source += "from fairlead.core.errors import UsageError\nfrom fairlead.sample import noise\n"
    assert upward("fairlead.sample.run", source) == []


def test_the_checker_refuses_relative_imports() -> None:
    with pytest.raises(AssertionError, match="line 1: relative import"):
        imports("from ..data import toys")


def test_images_and_rows_are_read_in_one_place_each() -> None:
    """Pillow opens what starts programs unless it is given formats, and `splitlines` breaks lines within texts."""
    sources = {name: path.read_text() for name, path in modules().items()}
    assert [name for name, source in sources.items() if "Image.open(" in source] == ["fairlead.data.decode"]
    rows = [name for name, source in sources.items() if re.search(r"read_text\([^)]*\)\.splitlines", source)]
    assert rows == []


def test_one_folder_knows_diffusers() -> None:
    """Nothing outside of ``fairlead/diffusers`` imports the library or names one of its classes."""
    import diffusers
    import transformers

    own = set(dir(diffusers)) - set(dir(transformers))
    classes = {name for name in own if re.fullmatch(r"([A-Z][a-z0-9]*){2,}[A-Za-z0-9]*", name)}
    wrong = []
    for module, path in modules().items():
        if folder_of(module) != "diffusers":
            tree = ast.parse(path.read_text())
            said = [
                node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            ]
            for node in said:
                node.value = ast.Constant("")  # a docstring may compare
            words = [getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr", "name", "value")]
            named = {word for text in words if isinstance(text, str) for word in re.findall(r"\w+", text)} & classes
            taken = {(node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            taken |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
            wrong += [f"{module} names {name}" for name in sorted(named)]
            wrong += [f"{module} imports {name}" for name in sorted(taken) if name.split(".")[0] == "diffusers"]
    assert wrong == []


SHARED_NAMES = {
    # a command is called as the verb that it runs; its class carries that name to the help text
    "Measure": {"cli.measure", "tune.measurements"},
    "Sweep": {"cli.sweep", "tune.sweep_run"},
    # a method is called as its expression; the other is a network
    "Classifier": {"guide.methods.classifier", "measure.judge"},
    # registered under one name in two kinds
    "clip": {"diffusers.text_encoders", "measure.extractors"},
}
"""Public names that mean two things -> where. It may only get shorter."""


def public_names(source: str) -> set[str]:
    """Classes, functions and types that a module defines."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found |= {name for name in names if name[0].isupper() and not name.isupper()}
    return {name for name in found if not name.startswith("_")}


def twice(places: dict[str, set[str]]) -> dict[str, set[str]]:
    return {name: where for name, where in places.items() if len(where) > 1}


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, set[str]] = {}
    for module, path in modules().items():
        for name in public_names(path.read_text()):
            places.setdefault(name, set()).add(module.removeprefix("fairlead."))
    assert twice(places) == SHARED_NAMES


def test_a_file_is_called_what_it_alone_holds() -> None:
    places: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            places.setdefault(path.stem, set()).add(str(path.parent))
    assert twice(places) == {}
