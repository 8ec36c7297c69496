"""Which point is taught when: pure functions of step numbers and seeds, so that training can continue anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """The point number `index` that is drawn of lesson number `lesson`."""

    lesson: int
    index: int


def next_in_turn(done: Sequence[int], limits: Sequence[int], resting: Sequence[bool]) -> int | None:
    """Whose step is next: the concept that is least advanced, of those not resting or at their limit; None at the end.

    >>> next_in_turn([1, 1], [2, 4], [False, False])
    1
    """
    open_ones = [i for i in range(len(done)) if done[i] < limits[i] and not resting[i]]
    return min(open_ones, key=lambda i: (done[i] / limits[i], i), default=None)


def rows_of_step(step: int, batch_size: int, erased: Sequence[int], kept: Sequence[int]) -> list[Row]:
    """The rows of a concept's step number `step`: batch_size of its names in turn, and as many of what it retains.

    erased, kept: numbers of its lessons; kept may be empty.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    groups = [group for group in (erased, kept) if group]
    return [Row(group[place % len(group)], place // len(group)) for group in groups for place in places]


def rows_needed(steps: int, batch_size: int, group: Sequence[int], position: int) -> int:
    """How many rows the lesson at `position` of its group is drawn for in so many steps."""
    return max(0, -(-(steps * batch_size - position) // len(group)))


def shuffled(index: int, size: int, seed: int) -> int:
    """Which of `size` points is drawn as number `index`: each pass over all of them is shuffled on its own."""
    passed, place = divmod(index, size)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + passed)
    return int(torch.randperm(size, generator=generator)[place])
