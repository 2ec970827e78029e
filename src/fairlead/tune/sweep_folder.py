"""The files of a sweep. Every one is written whole or not at all, so a sweep that was killed goes on where it was.

Over 300 lines, as one class knows all of these files:

FOLDER/sweep.json             what all settings share, models, settings in their order, floor of real images, commands
       sweep.jsonl            one line a measured setting: score, differences to its baseline, cost
       reference.safetensors  moments of the real images
       settings/KEY/rows.json               network rows per image, counted on a few images before the start
                    batch-0003.safetensors  finished images of a setting that is not measured yet
                    samples.safetensors     of a measured one: features, labels, values per sample, example images
                    images.safetensors      all its images, if they are to be kept

KEY is a hash of what decides the bits of a setting beside what all share: weights, guidance, sampler, steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairlead.core.errors import UsageError
from fairlead.core.files import replacing
from fairlead.core.strict_json import opened, read_json, sealed
from fairlead.measure.frechet import Moments
from fairlead.measure.score import Difference, Floor, Samples, Score
from fairlead.tune.setting import Images, Point, Setting, baselines, setting_of

FORMAT = 2
_LONGEST = 300
"""Characters of a value that a message repeats."""
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError)


class SweepFolder:
    """Reads and writes the files of a sweep in ``folder``; several processes may add batches at the same time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def started(self) -> bool:
        """Whether anything is there to go on with."""
        return any(self.folder.glob("settings/*/*.safetensors"))

    def check(self, shared: Mapping[str, Any]) -> None:
        """Raise UsageError if a sweep is here whose settings share something else."""
        if (self.folder / "sweep.json").exists():
            self._same(self._about()["shared"], shared)

    def open(
        self,
        shared: Mapping[str, Any],
        measured_with: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, Setting],
        classes: Sequence[str],
        prompts: Sequence[str],
        reference: Moments | None,
        floor: Floor,
        command: str,
        notes: Sequence[str] = (),
    ) -> None:
        """Begin a sweep, or go on with one: settings are added, never taken away.

        Args:
            shared: what all settings share: n, seed, conds, ...
            measured_with: classifiers, reference and version.
            models: checkpoint -> its metadata.
            settings: key -> setting, in the order of the table.
            classes: names of those that are swept.
            prompts: what the example images were asked for, of models that are conditioned on more than a class.
            reference: moments of the real images; None where there are none.
            floor: real images measured like generated ones.
            command: that started it.
            notes: what the reader has to know of all settings, a sentence each.

        Raises:
            UsageError: if the sweep that is here was measured in another way, or nothing can be written.
        """
        about: dict[str, Any] = {"models": {}, "settings": [], "commands": []}
        if (self.folder / "sweep.json").exists():
            about = self._about()
            self._same(about["shared"], shared)
            self._same(about["measured_with"], measured_with)
            for name, model in models.items():
                before = about["models"].get(name, model)
                if before.get("weights_hash") != model.get("weights_hash"):
                    raise UsageError(
                        f"checkpoint {name!r} was {before.get('weights_hash')} (step {before.get('step')}) when "
                        f"{self.folder} was begun and is {model.get('weights_hash')} (step {model.get('step')}) now; "
                        f"name the step, e.g. {name}@step{before.get('step')}, or choose another --out"
                    )
            for setting, key in self._keys().items():
                if key not in settings and setting in settings.values():
                    raise UsageError(
                        f"what {setting.guidance!r} names is not what it was when {self.folder} was begun; choose "
                        "another --out"
                    )
        others = [entry for entry in about["settings"] if entry["key"] not in settings]
        about = {
            "format": FORMAT,
            "shared": dict(shared),
            "measured_with": dict(measured_with),
            "classes": list(classes),
            "prompts": list(prompts),
            "notes": list(notes),
            "models": {**about["models"], **{name: dict(model) for name, model in models.items()}},
            "settings": [*({"key": key, **asdict(setting)} for key, setting in settings.items()), *others],
            "floor": floor.as_dict(),
            "commands": list(dict.fromkeys([*about["commands"], *([command] if command else [])])),
        }
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in (*self.folder.glob(".*.*"), *self.folder.glob("settings/*/.*")):  # of a killed process
                if leftover.name.startswith((".sweep", ".reference", ".rows", ".batch", ".samples", ".images")):
                    leftover.unlink(missing_ok=True)
            if reference is not None:
                moments = {"mean": reference.mean, "scatter": reference.scatter, "n": torch.tensor(reference.n)}
                self._save("reference.safetensors", moments)
            if not (self.folder / "sweep.jsonl").exists():
                self._write("sweep.jsonl", "")
            self._write("sweep.json", json.dumps(sealed(about), indent=1))
        for line in self._lines():
            self._drop_batches(line["key"])
        self._settle(self._lines())

    @property
    def floor(self) -> Floor | None:
        """Of the sweep that is here, if one is."""
        return Floor.from_dict(self._about()["floor"]) if (self.folder / "sweep.json").exists() else None

    @property
    def reference(self) -> Moments | None:
        """Of the real images; None for a sweep that measures no distance.

        Raises:
            UsageError: if they are not stored, or damaged.
        """
        if not self._about()["floor"]["metrics"]:
            return None
        try:
            stored = load_file(self.folder / "reference.safetensors")
            return Moments(int(stored["n"]), stored["mean"], stored["scatter"])
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def rows(self, key: str) -> float | None:
        """Network rows per image, as counted before the start; None if they were not."""
        try:
            return float(read_json(self._of(key) / "rows.json"))
        except (OSError, ValueError, TypeError):
            return None

    def set_rows(self, key: str, rows: float) -> None:
        self._write(f"settings/{key}/rows.json", json.dumps(rows))

    def has_batch(self, key: str, index: int) -> bool:
        """Whether a batch is there and whole."""
        try:
            with safe_open(self._batch(key, index), "pt") as file:
                return {"images", "saturation", "rows", "seconds"} <= set(file.keys())
        except (OSError, SafetensorError):
            return False

    def add_batch(self, key: str, index: int, batch: Images) -> None:
        """Store the finished images of one batch.

        Raises:
            UsageError: if they cannot be written.
        """
        tensors = {
            "images": batch.images.contiguous(),
            "saturation": batch.saturation.contiguous(),
            "rows": torch.tensor(batch.rows),
            "seconds": torch.tensor(batch.seconds, dtype=torch.float64),
        }
        self._save(str(self._batch(key, index).relative_to(self.folder)), tensors)

    def batches(self, key: str, count: int) -> Images:
        """The first ``count`` batches of a setting as one."""
        try:
            parts = [load_file(self._batch(key, index)) for index in range(count)]
            return Images(
                torch.cat([part["images"] for part in parts]),
                torch.cat([part["saturation"] for part in parts]),
                sum(int(part["rows"]) for part in parts),
                sum(float(part["seconds"]) for part in parts),
            )
        except _DAMAGED as error:
            raise UsageError(f"{self._of(key)} is damaged ({error!r}); remove it and start the sweep again") from error

    def measured(self) -> set[str]:
        """The keys of the settings that have a score."""
        return {line["key"] for line in self._lines()}

    def add(self, key: str, score: Score, made: Images, examples: Tensor, keep_images: bool = False) -> Point:
        """Store what was measured of a setting and drop its batches; a file of all images stays on demand.

        Raises:
            UsageError: if nothing can be written; the batches are then kept.
        """
        if score.samples is None:
            raise UsageError("a sweep stores the samples of a score; expected one from Evaluator.score")
        n = len(made.images)
        line = {
            "key": key,
            "score": score.as_dict(),
            "baseline": None,
            "differences": None,
            "rows_per_image": made.rows / n,
            "ms_per_image": round(1000 * made.seconds / n, 3),
        }
        if keep_images:
            labels = score.samples.labels.contiguous()
            self._save(f"settings/{key}/images.safetensors", {"images": made.images.contiguous(), "labels": labels})
        self._save(
            f"settings/{key}/samples.safetensors", {**score.samples.tensors(), "examples": examples.contiguous()}
        )
        lines = self._settle([*(other for other in self._lines() if other["key"] != key), line])
        self._drop_batches(key)
        return self._point(next(line for line in lines if line["key"] == key))

    def key(self, setting: Setting) -> str:
        """Under which a setting is stored.

        Raises:
            UsageError: if the sweep has no such setting.
        """
        keys = self._keys()
        if setting not in keys:
            raise UsageError(f"sweep {self.folder}: {setting} is not among its settings")
        return keys[setting]

    def samples(self, key: str) -> Samples:
        """What a setting's score keeps of its samples, so that any two settings can be compared; UsageError if it is
        not stored, or damaged."""
        try:
            return Samples.from_tensors(self.reference, load_file(self._of(key) / "samples.safetensors"))
        except _DAMAGED as error:
            raise UsageError(f"{self._of(key)} holds no samples that can be read ({error!r})") from error

    def compare(self, a: Setting, b: Setting) -> dict[str, Difference]:
        """Every metric of ``a`` minus that of ``b``, errors paired sample by sample, from the stored features.

        Raises:
            UsageError: if one of them is not measured.
        """
        keys = self._keys()
        for setting in (a, b):
            if keys.get(setting) not in self.measured():
                raise UsageError(f"sweep {self.folder}: {setting} is not measured")
        lines = {line["key"]: line for line in self._lines()}
        return self._whole(lines[keys[a]]).compare(self._whole(lines[keys[b]]))

    def read(self) -> tuple[dict[str, Any], list[Point]]:
        """What was swept, and its points in the order of the settings; UsageError if there is no sweep, one of an
        earlier version, or a file of it is damaged."""
        about = self._about()
        try:
            Floor.from_dict(about["floor"])
            points = [self._point(line) for line in self._lines()]
        except _DAMAGED as error:
            if isinstance(error, UsageError):
                raise
            raise self._damaged(error) from error
        if not points:
            raise UsageError(f"sweep {self.folder} holds no measured setting yet; let `fairlead sweep` finish one")
        return about, points

    def _settle(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Compare every line with its baseline where that is measured, and write the table in its order: what it says
        does not depend on the order of measuring."""
        keys = self._keys()
        wanted = {keys[setting]: keys[base] for setting, base in baselines(list(keys)).items()}
        place = {key: i for i, key in enumerate(keys.values())}
        lines = sorted(lines, key=lambda line: place[line["key"]])
        by_key = {line["key"]: line for line in lines}
        settings = {key: setting for setting, key in keys.items()}
        settled = []
        for line in lines:
            base = wanted[line["key"]] if wanted[line["key"]] in by_key else None
            base = None if base == line["key"] else base
            if base != line["baseline"]:
                changes = None if base is None else self._whole(line).compare(self._whole(by_key[base]))
                differences = None if changes is None else {name: asdict(value) for name, value in changes.items()}
                line = {**line, "baseline": base, "differences": differences}
            named = {"key": line["key"], **asdict(settings[line["key"]])}
            settled.append({**named, **line, **named})  # named comes first, and is as the setting is called now
        self._write("sweep.jsonl", "".join(json.dumps(sealed(line)) + "\n" for line in settled))
        return settled

    def _whole(self, line: Mapping[str, Any]) -> Score:
        return replace(Score.from_dict(line["score"]), samples=self.samples(line["key"]))

    def _point(self, line: Mapping[str, Any]) -> Point:
        settings = {key: setting for setting, key in self._keys().items()}
        with safe_open(self._of(line["key"]) / "samples.safetensors", "pt") as file:
            examples = file.get_tensor("examples")
        changes = line["differences"]
        return Point(
            settings[line["key"]],
            Score.from_dict(line["score"]),
            line["rows_per_image"],
            line["ms_per_image"],
            examples,
            None if line["baseline"] is None else settings[line["baseline"]],
            changes and {name: Difference(**value) for name, value in changes.items()},
        )

    def _keys(self) -> dict[Setting, str]:
        """In the order of the table."""
        return {setting_of(entry): entry["key"] for entry in self._about()["settings"]}

    def _about(self) -> dict[str, Any]:
        path = self.folder / "sweep.json"
        if not path.is_file():
            raise UsageError(f"{str(self.folder)!r} holds no sweep (no sweep.json); make one with `fairlead sweep`")
        try:
            about: dict[str, Any] = opened(read_json(path))
            if "format" not in about and {"floor", "command", "settings"} <= set(about):
                raise UsageError(
                    f"sweep {self.folder} was made by an earlier version of fairlead, which stored no samples; "
                    f"measure it again into another folder: {about['command']}"
                )
            about.setdefault("prompts", [])
            about.setdefault("notes", [])
            _ = [*about["classes"], *about["prompts"], *about["notes"], *about["commands"], *about["shared"]["conds"]]
            _ = {**about["models"], **about["measured_with"], **about["floor"]}, about["format"] + 0
            _ = [(entry["key"] + "", setting_of(entry)) for entry in about["settings"]]
        except UsageError:
            raise
        except _DAMAGED as error:
            raise self._damaged(error) from error
        return about

    def _lines(self) -> list[dict[str, Any]]:
        try:
            return [opened(line) for line in read_json(self.folder / "sweep.jsonl", lines=True)]
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UsageError:
        return UsageError(f"sweep {self.folder} is damaged ({error!r}); run it again into another folder")

    def _same(self, here: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        here, given = (json.loads(json.dumps(dict(what))) for what in (here, given))
        unlike = [name for name in {**here, **given} if here.get(name) != given.get(name)]
        if unlike:
            what = "; ".join(
                f"{name}: {_brief(here.get(name))} there, {_brief(given.get(name))} now" for name in unlike
            )
            raise UsageError(
                f"{self.folder} holds a sweep that was measured in another way ({what}); give the same, or choose "
                "another --out"
            )

    def _of(self, key: str) -> Path:
        return self.folder / "settings" / key

    def _batch(self, key: str, index: int) -> Path:
        return self._of(key) / f"batch-{index:04d}.safetensors"

    def _drop_batches(self, key: str) -> None:
        for path in self._of(key).glob("batch-*.safetensors"):
            path.unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        with _writing(self.folder), replacing(self.folder / name) as partial:
            partial.write_text(text)

    def _save(self, name: str, tensors: dict[str, Tensor]) -> None:
        with _writing(self.folder), replacing(self.folder / name) as partial:
            save_file(tensors, partial)


def _brief(value: Any) -> str:
    """A value for a message; long ones, such as many prompts, by their beginning and a hash."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... #{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns an OSError inside the block into one line that says nothing made before is lost."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"cannot write the sweep to {folder}: {error}; what was measured before is kept, the same command continues"
        ) from error
