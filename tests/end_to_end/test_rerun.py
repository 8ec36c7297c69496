"""What a second night does: only what changed."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.conftest import Night

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def row(night: Night, concept: str) -> str:
    """The concept's row in the plan that the night prints first."""
    plan, _, _ = night.ended.out.partition("concepts: ")
    (found,) = (line for line in plan.splitlines() if re.match(rf"\W+{concept}\b", line))
    return found


def test_a_first_night_publishes_every_concept_once(first_night: Night) -> None:
    assert "3 concepts: 3 published" in first_night.ended.out
    assert set(first_night.esd.versions) >= {("house", 1), ("sun", 1), ("tree", 1)}
    assert not first_night.esd.left_running


def test_a_night_without_changes_does_nothing_and_says_so(first_night: Night, same_night: Night) -> None:
    assert "everything unchanged" in same_night.ended.out
    assert "3 concepts: 3 published (nothing had changed)" in same_night.ended.out
    assert same_night.files == first_night.files


def test_only_what_changed_is_done_again(same_night: Night, other_night: Night) -> None:
    assert re.search(r"1 changed, 1 unchanged, 1 retired", other_night.ended.out)
    assert "changed" in row(other_night, "house")
    assert "negative_guidance: 2.0 -> 3.0" in row(other_night, "house")
    assert "unchanged" in row(other_night, "sun")
    assert set(other_night.esd.versions) == {("house", 1), ("house", 2), ("sun", 1), ("tree", 1)}
    assert other_night.files.items() > same_night.files.items()
    assert len({path.parent for path in other_night.files.keys() - same_night.files.keys()}) == 1


def test_a_concept_taken_off_the_list_is_reported_and_stays_published(other_night: Night) -> None:
    assert "retired" in row(other_night, "tree")
    assert "stays as it is" in row(other_night, "tree")
    assert "s3://" in next(line for line in other_night.esd("status").out.splitlines() if "-tree" in line)
