"""Random texts that look like expressions, each a function of its seed: ones that are read, the same with other values
or a few characters changed, sentences of the grammar, and ends of what numbers, texts and nesting can be."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

NUMBERS = [
    *("0", "1", "-1", "4", "2.5", "1e3", "1e-300", "1e308", "1e309", "1e400", "-1e400", "-0.0", "0x1f", "0b11", "0o17"),
    *("inf", "-inf", "nan", "1_000", ".5", "5.", "1j", "3+4j", "\u0663", "\uff14", "\u00b2", "True", "None", "..."),
    *("0x" + "f" * 300, "0x" + "f" * 4000, "9" * 400, "9" * 5000, "1" + "0" * 308, "-" * 30 + "1", "+-+1", "1e-400"),
]
STRINGS = [
    *("'seven'", '"one"', "'a \"b\"'", "'\\n'", "'\\x1b[31m'", "'\\ud800'", "'\\U0001f600'", "'\u2028'", "''"),
    *("b'4'", "f'{4}'", "f'{1!r:>{2}}'", "r'\\d'", "'\\d'", "u'x'", "'a' 'b'", "'''a\nb'''", "'\x7f'", "'\\0'"),
    *("'" + "x" * 3000 + "'", "'\u0928\u093e'", "'e\u0301'", "'\u202e'", "'{'", "'#'", "'label=7; text=a'"),
]
ODD = [
    *("*[4]", "**{}", "lambda: 4", "[x for x in [1]]", "4 if 1 else 3", "(y := 4)", "{1, 2}", "{}", "[]", "()", "a.b"),
    *("cfg", "cfg.scale", "cfg(4).scale", "not 4", "4 < 5", "2 ** 9", "4 and 3", "await 4", "yield", "a[0]", "[1:2]"),
    *("__import__('os')", "().__class__", "print", "cfg(4)(3)", "clip", "clip()", "none", "threshold(0.9)", "~4"),
    *(
        "*a",
        "**a",
        "a=4",
        "t=(0, 1)",
        "4,",
        ",",
        "4 4",
        "(",
        "]",
        "\\",
        "#",
        ";",
        "\n",
        "\r",
        "\x0c",
        "\0",
        "\x1b",
        "\ud800",
    ),
]
UNITS = ["sigma", "log_snr", "t", "step", "progress"]


class Fuzz:
    """One text.

    Args:
        terms, finishers: that are read.
        names, settings: of the grammar's calls and their arguments.
    """

    def __init__(
        self, seed: int, terms: Sequence[str], finishers: Sequence[str], names: Sequence[str], settings: Sequence[str]
    ) -> None:
        self.random, self.terms, self.finishers = random.Random(seed), terms, finishers
        self.names, self.settings = names, settings

    def text(self) -> str:
        return self.one(
            self.valid,
            self.revalued,
            lambda: self.mutated(self.revalued()),
            lambda: self.mutated(self.valid()),
            lambda: self.mutated(self.valid()),
            lambda: self.chain(0),
            lambda: self.mutated(self.chain(0)),
            lambda: self.extreme(self.random.choice([self.valid(), self.chain(0)])),
        )

    def valid(self) -> str:
        """One to three terms, some within an interval, and finishers."""
        terms = self.random.choices(self.terms, k=self.random.choice([1, 1, 2, 3]))
        for i in range(len(terms)):
            if self.random.random() < 0.3:
                low, high = sorted(self.random.sample(["0", "0.1", "0.25", "0.5", "0.9", "1", "1e-3"], 2), key=float)
                terms[i] = f"({terms[i]}).during({self.random.choice(UNITS[:3])}=({low}, {high}))"
        return " | ".join([" + ".join(terms), *self.random.choices(self.finishers, k=self.random.choice([0, 0, 1, 2]))])

    def revalued(self) -> str:
        """A valid one with other numbers and texts."""
        numbers = NUMBERS if self.random.random() < 0.3 else NUMBERS[:8]
        text = re.sub(r"(?<![\w.])\d[\d.]*", lambda _: self.random.choice(numbers), self.valid())
        return re.sub(r"\"\w+\"", lambda old: self.random.choice([old[0], old[0], self.random.choice(STRINGS)]), text)

    def one(self, *ways: Callable[[], str]) -> str:
        return self.random.choice(ways)()

    def chain(self, depth: int) -> str:
        terms = [self.call(depth) for _ in range(self.random.choice([1, 1, 1, 2, 3]))]
        ends = [f" | {self.call(depth)}" for _ in range(self.random.choice([0, 0, 0, 1, 2]))]
        return self.random.choice([" + ", "+", " - "] if self.random.random() < 0.1 else [" + "]).join(terms) + "".join(
            ends
        )

    def call(self, depth: int) -> str:
        name = self.random.choice(self.names)
        count = self.random.choice([0, 1, 1, 1, 2, 3])
        inside = ", ".join(self.argument(depth + 1) for _ in range(count))
        during = f".during({self.random.choice(UNITS)}=({self.value(3)}, {self.value(3)}))"
        return f"{name}({inside})" + during * (self.random.random() < 0.2)

    def argument(self, depth: int) -> str:
        value = self.value(depth)
        return f"{self.random.choice(self.settings)}={value}" if self.random.random() < 0.35 else value

    def value(self, depth: int) -> str:
        plain = self.random.random() < 0.5
        if plain or depth > 3:
            return self.random.choice(NUMBERS[:8] if plain else NUMBERS)
        return self.one(
            lambda: self.random.choice(NUMBERS),
            lambda: self.random.choice(STRINGS),
            lambda: self.random.choice(ODD),
            lambda: self.call(depth + 1),
            lambda: f"ramp({self.value(4)}, {self.value(4)})",
            lambda: "[" + ", ".join(self.value(depth + 1) for _ in range(self.random.randrange(4))) + "]",
            lambda: (
                "{" + ", ".join(f"{self.key()}: {self.value(depth + 1)}" for _ in range(self.random.randrange(3))) + "}"
            ),
        )

    def key(self) -> str:
        return self.random.choice([*STRINGS, "7", "-1", "True", "None", "1.5", "[1]", "**{}"])

    def mutated(self, text: str) -> str:
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(len(text) + 1)
            piece = self.random.choice([*ODD, *NUMBERS[:20], *STRINGS[:8], *"()[]{},.=+|-*'\"\\ \t"])
            cut = self.random.randrange(4)
            text = self.random.choice(
                [text[:at] + piece + text[at:], text[:at] + text[at + cut :], text[:at] + piece + text[at + cut :]]
            )
        return text

    def extreme(self, text: str) -> str:
        count = self.random.choice([40, 120, 500, 3000])
        return self.one(
            lambda: text + ".during(t=(0, 1))" * count,
            lambda: "(" * count + text + ")" * count,
            lambda: " + ".join([text] * (count // 20)),
            lambda: text + " | clip()" * count,
            lambda: f"cfg({'-' * count}1)",
            lambda: f"cfg({'[' * count}{']' * count})",
            lambda: f"cfg({'ramp(1, ' * count}2{')' * count})",
            lambda: f"cfg(2, negative='{text.replace(chr(39), '')}{'x' * count}')",
            lambda: f"cfg(0x{'f' * count})",
            lambda: f"cfg({'9' * count})",
            lambda: f"cfg([{', '.join(['1'] * count)}])",
            lambda: "cfg(" + "{1: " * count + "2" + "}" * count + ")",
            lambda: text[: count % max(1, len(text))] + "\n" * 3,
        )
