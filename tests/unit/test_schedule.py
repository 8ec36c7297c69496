"""The order of points: fair, complete, and known from step numbers alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from esd_core.schedule import Row, next_in_turn, rows_needed, rows_of_step, shuffled


def interleaved(counts: list[int]) -> list[int]:
    """Whose turn it is, until every concept has had its steps."""
    done, order = [0] * len(counts), []
    while (chosen := next_in_turn(done, counts, [False] * len(counts))) is not None:
        done[chosen] += 1
        order.append(chosen)
    return order


counts_of_steps = st.lists(st.integers(0, 40), min_size=1, max_size=6)
small = st.integers(1, 6)


@given(counts_of_steps)
def test_every_concept_gets_all_its_steps(counts: list[int]) -> None:
    order = interleaved(counts)
    assert [order.count(concept) for concept in range(len(counts))] == counts
    assert len(order) == sum(counts)


@given(counts_of_steps)
def test_no_concept_is_ahead_of_another_by_more_than_one_of_its_steps(counts: list[int]) -> None:
    order = interleaved(counts)
    for done in range(1, len(order) + 1):
        taken = Counter(order[:done])
        share = {concept: taken[concept] / count for concept, count in enumerate(counts) if count}
        assert all(share[concept] - min(share.values()) <= 1 / counts[concept] + 1e-9 for concept in share)


@given(st.integers(1, 30), small)
def test_equal_concepts_take_turns(steps: int, concepts: int) -> None:
    assert interleaved([steps] * concepts) == list(range(concepts)) * steps


def test_a_resting_concept_is_passed_over() -> None:
    assert next_in_turn([0, 5], [10, 10], [True, False]) == 1
    assert next_in_turn([0, 5], [10, 10], [True, True]) is None


@given(steps=st.integers(1, 30), batch=small, erased=small, kept=st.integers(0, 4))
def test_the_rows_of_all_steps_are_those_needed_each_once(steps: int, batch: int, erased: int, kept: int) -> None:
    names, retained = range(erased), range(erased, erased + kept)
    drawn = Counter(row for step in range(steps) for row in rows_of_step(step, batch, names, retained))
    needed = {
        Row(lesson, index)
        for group in (names, retained)
        for position, lesson in enumerate(group)
        for index in range(rows_needed(steps, batch, group, position))
    }
    assert set(drawn) == needed
    assert set(drawn.values()) == {1}


@given(step=st.integers(0, 1000), batch=small, erased=small, kept=st.integers(0, 4))
def test_a_step_has_a_batch_of_its_names_and_as_many_of_what_it_keeps(
    step: int, batch: int, erased: int, kept: int
) -> None:
    rows = rows_of_step(step, batch, range(erased), range(erased, erased + kept))
    assert sum(row.lesson < erased for row in rows) == batch
    assert sum(row.lesson >= erased for row in rows) == (batch if kept else 0)


@given(steps=st.integers(1, 60), batch=small, erased=small)
def test_names_of_a_concept_are_drawn_equally_often(steps: int, batch: int, erased: int) -> None:
    needed = [rows_needed(steps, batch, range(erased), position) for position in range(erased)]
    assert sum(needed) == steps * batch
    assert max(needed) - min(needed) <= 1


@given(size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), passes=st.integers(1, 3))
def test_each_pass_is_a_permutation_of_all_points(size: int, seed: int, passes: int) -> None:
    for turn in range(passes):
        drawn = [shuffled(index, size, seed) for index in range(turn * size, (turn + 1) * size)]
        assert sorted(drawn) == list(range(size))


def test_passes_and_seeds_are_shuffled_on_their_own() -> None:
    first, second = ([shuffled(index, 30, 0) for index in span] for span in (range(30), range(30, 60)))
    other = [shuffled(index, 30, 1) for index in range(30)]
    assert first != second
    assert first != other
    assert first == [shuffled(index, 30, 0) for index in range(30)]
