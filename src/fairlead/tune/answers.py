"""The answers that ``tuned.json`` holds: one for each question that was asked of a run.

A question is what is searched for (objective, constraints, the expression with its open numbers) and how that is
measured (sampler, steps, grid, precision, weights, features, judge, real images). How long was searched, from which
seed and in which range is not part of it: the later answer to a question takes the place of the earlier one. The file
is the latest answer itself, as it was when there was only one; those to other questions stand in it under ``others``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError

Answer = dict[str, Any]

_PROTOCOL = ("sampler", "steps", "grid", "precision", "weights", "features", "judge", "reference", "attributes")
"""What of an answer says how it was measured; answers of earlier versions say no precision, and were in fp32."""


def key_of(answer: Mapping[str, Any]) -> str:
    """8 hex digits, equal for equal questions."""
    asked = [answer.get("objective"), answer.get("template"), sorted(map(_plain, answer.get("constraints") or []))]
    protocol = {name: answer.get(name) for name in _PROTOCOL if answer.get(name) is not None}
    if protocol.get("precision") == "fp32":
        del protocol["precision"]
    return hashlib.sha256(json.dumps([asked, protocol], sort_keys=True).encode()).hexdigest()[:8]


def said(answer: Mapping[str, Any]) -> str:
    """The question in words: ``distance_debiased of cfg({scale}) with accuracy >= 0.99, ddim, 20 steps``."""
    text = f"{answer.get('objective', 'the best')} of {answer.get('template', 'a guidance')}"
    rules = [" ".join(rule.split()) for rule in answer.get("constraints") or []]
    text += f" with {' and '.join(rules)}" if rules else ""
    return f"{text}, {answer['sampler']}, {answer['steps']} steps"


def answers_of(stored: Mapping[str, Any]) -> list[Answer]:
    """All answers of a file, the latest first.

    Raises:
        LookupError, TypeError: if it is damaged.
    """
    found = [{name: value for name, value in stored.items() if name != "others"}, *(stored.get("others") or [])]
    for answer in found:
        _ = answer["guidance"] + answer["sampler"], answer["steps"] + 1
        answer["key"] = key_of(answer)
    return found


def joined(answer: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> Answer:
    """The file of ``answer`` and of those before it, but for one to the same question."""
    key = key_of(answer)
    others = [dict(other) for other in before if key_of(other) != key]
    return {"key": key, **answer, **({"others": others} if others else {})}


def choose(answers: Sequence[Answer], wanted: str, path: Path, sampler: str, steps: int, weights: str | None) -> Answer:
    """The answer meant by ``--guidance tuned`` (``wanted`` is empty) or ``--guidance tuned:KEY``.

    Without a key it is the only one, or the only one for this sampler, number of steps and these weights.

    Raises:
        UsageError: if that is none or several; it lists them.
    """
    here = {"sampler": sampler, "steps": steps, "weights": weights}
    fitting = [one for one in answers if all(one.get(name) == value for name, value in here.items())]
    found = [one for one in answers if one["key"].startswith(wanted)] if wanted else fitting
    if not wanted and len(answers) == 1:
        found = list(answers)
    if len(found) == 1:
        return found[0]
    listed = "; ".join(f"tuned:{one['key']} is {one['guidance']} ({said(one)})" for one in found or answers)
    what = f"guidance 'tuned{':' * bool(wanted)}{wanted}'"
    if wanted and not found:
        raise UsageError(f"{what}: {path} holds no such answer; take one of {listed}")
    raise UsageError(f"{what}: {path} answers {len(found or answers)} questions; write which is meant: {listed}")


def _plain(rule: str) -> str:
    return "".join(rule.split())
