"""The first signal ends in order, the same one twice at once is one, a later one ends at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fairlead.core import signals
from fairlead.core.signals import EndSignal, ending, noting, saving_ignored, unbroken

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _none_ignored() -> Iterator[None]:
    """Shells set some of them to be ignored, in the background or under nohup."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_raises_what_the_command_exits_with(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(EndSignal) as ended, ending():
        send(number)
    assert ended.value.code == 128 + number
    assert isinstance(ended.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", NUMBERS)
def test_while_noting_it_is_only_noted_and_a_later_one_raises(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with noting() as noted:
        assert noted.ended == 0
        send(number)
        send(number)  # of the terminal and of the launcher
        assert noted.ended == number
    monkeypatch.setattr(signals, "SAME", 0.0)
    with noting():
        send(number)
        with pytest.raises(EndSignal):
            send(signal.SIGINT)


def test_a_save_is_asked_for_by_each_sigusr1() -> None:
    with noting() as noted:
        assert not noted.wants_save()
        send(signal.SIGUSR1)
        assert noted.wants_save()
        assert not noted.wants_save()
        assert noted.ended == 0
    with saving_ignored():
        send(signal.SIGUSR1)


def test_an_unbroken_block_is_done_whole_before_the_signal_comes() -> None:
    done = []

    def work() -> None:
        with ending(), unbroken():
            send(signal.SIGTERM)
            done.append(1)

    with pytest.raises(EndSignal):
        work()
    assert done == [1]


def test_after_an_unbroken_block_a_program_gets_the_signal_as_it_handles_it() -> None:
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    with unbroken():
        send(signal.SIGTERM)
        assert got == []
    signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_a_closed_terminal_does_not_end_what_nohup_started() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ending():
        send(signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)


def test_other_threads_handle_no_signals() -> None:
    found = []

    def run() -> None:
        with ending(), noting() as noted:
            found.append(noted.ended)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [0]


def test_a_second_signal_ends_a_command_that_cleans_up() -> None:
    code = """
import time
from fairlead.core import signals
signals.SAME = 0.05
try:
    with signals.ending():
        try:
            print("on", flush=True)
            time.sleep(100)
        finally:
            print("cleaning", flush=True)
            time.sleep(100)
except KeyboardInterrupt:
    print("ended in order", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in ("on", "cleaning"):
        assert process.stdout.readline().strip() == line
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
