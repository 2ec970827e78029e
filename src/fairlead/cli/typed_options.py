"""Options as they are typed: those that may be given several times, and the whole command for what is written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from fairlead.core.registry import names

GRID = f"Time grid: {', '.join(names('grid'))}; or sigmas(3.4, 1.5, 0.2), where steps begin."
GridText = Annotated[str, tyro.conf.arg(help=GRID)]
SamplerText = Annotated[str, tyro.conf.arg(help=f"{', '.join(names('sampler'))}; with settings as in ddim(eta=0.5).")]


def as_given() -> str:
    """The command line of this process."""
    return f"fairlead {shlex.join(sys.argv[1:])}"


def joined(arguments: Sequence[str], command: Any) -> list[str]:
    """``--cond a --cond b`` as ``--cond a b``: the parser would keep the last only of an option with several values."""
    if command is None:
        return list(arguments)
    hints = get_type_hints(command)
    several = {
        f"--{field.name.replace('_', '-')}"
        for field in fields(command)
        if any(map(_any_number, (hints[field.name], *get_args(hints[field.name]))))
    }
    found: list[str] = []
    values: dict[str, list[str]] = {}
    into = found
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if argument.startswith("--"):
            into = found
        if argument.startswith("--") and name in several:
            found += [] if name in values else [name]
            into = values.setdefault(name, [])
            into += [value] if equals else []
        else:
            into.append(argument)
    return [part for entry in found for part in (entry, *values.get(entry, ()))]


def _any_number(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis
