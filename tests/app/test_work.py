"""Work can be stopped between two steps, passes over what nobody looked at, and is run once."""

import threading
from collections.abc import Iterator

import pytest

from fairlead.app.work import Desks, Job
from fairlead.core.errors import UsageError


def counted(limit: int, seen: list[int], go: threading.Semaphore | None = None) -> Iterator[int]:
    for i in range(limit):
        if go is not None:
            go.acquire()
        seen.append(i)
        yield i


def test_the_last_state_is_always_shown_and_those_before_may_be_passed_over() -> None:
    seen: list[int] = []
    shown = [*Job(lambda: counted(1000, seen))]
    assert seen == [*range(1000)]
    assert shown[-1] == 999
    assert shown == sorted(shown)
    assert len(shown) < 1000


def test_stop_lets_no_step_begin() -> None:
    seen: list[int] = []
    go = threading.Semaphore(3)
    work = Job(lambda: counted(1000, seen, go))
    states = iter(work)
    while next(states) < 2:
        pass
    work.stop()
    go.release(1)  # the step that may be under way
    assert [*states] in ([], [3])
    assert len(seen) <= 4


def test_leaving_the_iteration_stops_it() -> None:
    seen: list[int] = []
    go = threading.Semaphore(2)
    states = iter(Job(lambda: counted(1000, seen, go)))
    next(states)
    go.release(2)
    states.close()  # type: ignore[attr-defined]
    assert len(seen) <= 4


def test_what_was_stopped_before_its_turn_never_begins() -> None:
    seen: list[int] = []
    work = Job(lambda: counted(3, seen))
    work.stop()
    assert [*work] == []
    assert seen == []


def test_an_error_is_raised_where_it_is_looked_at() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise UsageError("no such thing")

    states = iter(Job(broken))
    with pytest.raises(UsageError, match="no such thing"):
        list(states)


def test_a_page_runs_one_thing_the_last_it_asked_for() -> None:
    desks, first, second = Desks(), Job(lambda: iter([1])), Job(lambda: iter([2]))
    desks.begin("a", first)
    desks.begin("a", second)
    desks.begin("b", other := Job(lambda: iter([3])))
    assert [work.stopped for work in (first, second)] == [True, False]
    assert desks.take("a") is second
    assert desks.take("a") is None  # once
    assert desks.take("nobody") is None
    desks.leave("a")
    assert [work.stopped for work in (second, other)] == [True, False]
    assert len(desks) == 1
