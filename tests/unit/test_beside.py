"""One item is made while the one before it is finished, and never more than that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar

import pytest

from tasks.nights import beside
from tasks.nights.beside import one_behind

SECONDS = 10.0  # that a test waits for what must happen
RUN: ContextVar[str] = ContextVar("run", default="none")


def ten_times(number: int) -> int:
    return 10 * number


def result_of(_: int, made: Future[int]) -> int:
    return made.result()


def test_each_item_comes_with_its_end_in_order() -> None:
    assert list(one_behind(range(4), ten_times, result_of)) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert list(one_behind([], ten_times, result_of)) == []


def test_while_one_is_made_the_one_before_is_finished_and_never_more() -> None:
    begun = [threading.Event() for _ in range(3)]  # to be made
    told: list[str] = []

    def make(number: int) -> None:
        told.append(f"make {number}")
        begun[number].set()

    def finish(number: int, _: Future[None]) -> None:
        assert number == 2 or begun[number + 1].wait(SECONDS)  # the next one is made meanwhile, or this never ends
        assert number > 0 or not begun[2].is_set()
        told.append(f"finish {number}")

    list(one_behind(range(3), make, finish))
    assert told == ["make 0", "make 1", "finish 0", "make 2", "finish 1", "finish 2"]


def test_what_cannot_be_made_fails_alone() -> None:
    def make(number: int) -> float:
        return 1 / number

    def finish(_: int, made: Future[float]) -> str:
        error = made.exception()
        return str(error) if error else str(made.result())

    assert list(one_behind([1, 0, 2], make, finish)) == [(1, "1.0"), (0, "division by zero"), (2, "0.5")]


def test_what_finishing_raises_is_raised() -> None:
    def finish(number: int, _: Future[int]) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(one_behind([1, 0], ten_times, finish))


def test_what_failed_holds_nothing_in_memory() -> None:
    alive: list[Callable[[], object]] = []

    class Model:
        pass

    def make(_: int) -> None:
        model = Model()
        alive.append(weakref.ref(model))
        raise ValueError("too bad")

    def finish(_: int, made: Future[None]) -> object:
        assert isinstance(made.exception(), ValueError)
        return alive[-1]()

    assert list(one_behind([1], make, finish)) == [(1, None)]


def test_who_is_interrupted_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "GRACE", 0.05)
    hangs = threading.Event()

    def make(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    def finish(_: int, __: Future[None]) -> bool:
        return hangs.wait(SECONDS)

    with pytest.raises(KeyboardInterrupt):
        list(one_behind(range(2), make, finish))
    hangs.set()


def test_who_is_interrupted_lets_what_is_nearly_done_end() -> None:
    ended: list[int] = []

    def make(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    def finish(number: int, _: Future[None]) -> None:
        threading.Event().wait(0.2)
        ended.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(one_behind(range(2), make, finish))
    assert ended == [0]


def test_what_is_beside_knows_the_run_it_is_part_of() -> None:
    RUN.set("tonight")
    assert list(one_behind([1], ten_times, lambda _, __: RUN.get())) == [(1, "tonight")]
