"""``fl.push``: a training run on the hub, with what was tuned for it and a card that says what it is.

The repository holds the averaged weights of one checkpoint with their description, ``tuned.json``, a picture, the card
(README.md), and the autoencoder and text encoder that the model reads, where they are folders of this machine.
``fl.load("owner/name")`` reads it, ``guidance="tuned"`` finds the scale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairlead import __version__
from fairlead.core.errors import UsageError, remark, shortened
from fairlead.core.places import is_folder, place_of
from fairlead.core.progress import Progress, silent
from fairlead.core.strict_json import sealed
from fairlead.models.load import is_pipeline, load
from fairlead.models.model import Model
from fairlead.nets.inputs import condition_names
from fairlead.report.pictures import class_grid
from fairlead.train.checkpoint import Checkpoint, find_checkpoint
from fairlead.train.hub_runs import MARK, run_on_hub
from fairlead.train.tasks import DENOISE, task_of
from fairlead.tune.answers import Answer, question_of, read_answers

AVERAGES = ("ema", "narrow")
"""Parts of a checkpoint that go along: the averaged weights, of power averages both."""
SENT = (".json", ".safetensors", ".txt")
"""Files of an autoencoder or a text encoder that a model is read with; never code or pickles."""


def push(run: str | Path, name: str, *, private: bool = False, progress: Progress = silent) -> str:
    """Put a training run on the hub as ``owner/name``, with a card; a repository that is there gets a new version.

    The account is that of ``hf auth login`` or the environment variable HF_TOKEN, the hub that of HF_ENDPOINT.

    Args:
        run: a training run, ``RUN@step500`` or a checkpoint folder. What ``fl.tune`` found for it goes along.
        name: ``owner/name`` of the repository.
        private: make a new repository private.

    Returns:
        the address of the repository.

    Raises:
        UsageError: before anything is sent, for what is no run of a diffusion model, a model of adapters, another form
            of name, or HF_HUB_OFFLINE; if the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UsageError(f"push: expected the name of a repository such as owner/name, got {shortened(str(name))}")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("push: HF_HUB_OFFLINE is set, so nothing is sent; unset it")
    checkpoint = _checkpoint(run)
    answers = _answers(checkpoint)
    with progress("loading the model"):
        model = load(checkpoint.folder)
    with progress("drawing the picture"):
        picture = _picture(model, answers)
    contents: dict[str, bytes | Path] = {
        **_model_files(checkpoint),
        **_parts(checkpoint),
        MARK: _json({"fairlead": __version__, "checkpoint": checkpoint.folder.name}),
        "README.md": card(name, checkpoint, model, answers).encode(),
        "samples.png": picture,
    }
    if answers:
        contents["tuned.json"] = _tuned(checkpoint)
    hub = HfApi()
    try:
        with progress("sending to the hub"):
            hub.create_repo(name, private=private, exist_ok=True)
            operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
            hub.create_commit(name, operations, commit_message=f"{checkpoint.folder.name} by fairlead {__version__}")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "")
        advice = "log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise UsageError(
            f"push {name}: the hub refused ({status} {str(error).splitlines()[0][:150]}); {advice}"
        ) from error
    except OSError as error:
        raise UsageError(f"push {name}: {hub.endpoint} cannot be reached ({type(error).__name__})") from error
    run_on_hub.cache_clear()
    return f"{hub.endpoint}/{name}"


def card(name: str, checkpoint: Checkpoint, model: Model, answers: list[Answer]) -> str:
    """The text of README.md: data, conditions and null, schedule, the best scale with its interval, limits."""
    about, train = checkpoint.about, checkpoint.about["train"]
    data = about["data"]
    drops = {key: train.get("drops", {}).get(key, train["drop"]) for key in condition_names(about["net"])}
    guidance = "tuned" if len(answers) == 1 else f"tuned:{answers[0]['key']}" if answers else "cfg(2)"
    example = repr(str(model.examples[0])) if model.examples else "None"
    lines = [
        "---",
        "library_name: fairlead",
        "tags: [diffusion, guidance, fairlead]",
        "---",
        "",
        f"# {name.split('/')[1]}",
        "",
        "![samples under the guidance below](samples.png)",
        "",
        "```python",
        "import fairlead as fl",
        "",
        f'model = fl.load("{name}")',
        f'fl.sample(model, {example}, guidance="{guidance}", n=8).save("samples")',
        "```",
        "",
        "## Model",
        "",
        f"- **Data:** {data['name']}, split {data['split']}, {data['n']:,} images of "
        f"{'x'.join(map(str, data['shape']))} (fingerprint {data['fingerprint']})",
        f"- **Conditions:** {_conditions(drops, float(train.get('drop_all') or 0))}",
        f"- **Schedule:** {json.dumps(about['schedule'])}; the network predicts {about['objective']}",
        f"- **Network:** {about['net']['kind']}, {about['parameters']:,} parameters, step {checkpoint.step:,} of "
        f"{train['steps']:,}, averaged weights {about['files']['ema']}",
        f"- **Made with:** fairlead {about['fairlead']}, torch {about['torch']}",
    ]
    if model.classes:
        lines.append(f"- **Classes:** {', '.join(model.classes[:50])}{', ...' if len(model.classes) > 50 else ''}")
    lines += ["", "## Guidance", "", *(_tuned_lines(answers) or ["Not tuned: `fairlead tune` finds the best scale."])]
    lines += [
        "",
        "## Limits",
        "",
        "The best scale holds for these weights, this sampler and this number of steps. Distances compare settings "
        "under the same features, not with numbers of papers. The model shows what its data show, with their gaps.",
    ]
    return "\n".join(lines) + "\n"


def _tuned_lines(answers: list[Answer]) -> list[str]:
    lines = []
    for answer in answers:
        best = answer.get("best")
        where = f"; best at {best['value']:.3g}, 95 % interval {best['low']:.3g} to {best['high']:.3g}" if best else ""
        lines.append(f"- `{answer['guidance']}`: {answer.get('why', '')}{where} ({question_of(answer)}).")
    if answers:
        lines += ["", "`tuned.json` has every setting that was measured, with errors and the whole protocol."]
    return lines


def _conditions(drops: dict[str, float], together: float) -> str:
    if not drops:
        return "none"
    parts = [f"{name}, null for {drop:.0%} of the training samples" for name, drop in drops.items()]
    return "; ".join([*parts, *([f"all at once for {together:.0%}"] if together else [])])


def _checkpoint(run: str | Path) -> Checkpoint:
    if is_pipeline(run):
        raise UsageError(f"push: {shortened(str(run))} is a pipeline of diffusers; use its own push_to_hub")
    checkpoint = find_checkpoint(run)
    task = task_of(checkpoint.about["objective"])
    if task is not DENOISE:
        raise UsageError(f"push: {checkpoint.folder} is an {task.about}; expected a diffusion model")
    if checkpoint.about["net"]["kind"] == "lora":
        raise UsageError(f"push: {checkpoint.folder} holds adapters for a pipeline; write them with `fairlead export`")
    return checkpoint


def _tuned(checkpoint: Checkpoint) -> Path:
    return checkpoint.folder.parent / "tuned.json"


def _answers(checkpoint: Checkpoint) -> list[Answer]:
    """Those for these weights."""
    path = _tuned(checkpoint)
    answers = read_answers(path) if path.is_file() else []
    fitting = [one for one in answers if one.get("weights") == checkpoint.about["files"]["ema"]]
    if len(fitting) < len(answers):
        remark(
            f"{path}: {len(answers) - len(fitting)} of {len(answers)} answers are for other weights; not in the card"
        )
    return fitting


def _picture(model: Model, answers: list[Answer]) -> bytes:
    guidance = answers[0]["guidance"] if answers else "cfg(2)" if model.conditions else None
    how = {"sampler": answers[0]["sampler"], "steps": answers[0]["steps"]} if answers else {}
    conds = [] if model.condition_kind == "label" else list(model.examples[:8])
    return class_grid(model, guidance, conds=conds, rows=4, title=guidance or "no guidance", **how)


def _model_files(checkpoint: Checkpoint) -> dict[str, bytes | Path]:
    """The description, which then speaks of the averaged weights alone, and these."""
    kept = {part: digest for part, digest in checkpoint.about["files"].items() if part in AVERAGES}
    for part in kept:
        checkpoint.tensors(part)  # refuses what is damaged
    folder = f"step-{checkpoint.step:06d}"
    weights: dict[str, bytes | Path] = {
        f"{folder}/{part}.safetensors": checkpoint.folder / f"{part}.safetensors" for part in kept
    }
    return {f"{folder}/model.json": _json(sealed({**checkpoint.about, "files": kept})), **weights}


def _parts(checkpoint: Checkpoint) -> dict[str, bytes | Path]:
    """Folders of this machine that the model is read with, where a checkpoint looks for them: below a folder above."""
    train = checkpoint.about["train"]
    found: dict[str, bytes | Path] = {}
    for part in ("latents", "text"):
        source = (train.get(part) or {}).get("source")
        if source and is_folder(place := place_of(source, checkpoint.folder)):
            named = Path(source).expanduser()
            where = Path(named.name) if named.is_absolute() or ".." in named.parts else named
            found.update({(where / below).as_posix(): Path(place) / below for below in _sent(Path(place))})
    return found


def _sent(folder: Path) -> Iterator[Path]:
    """What of a folder goes along: the files of :data:`SENT`, the steps of a training left out."""
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if path.suffix in SENT and path.is_file() and not any(part.startswith(("step-", ".")) for part in below.parts):
            yield below


def _json(thing: Any) -> bytes:
    return (json.dumps(thing, indent=1) + "\n").encode()
