"""Erasures on the tiny base, and a way to kill them: as quick as they are meaningless."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.erasure import ErasureOutcome, erase
from esd_core.evaluation.suite import Suite
from esd_core.machine import Machine
from esd_core.recipe import Recipe
from esd_core.student import Student

SETTINGS: dict[str, Any] = {
    "negative_guidance": 1.0,
    "iterations": 12,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "rollout_steps": 4,
    "points_per_rollout": 2,
}
_CONCEPT_FIELDS = ("erase_from", "also_known_as", "retain")


def erasure_of(name: str, **settings: Any) -> Erasure:
    """Settings of the concept and of its recipe, over the quick ones."""
    of_concept = {key: settings.pop(key) for key in _CONCEPT_FIELDS if key in settings}
    concept = Concept(name=name, kind=ConceptKind.STYLE, **of_concept)
    return Erasure(concept=concept, recipe=Recipe(**{**SETTINGS, **settings}))


def job_of(base: ResolvedBase, *erasures: Erasure) -> ErasureJob:
    return ErasureJob(base=base.id, base_digest=base.digest, erasures=erasures)


def run(
    job: ErasureJob,
    base: ResolvedBase,
    folder: Path,
    banks: Path | None = None,
    suite: Suite | None = None,
    **machine: Any,
) -> ErasureOutcome:
    return erase(job, base, folder, Machine(device="cpu", **machine), banks=banks, suite=suite, progress=False)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def run_killed(job: ErasureJob, base: ResolvedBase, folder: Path, steps: int, suite: Suite | None = None) -> None:
    """Run until so many optimizer steps are done."""
    original: Callable[..., float] = Student.step
    done = 0

    def step(self: Student, *args: Any) -> float:
        nonlocal done
        done += 1
        if done > steps:
            raise Killed
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "step", step)
        with pytest.raises(Killed):
            run(job, base, folder, suite=suite)
    assert not (folder / "outcome.json").exists()
