"""Damaged checkpoints: refused in one line, or loaded as they were; no traceback, no memory for what is not there."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import fairlead as fl
from fairlead.cli.info import Info
from fairlead.core.errors import UsageError
from fairlead.core.strict_json import seal_of
from fairlead.models.load import load, network_of
from fairlead.models.noisy_classifier_model import load_classifier
from fairlead.train.checkpoint import find_checkpoint, steps_of
from fairlead.train.config import TrainConfig
from fairlead.train.loop import Training
from tests.models.damage import damaged, no_more_memory_than
from tests.models.kinds import KINDS, data_of, run_of

pytestmark = pytest.mark.filterwarnings("ignore::fairlead.core.errors.Note")
QUICK = ("model", "classifier", "autoencoder", "text", "attributes")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def folders(place: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """The checkpoint folder of a run of each kind, made once."""
    for kind in kinds:
        if not steps_of(place / kind):
            run_of(kind, place)
    return {kind: place / kind / "step-000002" for kind in kinds}


def use(kind: str, folder: Path, config: TrainConfig, seed: int) -> bool:
    """Load, sample from or resume a checkpoint; whether that could be done."""
    if seed % 4 == 1:
        with redirect_stdout(StringIO()):
            Info(str(folder)).run()
    if kind == "lora" and seed % 4 == 2:
        fl.export(folder, folder.parent / "exported")
    if kind == "classifier":
        classifier = load_classifier(folder)
        assert len(classifier.classes) == classifier.network.head.out_features  # type: ignore[union-attr]
    elif kind == "autoencoder":
        network_of(find_checkpoint(folder), folder, "ema")
    else:
        model = load(folder, device="cpu")
        model.encode(list(model.examples)[:2])
        if seed % 8 == 0:
            fl.sample(model, n=1, steps=1, sampler="ddim")
    if kind != "lora" and seed % 3 == 0:
        Training(data_of(kind), config, folder.parent, resume=True)
    return True


def is_one_line(text: str) -> bool:
    return 20 < len(text) < 2000 and "Traceback" not in text and "\n" not in text


def check(place: Path, kinds: tuple[str, ...], seeds: range, out: Path) -> None:
    sound = folders(place, kinds)
    configs = {kind: TrainConfig.from_json(find_checkpoint(folder).about["train"]) for kind, folder in sound.items()}
    wrong, refused = [], 0
    for seed in seeds:
        kind = kinds[seed % len(kinds)]
        run = out / f"{seed}"
        done = damaged(sound[kind], run / "step-000002", seed, list(sound.values()))
        try:
            with no_more_memory_than(3):
                use(kind, run / "step-000002", configs[kind], seed)
        except UsageError as error:
            wrong += [] if is_one_line(str(error)) else [f"{kind}, {done}: {str(error)[:300]}"]
            refused += 1
        except BaseException as error:
            wrong.append(f"{kind}, {done}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            if "as it is" in done:
                now, was = (json.loads((f / "model.json").read_text()) for f in (run / "step-000002", sound[kind]))
                assert seal_of(now) == seal_of(was), f"{kind}, {done}: loaded"
        shutil.rmtree(run)
    assert wrong == []
    assert refused > len(seeds) / 2


def test_damaged_checkpoints_are_refused_in_one_line(place: Path, tmp_path: Path) -> None:
    check(place, QUICK, range(100), tmp_path)


@pytest.mark.slow
def test_two_thousand_damaged_checkpoints(place: Path, tmp_path: Path) -> None:
    check(place, KINDS, range(1000, 3000), tmp_path)
