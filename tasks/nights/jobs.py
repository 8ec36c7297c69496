"""From a row of the list to a job, and where a job's files lie.

A job's folder holds the same files under the same names as the artifacts of the version it becomes, so that a version
registered by another machine is brought back by downloading its artifacts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esd_core import digest
from esd_core.base_model import ResolvedBase
from esd_core.concept_list import ConceptList, ListMode
from esd_core.concepts import ConceptEntry, ErasureJob
from esd_core.evaluation.suite import Suite
from esd_core.evaluation.witness import judge_of
from esd_core.recipe import ParameterSubset


def job_of(
    entries: Sequence[ConceptEntry], base: ResolvedBase, suite: Suite | None = None, *, merged: bool = False
) -> ErasureJob:
    """One model without all these concepts. suite: whose classifiers look at images before an erasure stops."""
    erasures, merged = tuple(entry.erasure for entry in entries), merged and len(entries) > 1
    judge = judge_of(suite, erasures, merged)
    return ErasureJob(base=base.id, base_digest=base.digest, erasures=erasures, merged=merged, judge=judge)


def jobs_of(
    wanted: ConceptList, base: ResolvedBase, suite: Suite | None = None
) -> list[tuple[ErasureJob, ErasureJob | None]]:
    """The list's jobs, each with the job it is compared with, if any: a job for each concept, or one for all."""
    if wanted.mode is not ListMode.SEPARATE:
        return [(job_of(wanted.concepts, base, suite, merged=wanted.mode is ListMode.MERGED), None)]
    return [(job_of([entry], base, suite), comparison_of(entry, base, suite)) for entry in wanted.concepts]


def comparison_of(entry: ConceptEntry, base: ResolvedBase, suite: Suite | None = None) -> ErasureJob | None:
    """The same concept with the subset it is compared with; None when the list asks for no comparison."""
    if entry.compare_with in (None, entry.erasure.recipe.subset):
        return None
    return job_of([entry.model_copy(update={"subset": entry.compare_with})], base, suite)


@dataclass(frozen=True)
class JobFiles:
    """The files of one job in its folder. The erasure's bank and checkpoints lie beside them, never registered."""

    folder: Path

    @classmethod
    def of(cls, jobs_folder: Path, job: ErasureJob) -> JobFiles:
        return cls(jobs_folder / job.digest[:16])

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def outcome(self) -> Path:
        """What the erasure made and cost."""
        return self.folder / "outcome.json"

    @property
    def history(self) -> Path:
        """Loss of every step, JSON lines."""
        return self.folder / "history.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    def comparison(self, subset: ParameterSubset) -> Path:
        """Evaluation of the same concept erased with another subset; only where the list asks for it."""
        return self.folder / f"comparison-{subset.value}.json"

    @property
    def grid(self) -> Path:
        return self.folder / "grid.png"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def artifacts(self) -> dict[str, Path]:
        """What is registered, by artifact name."""
        files = [self.weights, self.outcome, self.history, self.evaluation, self.grid, self.report]
        compared = sorted(self.folder.glob("comparison-*.json"))
        return {path.name: path for path in [*files, *compared] if path.is_file()}

    def start_over(self, night: str) -> None:
        """Forget all of it, unless it was made in this night: another runner may be where one of it died."""
        asked = self.folder / "asked-by"
        if asked.is_file() and asked.read_text(encoding="utf-8") == night:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        digest.write_text(asked, night)

    @property
    def complete(self) -> bool:
        """Whether everything that a report shows is here."""
        return all(path.is_file() for path in (self.outcome, self.history, self.evaluation, self.grid))
