"""Three nights on one home, each run once for all tests: the first, one without changes, one with changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.command import Ended, Esd, write_list
from tests.tiny_night import QUICK, write_suite

HOUSE: dict[str, object] = {"name": "house", "kind": "object", **QUICK}
TREE: dict[str, object] = {"name": "tree", "kind": "style", **QUICK}
# long enough to be killed in: ten checkpoints, seconds between the first and the end
SUN: dict[str, object] = {"name": "sun", "kind": "global", **QUICK, "iterations": 240, "points_per_rollout": 4}


@dataclass(frozen=True)
class Night:
    """A finished `esd run`. `files`: when each file of the job folders was last written, in ns."""

    esd: Esd
    ended: Ended
    files: dict[Path, int]

    @classmethod
    def of(cls, esd: Esd, concept_list: Path) -> Night:
        ended = esd("run", concept_list)
        files = [path for path in (esd.home / "jobs").rglob("*") if path.is_file()]
        return cls(esd, ended, {path: path.stat().st_mtime_ns for path in files})


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def concept_list(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, suite: Path) -> Path:
    """house, then sun, then tree."""
    return write_list(tmp_path_factory.mktemp("list") / "list.yaml", tiny_base, suite, "gates", HOUSE, SUN, TREE)


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory, concept_list: Path) -> Night:
    """Three concepts erased, approved by their gates, and published."""
    return Night.of(Esd(tmp_path_factory.mktemp("nights") / "home"), concept_list)


@pytest.fixture(scope="session")
def same_night(first_night: Night, concept_list: Path) -> Night:
    """The same list again."""
    return Night.of(first_night.esd, concept_list)


@pytest.fixture(scope="session")
def other_night(same_night: Night, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, suite: Path) -> Night:
    """house with another eta, sun as before, tree taken off the list; from now on a person approves."""
    path = tmp_path_factory.mktemp("list") / "list.yaml"
    changed = write_list(path, tiny_base, suite, "manual", {**HOUSE, "negative_guidance": 3.0}, SUN)
    return Night.of(same_night.esd, changed)
