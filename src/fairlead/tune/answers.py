"""The answers that ``tuned.json`` holds: one for each question that was asked of a run.

A question is what is searched for (objective, constraints, the expression with its open numbers) and how that is
measured (sampler, steps, grid, precision, weights, features, judge, real images). How long was searched, from which
seed and in which range is not part of it: the later answer to a question takes the place of the earlier one. The file
is the latest answer itself, as it was when there was only one; those to other questions stand in it under ``others``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.core.errors import UsageError, remark
from fairlead.core.files import replacing
from fairlead.core.hold import Hold
from fairlead.core.places import check_folder
from fairlead.core.strict_json import opened, read_json, sealed
from fairlead.guide.terms import Guidance, Term
from fairlead.models.load import Weights, as_model, is_pipeline
from fairlead.models.model import Model
from fairlead.sample.sampler import Sampler
from fairlead.train.checkpoint import find_checkpoint
from fairlead.tune.recommend import Tuned
from fairlead.tune.template import Template

Answer = dict[str, Any]

_PROTOCOL = (
    "sampler",
    "steps",
    "grid",
    "precision",
    "weights",
    "features",
    "judge",
    "reference",
    "attributes",
    "text",
    "prompts",
    "reward",
)
"""What of an answer says how it was measured; answers of earlier versions say no precision, and were in fp32."""
_PATIENCE = 60.0
"""Seconds to wait for another process that writes its answer."""


def save_answer(path: Path, tuned: Tuned, about: Mapping[str, Any]) -> None:
    """Write an answer as JSON, beside those to other questions that are there; another process that writes one to the
    same file at the same time is waited for.

    Raises:
        UsageError: if it cannot be written, or what is there is damaged.
    """
    answer = {**tuned.as_dict(), **about}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            before = read_answers(path) if path.exists() else []
            key = answer_key(answer)
            others = [other for other in before if other["key"] != key]
            whole = {"key": key, **answer, **({"others": others} if others else {})}
            with replacing(path) as partial:
                partial.write_text(json.dumps(sealed(whole), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; the batches of the search are kept") from error


def read_answers(path: Path) -> list[Answer]:
    """All that a ``tuned.json`` holds, the latest first.

    Raises:
        UsageError: if it cannot be read, or is damaged.
    """
    try:
        stored = opened(read_json(path))
        found = [{name: value for name, value in stored.items() if name != "others"}, *(stored.get("others") or [])]
        for answer in found:
            _ = answer["guidance"] + answer["sampler"], answer["steps"] + 1
            answer["key"] = answer_key(answer)
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); remove it and run `fairlead tune` again") from error


def folder_of(spec: str) -> Path:
    """Where the answers for a training run or a pipeline are kept, for ``--guidance tuned``.

    Raises:
        UsageError: for a pipeline of the hub, which has no folder, and what is neither.
    """
    if not is_pipeline(spec):
        folder = find_checkpoint(spec).folder
        return folder.parent if folder.name.startswith("step-") else folder
    if not Path(spec).is_dir():
        raise UsageError(
            f"pipeline {spec!r} is not in a local folder, so what was tuned is not kept beside it; give the "
            "expression, which is in OUT/tuned.json of `fairlead tune`"
        )
    return Path(spec)


def tuned_guidance(
    spec: str, guidance: str, sampler: str, steps: int, weights: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The expression, and what else provenance says of it; for ``tuned`` or ``tuned:KEY`` that of ``fairlead tune`` for
    this run or pipeline, with a remark where it was found otherwise.

    Args:
        weights: the hash of the model's.

    Raises:
        UsageError: if it is ``tuned`` and the run was not tuned, or several answers are meant.
    """
    word, _, key = guidance.strip().partition(":")
    if word != "tuned":
        return guidance, {}
    folder = folder_of(spec)
    path = folder / "tuned.json"
    if not path.is_file():
        raise UsageError(f"guidance 'tuned': {folder} has no tuned.json; make it with `fairlead tune {folder}`")
    answers = read_answers(path)
    tuned = choose(answers, key.strip(), path, sampler, steps, weights)
    unlike = [
        f"{what} {there}, not {here}"
        for what, there, here in (("--sampler", tuned["sampler"], sampler), ("--steps", tuned["steps"], steps))
        if there != here
    ]
    if tuned.get("weights") != weights:
        unlike.append("other weights")
    how = f" (found with {' and '.join(unlike)})" if unlike else ""
    which = f", {question_of(tuned)}" if len(answers) > 1 else ""
    remark(f"tuned: {tuned['guidance']}{which}{how}")
    about = {"key": tuned["key"], "question": question_of(tuned), "file": str(path)}
    return tuned["guidance"], {"tuned": about}


def loaded_with(
    model: Model | str | Path,
    guidance: Guidance | Term | str | None,
    sampler: Sampler | str,
    steps: int,
    weights: Weights | None,
    device: str | None,
) -> tuple[Model, Guidance | Term | str | None, dict[str, Any]]:
    """The model, the guidance for it, and what provenance says of that: see :func:`tuned_guidance`.

    Args:
        weights, device: as for ``load``, of a path.

    Raises:
        UsageError: if they are given for a model that is loaded already; as :func:`tuned_guidance`.
    """
    found = as_model(model, weights, device)
    spec = str(model) if isinstance(model, str | Path) else found.metadata.get("checkpoint")
    if not isinstance(guidance, str) or not isinstance(spec, str):
        return found, guidance, {}
    return found, *tuned_guidance(spec, guidance, str(sampler), steps, found.metadata.get("weights_hash"))


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
    listed = "; ".join(f"tuned:{one['key']} is {one['guidance']} ({question_of(one)})" for one in found or answers)
    what = f"guidance 'tuned{':' * bool(wanted)}{wanted}'"
    if wanted and not found:
        raise UsageError(f"{what}: {path} holds no such answer; take one of {listed}")
    raise UsageError(f"{what}: {path} answers {len(found or answers)} questions; write which is meant: {listed}")


def answer_key(answer: Mapping[str, Any]) -> str:
    """8 hex digits, equal for equal questions."""
    rules = ["".join(rule.split()) for rule in answer.get("constraints") or []]
    asked = [answer.get("objective"), answer.get("template"), sorted(rules)]
    protocol = {name: answer.get(name) for name in _PROTOCOL if answer.get(name) is not None}
    if protocol.get("precision") == "fp32":
        del protocol["precision"]
    return hashlib.sha256(json.dumps([asked, protocol], sort_keys=True).encode()).hexdigest()[:8]


def template_of(answer: Mapping[str, Any]) -> Template:
    """What was searched.

    Raises:
        UsageError: if the answer is damaged.
    """
    try:
        ranges = [f"{name}={low!r}:{high!r}" for name, (low, high) in answer["ranges"].items()]
        return Template.of(answer["template"], ranges)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"an answer of `fairlead tune` is damaged ({error!r}); run it again") from error


def question_of(answer: Mapping[str, Any]) -> str:
    """The question in words: ``distance_debiased of cfg({scale}) with accuracy >= 0.99, ddim, 20 steps``."""
    text = f"{answer.get('objective', 'the best')} of {answer.get('template', 'a guidance')}"
    rules = [" ".join(rule.split()) for rule in answer.get("constraints") or []]
    text += f" with {' and '.join(rules)}" if rules else ""
    text += f", {answer['prompts']}" if answer.get("prompts") else ""
    text += f", reward {answer['reward']}" if answer.get("reward") else ""
    return f"{text}, {answer['sampler']}, {answer['steps']} steps"


def _alone(path: Path) -> Hold:
    """The hold on a file, so that what another process writes there is read before it is written over."""
    check_folder(path.parent)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return Hold(path, beside=True)
        except UsageError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
