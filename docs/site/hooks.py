"""What MkDocs does beside its plugins (mkdocs.yml): formulas become MathML, CONTRIBUTING and CHANGELOG become pages,
links to files outside of docs/ lead to the repository, every method and every public name gets its place.

Formulas are written as TeX in ``math`` fences or between dollars, as on GitHub. MathML needs no script to be read.
"""

from __future__ import annotations

import ast
import html
import inspect
import posixpath
import re
import textwrap
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from typing_extensions import Doc

from fairlead.core.registry import EXPRESSIONS, PUBLIC, REGISTRY, imported

ROOT = Path(__file__).parent.parent.parent
TAKEN_IN = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the site that lie beside docs/, where readers of a repository look for them."""
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
CELL = re.compile(r"<td[^>]*>.*?</td>", re.S)
NAME = re.compile(r"(<mi>(?:log|exp|min|max)</mi>)(?=<m(?:i|sub|sup)>)")
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
VERBS = {
    "Sample and guide": ("load", "sample", "attach", "parse", "explain", "interpolate", "GuidedDenoiser"),
    "Train": ("data", "load_data", "train", "train_classifier", "train_autoencoder", "load_autoencoder", "export"),
    "Measure and tune": ("measure", "sweep", "report", "tune", "doctor"),
    "Your own": ("denoiser", "toy", "GaussianMixture", "register", "diffusers_config", "from_guider", "Guider"),
}
"""Verbs in the order of the reference; every other public name is an object that they return or take."""
OPTIONS = {
    "train": "fairlead.train.denoiser_options:DenoiserOptions",
    "train_classifier": "fairlead.train.options:ClassifierOptions",
    "train_autoencoder": "fairlead.train.options:AutoencoderOptions",
}
"""Verbs whose arguments are the fields of a class."""


def on_config(config: Any) -> Any:
    """A page of every method in the navigation, in the order of the registry; the pages of the reference behind."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    titles = {"term": "Terms", "finisher": "Finishers", "scale": "Scales", "reward": "Rewards"}
    sections["Methods"] += [
        {titles[kind]: [{name: f"methods/{name}.md"} for name in REGISTRY[kind]]} for kind in EXPRESSIONS
    ]
    sections["Reference"][3:3] = list(_reference())
    return config


def on_files(files: Files, config: Any) -> Files:
    for name in TAKEN_IN:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    for name, text in _reference().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links that leave docs/ lead to what was taken in, or to the repository. (A `repo_url` would have pages ask GitHub
    for its stars.)"""
    folder = posixpath.dirname(page.file.src_uri)
    beside = page.file.src_uri in TAKEN_IN

    def led(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("" if beside else "docs", folder, found[1]))
        if target.startswith("docs/"):
            return posixpath.relpath(target, posixpath.join("docs", folder)) if beside else found[1]
        if target in TAKEN_IN:
            return posixpath.relpath(target, folder or ".")
        if target == "README.md":
            return posixpath.relpath("index.md", folder or ".")
        return f"{config.extra['repository']}/blob/main/{target}" if (ROOT / target).exists() else found[1]

    return LINK.sub(led, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """TeX becomes MathML; code in a table loses the backslash before a bar, which GitHub wants there."""
    content = CELL.sub(lambda found: found[0].replace("\\|", "|"), content)
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tex = html.unescape(found[2]).strip()
    tex = re.sub(r"^\\[(\[]|\\[)\]]$", "", tex).strip()
    formula = convert(tex, display="block" if found[1] == "div" else "inline")
    return NAME.sub(r'\1<mspace width="0.17em"/>', formula)


def _reference() -> dict[str, str]:
    """Page -> its text, by which mkdocstrings puts the docstrings there."""
    placed = {name for names in VERBS.values() for name in names}
    groups = {**VERBS, "Objects": tuple(name for name in PUBLIC if name not in placed)}
    pages = {
        f"reference/{title.lower().replace(' ', '-')}.md": (
            f"# {title}\n\n" + "".join(_entry(name, PUBLIC[name]) for name in names)
        )
        for title, names in groups.items()
    }
    for kind, title in (("term", "Terms"), ("finisher", "Finishers"), ("scale", "Scales"), ("reward", "Rewards")):
        entries = "".join(_entry(name, target) for name, target in REGISTRY[kind].items())
        pages[f"reference/{title.lower()}.md"] = f"# {title} of the expression language\n\n{entries}"
    return pages


def _entry(name: str, target: str) -> str:
    if name in OPTIONS:
        about = (inspect.getdoc(imported(target)) or "").split("\n\nRaises:")[0]
        return f"## fl.{name}\n\n{about.replace('``', '`')}\n\n{_options(OPTIONS[name])}\n\n"
    return f"::: {target.replace(':', '.')}\n    options:\n      heading: fl.{name}\n      toc_label: fl.{name}\n\n"


def _options(target: str) -> str:
    """A table of the fields of a class: what a verb takes that is made when it is imported."""
    cls = imported(target)
    hints, written = get_type_hints(cls, include_extras=True), _field_docs(cls)
    lines = ["| argument | default | meaning |", "| --- | --- | --- |"]
    for field in fields(cls):
        said = [one.documentation for one in getattr(hints[field.name], "__metadata__", ()) if isinstance(one, Doc)]
        text = " ".join((said[0] if said else written.get(field.name, "")).split())
        default = "" if field.default in (MISSING, None) else f"`{field.default!r}`"
        text = text.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{field.name}` | {default} | {text} |")
    return "\n".join(lines)


def _field_docs(cls: type) -> dict[str, str]:
    """The text below each field of a class and of those it derives from."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = str(text.value.value)
    return found
