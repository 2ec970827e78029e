"""Outside of a terminal a bar is a line now and then, and never the end of the work."""

import io
import sys
import time

import pytest

from fairlead.core import progress
from fairlead.core.progress import Bar, counting_bar, working


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_gets_a_line_after_five_seconds_then_every_thirty_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar(1200, "step", "training") as bar:
        for step in range(1200):
            clock.now += 0.1  # two minutes
            bar.note(f"loss {step}")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 50 of 1,200 steps, 0:05, loss 49"
    assert lines[-1] == "training: 1,200 of 1,200 steps, 2:00, loss 1199"
    assert len(lines) == 5  # 5, 35, 65, 95 seconds, and the end


def test_quick_work_is_one_line_and_none_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(3, "image") as bar:
        bar.update(3)
    with Bar(3, "image"), counting_bar("features", 3):
        pass
    with Bar(3, "image", shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == "3 of 3 images, 0:00\n"


def test_a_log_that_nobody_reads_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Broken())
    with Bar(100, "step") as bar:
        for _ in range(100):
            clock.now += 10
            bar.update()
    assert bar.n == 100


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with Bar(2, "step") as bar:
        bar.update(2)
    assert screen.getvalue() == "2 of 2 steps, 0:00\n"
    monkeypatch.setenv("TERM", "xterm")
    with Bar(2, "step") as bar:
        bar.update(2)
    assert "\r" in screen.getvalue()


def test_silent_work_is_named_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with working("reading"):
        pass
    monkeypatch.setattr(progress, "QUIET", 0.01)
    with working("loading runs/x"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "loading runs/x ...\n"
