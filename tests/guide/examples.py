"""An example of every registered term, finisher and scale, which the tests of all of them run.

Most follow from the registration; a name whose example does not, because it needs other arguments than a scale, has its
line here.
"""

import dataclasses
import inspect

from fairlead.core.registry import lookup, names
from fairlead.guide.pairs import Pair, Wrapper
from fairlead.guide.terms import as_guidance
from tests.guide.toy import N

LABELLED, UNLABELLED = [2, 0, 3, 2, 1], [None] * N

Example = tuple[str, str | None, list]
"""A guidance, the same off if it can be off, the specs of a run."""

OWN: dict[str, Example] = {
    "cfg": ("cfg([3, -1, 0.5, 2, 0])", "cfg(1)", LABELLED),
    "classifier": ('classifier([3, -1, 0.5, 2, 1.5], "clf")', 'classifier(0, "clf")', LABELLED),
    "energy": (
        'energy(label("clf"), [3, -1, 0.5, 2, 1.5], clip=2, draws=2, spread=0.5)'
        " + energy(brightness(0.7), through=False)",
        "energy(brightness(0.7), 0)",
        LABELLED,
    ),
    "compose": ("compose({2: [3, 1, 2, 0, -1], 1: -0.5})", "compose({2: 0})", UNLABELLED),
    "apg": ("apg(cfg([3, 1, 2, 0, -1]), eta=0.3, norm=2, momentum=-0.5)", "apg(cfg(1))", LABELLED),
    "bands": ("bands([2, [3, 1, 2, 0, -1], ramp(1, 4)])", "bands([1, 1, 1])", LABELLED),
    "cfgpp": ("cfgpp([0.6, 1, 0, 0.3, 0.9])", None, LABELLED),
    "mambo": ("mambo(cfg([3, 1, 2, 0, -1]), 0.5)", "mambo(cfg(1))", LABELLED),
    "perp_neg": (
        "perp_neg([3, 1, 2, 0, -1], 1, weight=[0.5, 1, 0, 2, 0.3])",
        "perp_neg(1, 1, weight=0)",
        [2, 0, None, 2, 1],
    ),
    "zero_star": ("zero_star(cfg([3, 1, 2, 0, -1]), zero=0.2)", "zero_star(cfg(1))", LABELLED),
    "auto": ('auto([3, 1, 2, 0, -1], weak="weak")', 'auto(1, weak="weak")', LABELLED),
    "pag": ("pag([2, 0, 1, -1, 3])", "pag(0)", LABELLED),
    "seg": ('seg(3, blur=0.7, layers=["middle.0", "up.0.0"])', "seg(0)", LABELLED),
    "slg": ('slg(2, layers="down.0.0")', "slg(0)", UNLABELLED),
    "icg": ("icg([3, 1, 2, 0, -1])", "icg(1)", [2, 0, None, 2, 1]),
    "adaptive": ("adaptive(cfg([3, 1, 2, 0, -1]), 0.5)", "adaptive(cfg(1))", LABELLED),
    "cached": ("cached(pag([2, 0, 1, -1, 3]), every=3, order=1)", "cached(pag(0))", UNLABELLED),
    "sag": ("sag([2, 0, 1, -1, 3], blur=1.5)", "sag(0)", UNLABELLED),
    "s2": ("s2([2, 0, 1, -1, 3], share=0.4)", "s2(0)", UNLABELLED),
    "internal": ("internal([3, 1, 2, 0, -1])", "internal(1)", UNLABELLED),
    "distilled": ("distilled([3, 1, 2, 0, -1])", None, UNLABELLED),
    "fbg": ("fbg(0.8, temperature=0.5, offset=-2, most=6, sure=1.5)", "fbg(1)", LABELLED),
    "nag": ("nag([3, 1, 2, 0, -1], negative=1, limit=1.1, blend=0.7)", "nag(1, negative=1)", [2, 0, None, 2, 1]),
    "cads": ("cads(0.3, low=0.2, high=0.9, mix=0.7)", "cads(0)", LABELLED),
}
_FINISHERS = {"threshold": "threshold(0.7)", "rescale": "rescale(0.7)", "history": "history(0.5, 0.6)"}
_SCALES = {
    "ramp": 'ramp(1, 7, "cosine", by="progress")',
    "clamp": "clamp(ramp(-2, 7), low=0.5, high=4)",
    "pixels": f"pixels({[[(3 * i + j) % 7 - 1 for j in range(8)] for i in range(8)]})",
    "levels": "levels({14: 1, 2: 3, 0.5: 5})",
    "region": "region(ramp(1, 5), -0.5, [0.25, 0, 0.75, 0.5])",
}


MISSING: list[str] = []
"""What has to be added here, in words."""


def call(kind: str, name: str, table: str, *given: str) -> str:
    """``name(...)`` with ``given`` for its first arguments; "" if it needs others."""
    fields = dataclasses.fields(lookup(kind, name))
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if len(needed) > len(given):
        line = f"{kind} {name!r} needs {', '.join(needed)}: add a line for it to {table} in tests/guide/examples.py"
        MISSING.append(line)
        return ""
    return f"{name}({', '.join(given)})"


def term(name: str) -> Example | None:
    if name in OWN:
        return OWN[name]
    method = lookup("term", name)
    if issubclass(method, Wrapper):
        on, off = (call("term", name, "OWN", f"cfg({scale})") for scale in ("[3, 1, 2, 0, -1]", "1"))
        return (on, off, LABELLED) if on else None
    scaled = "scale" in inspect.signature(method).parameters
    off_at = f"{method.off:g}" if issubclass(method, Pair) else "0"
    on, off = (call("term", name, "OWN", *[scale] * scaled) for scale in ("[3, 1, 2, 0, -1]", off_at))
    if not on:
        return None
    needs = any(part.needs_condition() for part in as_guidance(on).terms)
    return on, off if scaled else None, LABELLED if needs else UNLABELLED


TERMS = {name: example for name in names("term") if (example := term(name))}
FINISHERS = {name: _FINISHERS.get(name) or call("finisher", name, "_FINISHERS") for name in names("finisher")}
SCALES = {name: _SCALES.get(name) or call("scale", name, "_SCALES") for name in names("scale")}


def simple(kind: str, name: str) -> str:
    """An example for any model: one number for its scale, or around ``cfg(4)``."""
    if kind == "term":
        return f"{name}(cfg(4))" if issubclass(lookup("term", name), Wrapper) else f"{name}(2)"
    return f"cfg(4) | {FINISHERS[name]}" if kind == "finisher" else f"cfg({SCALES[name]})"
