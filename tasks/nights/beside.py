"""Items in a row, each made in the caller's thread and finished in a thread beside it, while the next one is made."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
End = TypeVar("End")

GRACE = 5.0  # seconds that what is beside may take to end when the caller is interrupted


def one_behind(
    items: Iterable[Item], make: Callable[[Item], Made], finish: Callable[[Item, Future[Made]], End]
) -> Iterator[tuple[Item, End]]:
    """Each item with its end, in order. While one item is made, the one before it is finished.

    One is at its end before the next begins to be finished, so that there is never more than one that is made and not
    at its end. What `make` raises is raised where `finish` asks for it, what `finish` raises here. An interrupted
    caller gives what is beside GRACE seconds to end, and then waits no more.
    """
    beside: Future[tuple[Item, End]] | None = None
    try:
        for item in items:
            made: Future[Made] = Future()
            _settle(made, partial(make, item), Exception)
            if beside:
                yield beside.result()
            beside = _begin(partial(_with_end, item, made, finish))
        if beside:
            yield beside.result()
    finally:
        wait([beside] if beside else [], timeout=GRACE)


def _with_end(item: Item, made: Future[Made], finish: Callable[[Item, Future[Made]], End]) -> tuple[Item, End]:
    return item, finish(item, made)


def _begin(work: Callable[[], End]) -> Future[End]:
    """Do it in a thread that knows the run it is part of, and that keeps no process alive."""
    future: Future[End] = Future()
    Thread(target=copy_context().run, args=(_settle, future, work, BaseException), daemon=True).start()
    return future


def _settle(future: Future[End], work: Callable[[], End], kept: type[BaseException]) -> None:
    """Do it, and keep in the future what it returns or raises; what is not of the kind `kept` is raised."""
    try:
        future.set_result(work())
    except kept as e:
        traceback.clear_frames(e.__traceback__)  # their variables would hold models while the next item is made
        future.set_exception(e)
