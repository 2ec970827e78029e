"""fairlead: train, guide, measure and tune conditional diffusion models.

For example::

    import fairlead as fl

    model = fl.load("runs/digits")
    run = fl.sample(model, "seven", guidance=fl.cfg(3), n=8)
    run.save("sevens")

``python docs/build_methods.py`` writes ``__init__.pyi``, which tells type checkers and editors the names.
"""

import sys
from types import ModuleType
from typing import Any

from fairlead.core.registry import EXPRESSIONS, PUBLIC, REGISTRY, imported, kind_of, lookup, names

__version__ = "0.2.0.dev0"

__all__ = ["__version__", *PUBLIC, *(name for kind in EXPRESSIONS for name in REGISTRY[kind])]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``fairlead --help`` does not wait for torch."""
    if name in PUBLIC:
        return imported(PUBLIC[name])
    kind = None if name.startswith("__") else kind_of(name)
    if kind is None:
        raise AttributeError(f"module 'fairlead' has no attribute {name!r}")
    return lookup(kind, name)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Importing the folder ``sample`` would put that module in the place of the function ``fl.sample``."""
        if not (name in PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(["__version__", *PUBLIC, *(name for kind in EXPRESSIONS for name in names(kind))])
