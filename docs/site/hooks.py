"""What MkDocs does beside its plugins (mkdocs.yml): formulas become MathML, CONTRIBUTING and CHANGELOG become pages, links
to files outside of docs/ lead to the repository, every method and every public name gets its place.

Formulas are written as TeX in ``math`` fences or between dollars, as on GitHub. MathML needs no script to be read.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from fairlead.core.registry import EXPRESSIONS, PUBLIC, REGISTRY

ROOT = Path(__file__).parent.parent.parent
TAKEN_IN = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the site that lie beside docs/, where readers of a repository look for them."""
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
VERBS = {
    "Sample and guide": ("load", "sample", "attach", "parse", "explain", "interpolate", "GuidedDenoiser"),
    "Train": ("data", "load_data", "train", "train_classifier", "train_autoencoder", "load_autoencoder", "export"),
    "Measure and tune": ("measure", "sweep", "report", "tune", "doctor"),
    "Your own": ("denoiser", "toy", "GaussianMixture", "register", "diffusers_config", "from_guider", "Guider"),
}
"""Verbs in the order of the reference; every other public name is an object that they return or take."""


def on_config(config: Any) -> Any:
    """A page of every method in the navigation, in the order of the registry; the pages of the reference behind."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    titles = {"term": "Terms", "finisher": "Finishers", "scale": "Scales", "score": "Scores"}
    sections["Methods"] += [
        {titles[kind]: [{name: f"methods/{name}.md"} for name in REGISTRY[kind]]} for kind in EXPRESSIONS
    ]
    sections["Reference"][2:2] = list(_reference())
    return config


def on_files(files: Files, config: Any) -> Files:
    for name in TAKEN_IN:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    for name, text in _reference().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links that leave docs/ lead to what was taken in, or to the repository."""
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
        return f"{config.repo_url}/blob/main/{target}" if (ROOT / target).exists() else found[1]

    return LINK.sub(led, markdown)


def on_page_content(content: str, **_: Any) -> str:
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tex = html.unescape(found[2]).strip()
    tex = re.sub(r"^\\[(\[]|\\[)\]]$", "", tex).strip()
    return str(convert(tex, display="block" if found[1] == "div" else "inline"))


def _reference() -> dict[str, str]:
    """Page -> its text, by which mkdocstrings puts the docstrings there."""
    named = {name for names in VERBS.values() for name in names}
    groups = {**VERBS, "Objects": tuple(name for name in PUBLIC if name not in named)}
    pages = {
        f"reference/{title.lower().replace(' ', '-')}.md": (
            f"# {title}\n\n" + "".join(_entry(name, PUBLIC[name]) for name in names)
        )
        for title, names in groups.items()
    }
    for kind, title in (("term", "Terms"), ("finisher", "Finishers"), ("scale", "Scales"), ("score", "Scores")):
        entries = "".join(_entry(name, target) for name, target in REGISTRY[kind].items())
        pages[f"reference/{title.lower()}.md"] = f"# {title} of the expression language\n\n{entries}"
    return pages


def _entry(name: str, target: str) -> str:
    return f"::: {target.replace(':', '.')}\n    options:\n      heading: fl.{name}\n\n"
