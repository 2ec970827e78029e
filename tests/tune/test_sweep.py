"""A sweep measures what sampling and scoring by hand measure; killed, widened or shared, it gives the same table and
evaluates nothing twice."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.core.denoiser import counting
from fairlead.core.errors import UsageError
from fairlead.measure.references import shared_out
from fairlead.sample.run import sample
from fairlead.tune.budget import Budget, FinishedBatch, Outlook, Stopped, Work
from fairlead.tune.setting import Point, Setting, all_settings
from fairlead.tune.sweep_folder import SweepFolder
from fairlead.tune.sweep_run import PROBE, Event, Shared, Sweep, pictured
from fairlead.tune.workers import Workers
from tests.tune.made import evaluator, files, model, table

SETTINGS = all_settings(["runs/a", "runs/b"], ["cfg(2)", "cfg(1)"], ["dpmpp_2m_sde"], [2])
SHARED = Shared(n=20, batch_size=8)
ROWS = 2 * 2 * (20 + PROBE) * (2 + 1)
"""Of all: 2 checkpoints, 2 steps, the images and those that were counted before, 2 branches for scale 2 and 1 for 1."""


def measured(
    folder: Path, settings: Sequence[Setting] = SETTINGS, shared: Shared = SHARED, **options: Any
) -> tuple[list[Event], int]:
    """The events of a sweep and the network rows it took."""
    with counting() as cost:
        events = list(Sweep(settings, shared, model).measure(SweepFolder(folder), evaluator(), **options))
    return events, cost.rows


def same(one: Path, other: Path) -> None:
    assert table(one) == table(other)
    assert files(one, "*.safetensors") == files(other, "*.safetensors")
    for name in files(one, "*.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed sweep."""
    folder = tmp_path_factory.mktemp("whole")
    _, rows = measured(folder)
    assert rows == ROWS
    return folder


def test_a_setting_is_measured_as_by_hand(whole: Path) -> None:
    scores = {}
    conds = shared_out(("zero", "one", "two"), evaluator().reference.labels, 20)
    points = SweepFolder(whole).read()[1]
    for point in points:
        setting = point.setting
        run = sample(
            model(setting.checkpoint),
            conds,
            guidance=setting.guidance,
            seeds=range(20),
            sampler=setting.sampler,
            steps=setting.steps,
            batch_size=8,
        )
        assert run.images is not None
        labels = run.condition.values["label"]
        scores[setting] = evaluator().score(run.images, labels, run.x0, run.seeds)
        assert point.score.metrics == scores[setting].metrics
        assert point.score.protocol == scores[setting].protocol
        assert point.rows_per_image == run.cost.rows / 20
        assert torch.equal(point.examples, run.images[pictured(labels, 40)])
    assert [point.setting for point in points] == SETTINGS
    for point in points:
        if point.setting.guidance == "cfg(2)":
            assert point.baseline == replace(point.setting, guidance="cfg(1)")
            assert point.differences == scores[point.setting].compare(scores[point.baseline])
        else:
            assert point.baseline is None


class Killed(BaseException):
    pass


def dies_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int, before: bool) -> None:
    """The ``call``-th call of a method of the folder is the last thing that happens."""
    original: Callable[..., Any] = getattr(SweepFolder, method)
    count = 0

    def watched(self: SweepFolder, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and before:
            raise Killed
        result = original(self, *args, **options)
        if count == call:
            raise Killed
        return result

    monkeypatch.setattr(SweepFolder, method, watched)


@pytest.mark.parametrize(
    ("method", "call", "before", "lost"),
    [
        ("set_rows", 3, False, 0),
        ("add_batch", 1, False, 0),
        ("add_batch", 8, False, 0),
        ("_settle", 3, True, 0),
        ("_settle", 3, False, 0),
        ("_save", 8, True, 4 * 2 * 2),  # the batch that was about to be written
        ("_drop_batches", 2, True, 0),
        ("add", 4, False, 0),
    ],
)
def test_interrupted_anywhere_it_goes_on_to_the_same_table_with_nothing_made_twice(
    method: str, call: int, before: bool, lost: int, whole: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch, counting() as cost:
        dies_at(patch, method, call, before)
        with pytest.raises(Killed):
            measured(tmp_path)
    _, rest = measured(tmp_path)
    assert cost.rows + rest == ROWS + lost
    same(tmp_path, whole)


def test_measured_settings_cost_nothing_again(whole: Path) -> None:
    before = (whole / "sweep.jsonl").read_bytes()
    events, rows = measured(whole)
    [outlook] = events
    assert isinstance(outlook, Outlook)
    assert (outlook.settings, outlook.measured, outlook.left, outlook.now, outlook.beyond) == (4, 4, Work(), Work(), 0)
    assert rows == 0
    assert (whole / "sweep.jsonl").read_bytes() == before


def test_a_wider_question_adds_to_what_is_there(whole: Path, tmp_path: Path) -> None:
    part = [setting for setting in SETTINGS if setting.checkpoint == "runs/a" and setting.guidance == "cfg(2)"]
    _, first = measured(tmp_path, part)
    _, second = measured(tmp_path)
    assert first + second == ROWS
    same(tmp_path, whole)


def test_a_batch_that_is_damaged_is_made_again(whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dies_at(patch, "add_batch", 2, False)
        with pytest.raises(Killed):
            measured(tmp_path)
    path = tmp_path / next(name for name in files(tmp_path) if "batch-0001" in name)
    path.write_bytes(b"")
    measured(tmp_path)
    same(tmp_path, whole)


class Threads(Workers):
    """Two threads that share a sweep as processes do."""

    box: list[Any]
    barrier: threading.Barrier

    def share(self, value: Any) -> Any:
        if self.main:
            self.box[0] = value
        self.barrier.wait(60)
        value = self.box[0]
        self.barrier.wait(60)
        return value

    def wait(self) -> None:
        self.barrier.wait(60)


@pytest.mark.parametrize("count", [2, 3])
def test_several_workers_give_the_table_of_one(count: int, whole: Path, tmp_path: Path) -> None:
    box, barrier, rows, failed = [None], threading.Barrier(count), [0] * count, []

    def work(index: int) -> None:
        mine = Threads(index, count)
        object.__setattr__(mine, "box", box)
        object.__setattr__(mine, "barrier", barrier)
        try:
            with counting() as cost:
                sweep = Sweep(SETTINGS, SHARED, model)
                list(sweep.measure(SweepFolder(tmp_path), evaluator() if mine.main else None, workers=mine))
            rows[index] = cost.rows
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(rows) == ROWS
    assert max(rows) - min(rows) <= ROWS / 4
    same(tmp_path, whole)


def test_the_budget_ends_it_after_the_last_setting_that_fits(whole: Path, tmp_path: Path) -> None:
    events, _ = measured(tmp_path, budget=Budget(59, "images"))
    outlook = events[0]
    assert isinstance(outlook, Outlook)
    assert (outlook.settings, outlook.measured, outlook.beyond) == (4, 0, 2)
    assert (outlook.left, outlook.now) == (Work(80, 240.0), Work(40, 120.0))
    assert outlook.budget == Budget(59, "images")
    assert len(set(outlook.labels.values())) == 4
    assert sum(event.work.images for event in events if isinstance(event, FinishedBatch)) == 40
    assert events[-1] == Stopped(2, Work(40, 120.0))
    assert len(table(tmp_path)) == 2
    events, _ = measured(tmp_path, budget=Budget(119, "rows"))  # the baseline comes first and takes 40
    assert [event.setting.guidance for event in events if isinstance(event, Point)] == ["cfg(1)"]
    events, _ = measured(tmp_path, budget=Budget(60, "minutes"))
    assert not isinstance(events[-1], Stopped)
    same(tmp_path, whole)


def test_a_budget_in_minutes_begins_no_setting_that_it_cannot_end(tmp_path: Path) -> None:
    events, _ = measured(tmp_path, budget=Budget(1e-9, "minutes"))
    assert isinstance(events[-1], Stopped)
    assert events[-1].settings == 3
    assert len(table(tmp_path)) == 1


def test_a_budget_that_covers_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget of 19 images is less than the first setting needs: 20 images, about"):
        measured(tmp_path, budget=Budget(19, "images"))


def test_images_are_kept_on_demand(tmp_path: Path) -> None:
    measured(tmp_path, SETTINGS[:1], keep_images=True)
    assert [Path(name).name for name in files(tmp_path / "settings")] == [
        "images.safetensors",
        "rows.json",
        "samples.safetensors",
    ]


def test_what_cannot_be_compared_is_refused_before_any_sampling(tmp_path: Path) -> None:
    def load(name: str) -> Any:
        return {
            "runs/small": model(name, shape=(1, 4, 4)),
            "runs/toy": replace(model(name), classes=()),
            "runs/copy": replace(model(name), metadata=model("runs/a").metadata),
            "runs/video": replace(model(name), image_shape=(3, 4, 8, 8)),
        }.get(name, model(name))

    with counting() as cost:
        for other, message in (
            ("runs/small", r"'runs/small' has shape \[1, 4, 4\], the first one \[1, 8, 8\]"),
            ("runs/toy", "this model is unconditional"),
            ("runs/copy", "runs/a and runs/copy are the same weights"),
            ("runs/video", r"a sweep measures images, and this model's samples are \[3, 4, 8, 8\]"),
        ):
            with pytest.raises(UsageError, match=message):
                Sweep(all_settings(["runs/a", other], ["cfg(2)"], ["ddim"], [2]), SHARED, load)
        with pytest.raises(UsageError, match=r"n = 6 images over 3 conditions are too few to score; .* least 9"):
            Sweep(SETTINGS, Shared(n=6), model)
    assert cost.rows == 0


def test_classes_are_shared_out_as_among_real_images_in_every_prefix() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    names = shared_out(("a", "b", "c"), labels, 250)
    for n in (10, 50, 100, 250):
        counts = torch.tensor([names[:n].count(name) for name in "abc"])
        assert ((counts - n * torch.tensor([0.6, 0.3, 0.1])).abs() <= 1).all()


def test_pictures_are_one_of_each_class_in_order_then_another() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1])
    assert labels[pictured(labels, 7)].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert pictured(labels, 4).tolist() == [1, 3, 0, 2]
