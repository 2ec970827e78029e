"""Writes what follows from the registry: docs/methods/, a page for every guidance method, finisher, scale and reward,
and their index; src/fairlead/__init__.pyi, the names of the package for type checkers and editors; and docs/api.md, the
public names with their arguments.

    python docs/build_methods.py

Rule, paper, combinations and faults avoided come from the docstring of the module that implements the method, the
arguments from its dataclass; the rule in TeX, when to take it and what it costs from docs/methods/pages.toml, if it is
there; the numbers from docs/methods/measured.json (written by benchmarks/shootout.py), the picture from
docs/methods/NAME.png if there is one. Tests compare the files with what this writes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from fairlead.core.registry import EXPRESSIONS, PUBLIC, REGISTRY, imported, lookup
from fairlead.guide.notation import literal
from fairlead.measure.metrics import title_of

FOLDER = Path(__file__).parent / "methods"
API = Path(__file__).parent / "api.md"
STUB = Path(__file__).parent.parent / "src" / "fairlead" / "__init__.pyi"
KINDS = {
    "term": "Methods",
    "finisher": "Finishers: after `|`, on the guided x0",
    "scale": "Scales: in place of a number",
    "reward": "Rewards: inside `energy(...)`, or for particles",
}


def pages() -> dict[str, str]:
    """File name -> text."""
    file = FOLDER / "measured.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    written = tomllib.loads((FOLDER / "pages.toml").read_text())
    found = {
        f"{name}.md": _page(kind, name, measured, written.get(name, {}))
        for kind in KINDS
        for name in REGISTRY.get(kind, {})
    }
    return {"README.md": _index(written["goal"], written), "gallery.md": _gallery(measured), **found}


def stub() -> str:
    """The text of ``__init__.pyi``."""
    targets = {**PUBLIC, **{name: target for kind in EXPRESSIONS for name, target in REGISTRY[kind].items()}}
    lines = []
    for name, target in targets.items():
        module, attribute = target.split(":")
        lines.append(f"from {module} import {attribute} as {name}")
    exported = [f'    "{name}",' for name in sorted(["__version__", *targets])]
    written = ["# Written by docs/build_methods.py from core/registry.py.", "", *sorted(lines)]
    return "\n".join([*written, "", "__version__: str", "__all__ = [", *exported, "]"]) + "\n"


def signatures() -> dict[str, str]:
    """Public name -> its arguments as they are written."""
    found = {name: _public(name) for name in sorted([*PUBLIC, *_expressions()], key=str.lower)}
    return {name: _arguments_of(thing) for name, thing in found.items()}


def _public(name: str) -> Any:
    return imported(PUBLIC[name]) if name in PUBLIC else imported(_expressions()[name])


def _expressions() -> dict[str, str]:
    return {name: target for kind in EXPRESSIONS for name, target in REGISTRY[kind].items()}


def _arguments_of(thing: Any) -> str:
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)))
    except (TypeError, ValueError):
        return ""


def api() -> str:
    """The text of docs/api.md."""
    lines = [
        "# Public names",
        "",
        "This page lists everything that `import fairlead as fl` offers. Anything else may change in any release. A",
        "name or an argument on this page changes only with a line in the [changelog](../CHANGELOG.md), which a test",
        "checks. A deprecated name works for one more minor version, with a warning that says what to write instead.",
        "",
        "| name | what it is |",
        "| --- | --- |",
    ]
    for name in signatures():
        if name in PUBLIC:
            first = " ".join((inspect.getdoc(_public(name)) or "").split("\n\n")[0].split())
            about = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", re.split(r"(?<=\w\w)[.:] |[.:]$", first)[0])
            lines.append(f"| `fl.{name}` | {_cell(_plain(about))} |")
        else:
            kind = next(kind for kind in EXPRESSIONS if name in REGISTRY[kind])
            lines.append(f"| [`fl.{name}`](methods/{name}.md) | {_cell(_title(kind, name))} |")
    lines += ["", "## Arguments", "", "```text"]
    lines += [f"fl.{name}{arguments}" for name, arguments in signatures().items()]
    return "\n".join([*lines, "```"]) + "\n"


def _index(goals: list[dict[str, Any]], written: dict[str, Any]) -> str:
    lines = [
        "# Guidance methods",
        "",
        "After this page you know which method to try first and how to write it. The page of each method has its",
        "formula, its cost and its measured numbers. The [gallery](gallery.md) shows what each does to the same noise,",
        "and [the shoot-out](../results/shootout.md) compares all of them at equal cost.",
        "",
        "Terms are added (`cfg(3) + pag(2)`), finishers follow a bar (`cfg(6) | rescale(0.7)`), and",
        "`.during(sigma=(0.3, 6))` limits a term to a range of noise levels.",
        "",
        "## By goal",
        "",
        "| I want to | try first | why | pages |",
        "| --- | --- | --- | --- |",
    ]
    for goal in goals:
        links = ", ".join(f"[{name}]({name}.md)" for name in goal["see"])
        take = " or ".join(f"`{_cell(expression)}`" for expression in goal["take"])
        lines.append(f"| {goal['want']} | {take} | {_cell(goal['why'])} | {links} |")
    lines += ["", "`fairlead tune` chooses the scale for your model, with an interval ([tune.md](../tune.md))."]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", "| name | what it is | cost |", "| --- | --- | --- |"]
        for name in REGISTRY.get(kind, {}):
            cost = written.get(name, {}).get("cost", "")
            lines.append(f"| [`{name}`]({name}.md) | {_cell(_title(kind, name))} | {_cell(cost)} |")
    return "\n".join(lines) + "\n"


def _gallery(measured: dict[str, Any]) -> str:
    """A picture of every method that has one."""
    lines = [
        "# Gallery",
        "",
        "The same noise under every method, on the MNIST model of [the shoot-out](../results/shootout.md). A column is",
        "a class and a row is a setting.",
    ]
    for kind in KINDS:
        for name in REGISTRY.get(kind, {}):
            if (FOLDER / f"{name}.png").exists():
                lines += ["", f"## [`{name}`]({name}.md)", "", f"![the same noise under {name}]({name}.png)", ""]
                lines += [measured.get(name, {}).get("caption", "")]
    return "\n".join(lines).rstrip() + "\n"


def _page(kind: str, name: str, measured: dict[str, Any], written: dict[str, str]) -> str:
    method = lookup(kind, name)
    module = sys.modules[method.__module__]
    lines = [f"# `{name}`", "", _rule(inspect.cleandoc(module.__doc__ or ""), written)]
    about = inspect.getdoc(method) or ""
    use = about.split("\n\n")[0]
    lines += ["", "## Use", "", use]
    rows = _arguments(method, about)
    if rows:
        lines += ["", "| argument | default | meaning |", "| --- | --- | --- |", *rows]
    if "rows" in measured.get(name, {}):
        lines += ["", "## Measured", "", *_measured(measured[name])]
    if (FOLDER / f"{name}.png").exists():
        lines += ["", f"![the same noise under {name} at several settings]({name}.png)", ""]
        lines += [measured.get(name, {}).get("caption", "")]
    source = f"../../src/fairlead/{'/'.join(method.__module__.split('.')[1:])}.py"
    lines += ["", f"Source: [{source.rsplit('/', 1)[1]}]({source})"]
    return _plain("\n".join(lines)) + "\n"


def _rule(text: str, written: dict[str, str]) -> str:
    """The docstring, its first formulas as mathematics, behind its first paragraph when to take it and the cost."""
    first, _, rest = text.partition("\n\n")
    use = [f"- **{title}:** {written[key]}" for key, title in (("when", "When"), ("cost", "Cost")) if key in written]
    if "formula" in written:
        formula = ["```math", written["formula"].strip(), "```"]
        rest = re.sub(r"\A(?: {4}.*\n?)+", "", rest)
        rest = "\n".join([*formula, *([""] if not rest.startswith("\n") else []), rest])
    return "\n\n".join(part for part in (first, "\n".join(use), rest) if part)


def _title(kind: str, name: str) -> str:
    """The first sentence about it: of the class if its module holds several, else of the module."""
    method = lookup(kind, name)
    module = sys.modules[method.__module__]
    several = sum(target.split(":")[0] == method.__module__ for target in REGISTRY[kind].values()) > 1
    text = inspect.getdoc(method) if several else module.__doc__
    first = re.sub(r" \([^()]*[0-9]{4}[^()]*\)", "", " ".join((text or "").split("\n\n")[0].split()))
    return _plain(re.split(r"(?<=\w\w)\. |: *$", first)[0].rstrip(".:"))


def _arguments(method: Any, about: str) -> list[str]:
    """A row for each field, its meaning from the "Attributes:" of the class or of the one it derives from."""
    meanings: dict[str, str] = {}
    for owner in reversed(method.__mro__ if inspect.isclass(method) else [method]):
        section = re.search(r"(?:Attributes|Args):\n(.*?)(?:\n\n\S|\n[A-Z]\w+:|\Z)", inspect.getdoc(owner) or "", re.S)
        for entry in re.split(r"\n(?=    \w)", "\n" + section[1]) if section else []:
            head, _, text = entry.strip().partition(": ")
            for one in head.split(", "):
                meanings[one] = " ".join(text.split())
    if not hasattr(method, "__dataclass_fields__"):
        return []
    return [f"| `{f.name}` | {_default(f)} | {_cell(meanings.get(f.name, ''))} |" for f in fields(method)]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return ""
    return "" if field.default is None else f"`{literal(field.default)}`"


def _measured(result: dict[str, Any]) -> list[str]:
    shown = ("distance", "accuracy", "diversity", "saturation")
    heads = " | ".join(map(title_of, shown))
    lines = [result["about"], "", f"| setting | rows per image | {heads} |", "| --- | --- |" + " --- |" * 4]
    for row in result["rows"]:
        cells = [f"{value:.3g} ± {error:.2g}" for value, error in (row["metrics"][name] for name in shown)]
        lines.append(f"| `{_cell(row['guidance'])}` | {row['rows']:.0f} | {' | '.join(cells)} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Docstrings quote code in two backticks, Markdown in one."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text)
    STUB.write_text(stub())
    API.write_text(api())
    print(f"{len(written)} pages in {FOLDER}, the names of the package in {STUB}")
