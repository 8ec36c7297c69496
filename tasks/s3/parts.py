"""Files in parts: how they are cut, worked on side by side, and counted by a progress bar."""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

MOST_PARTS = 10_000  # S3's own limit
WORKERS = 8

T = TypeVar("T")
Advance = Callable[[int], object]  # told of bytes as they are done


@dataclass(frozen=True)
class Part:
    """One part: its number from 1, and the bytes [start, end) of the file."""

    number: int
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def parts_of(size: int, part_size: int) -> list[Part]:
    """A file's parts; larger than asked when there would be more than S3 takes."""
    length = max(part_size, math.ceil(size / MOST_PARTS))
    return [Part(i + 1, start, min(start + length, size)) for i, start in enumerate(range(0, size, length))]


def side_by_side(work: Callable[[Part], T], parts: Iterable[Part]) -> Iterator[T]:
    """Do the parts, WORKERS at a time, and yield their results in order; when one fails, those not begun are left.

    Only as many again wait their turn: a process that is told to end does what was handed to its threads first.
    """
    left = iter(parts)
    with ThreadPoolExecutor(WORKERS) as workers:
        tasks = deque(workers.submit(work, part) for part in islice(left, 2 * WORKERS))
        try:
            while tasks:
                yield tasks.popleft().result()
                tasks.extend(workers.submit(work, part) for part in islice(left, 1))
        finally:
            for task in tasks:
                task.cancel()


class Buffers:
    """Memory that parts are read into, used again and again: new memory for each costs more than reading into it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: SimpleQueue[bytearray] = SimpleQueue()

    @contextmanager
    def taken(self, size: int) -> Iterator[bytearray]:
        """A buffer of exactly so many bytes."""
        try:
            buffer = self._idle.get_nowait() if size == self._size else bytearray(size)
        except Empty:
            buffer = bytearray(size)
        try:
            yield buffer
        finally:
            if size == self._size:
                self._idle.put(buffer)


@contextmanager
def bar(name: str, size: int, progress: bool) -> Iterator[Advance]:
    from tqdm import tqdm

    with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=not progress, leave=False) as shown:
        yield shown.update


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
