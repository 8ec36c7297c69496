"""The night's plan: what is new, changed, unchanged or retired, by comparing the list with the registry.

A job's digest names its result, so a job that is registered under its digest is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concept_list import ConceptList
from esd_core.concepts import ErasureJob
from esd_core.evaluation.suite import Suite, load_suite
from tasks.nights.jobs import jobs_of
from tasks.records import registry
from tasks.records.registry import RegisteredVersion, model_name


class PlanStatus(StrEnum):
    NEW = "new"  # never registered for this base
    CHANGED = "changed"  # registered with another recipe, or from other base weights
    UNCHANGED = "unchanged"  # registered under this very digest
    RETIRED = "retired"  # registered, but no longer on the list


class PlannedJob(BaseModel):
    """One concept of the list tonight. `comparison` is erased and evaluated for the report only.

    again: whatever is there of it is done again.
    """

    model_config = ConfigDict(frozen=True)

    status: PlanStatus
    job: ErasureJob
    comparison: ErasureJob | None = None
    changes: tuple[str, ...] = ()
    version: RegisteredVersion | None = None
    again: bool = False

    @property
    def slug(self) -> str:
        return self.job.slug


class Plan(BaseModel):
    model_config = ConfigDict(frozen=True)

    base: str
    jobs: tuple[PlannedJob, ...]
    retired: tuple[RegisteredVersion, ...] = ()

    @property
    def to_do(self) -> tuple[PlannedJob, ...]:
        """What is new or changed."""
        return tuple(planned for planned in self.jobs if planned.status is not PlanStatus.UNCHANGED)

    @property
    def all_unchanged(self) -> bool:
        return all(planned.status is PlanStatus.UNCHANGED for planned in self.jobs)

    @property
    def sentence(self) -> str:
        """E.g. "2 new, 1 unchanged"; a person reads it at a glance."""
        statuses = [planned.status for planned in self.jobs] + [PlanStatus.RETIRED] * len(self.retired)
        counts = [f"{statuses.count(status)} {status.value}" for status in PlanStatus if status in statuses]
        return "everything unchanged" if self.all_unchanged and not self.retired else ", ".join(counts)


def plan_tonight(wanted: ConceptList, *, force: bool = False) -> Plan:
    """Resolve the base, check that the suite measures all that is judged, and compare the list with the registry.

    force: everything on the list is done again.
    """
    base = resolve_base(wanted.base)
    suite = load_suite(wanted.suite)
    for entry in wanted.concepts:
        suite.probes_of(entry.erasure.concept)
    wanted.gates.check(suite)
    plan = plan_night(wanted, base, registry.list_versions(), suite)
    return plan.model_copy(update={"jobs": tuple(map(_again, plan.jobs))}) if force else plan


def plan_night(
    wanted: ConceptList, base: ResolvedBase, known: Sequence[RegisteredVersion], suite: Suite | None = None
) -> Plan:
    """Compare the list with what is registered. `known` are all versions, of every base, in any order."""
    latest = {k.model: k for k in sorted(known, key=lambda k: k.version)}
    made = {k.job_digest: k for k in sorted(known, key=lambda k: k.version)}
    jobs = [
        _planned(job, comparison, made.get(job.digest), latest.get(model_name(job)))
        for job, comparison in jobs_of(wanted, base, suite)
    ]
    models = {model_name(planned.job) for planned in jobs}
    gone = [latest[model] for model in sorted(latest.keys() - models)]
    return Plan(base=base.id, jobs=tuple(jobs), retired=tuple(k for k in gone if k.job.base == base.id))


def _planned(
    job: ErasureJob,
    comparison: ErasureJob | None,
    version: RegisteredVersion | None,
    predecessor: RegisteredVersion | None,
) -> PlannedJob:
    """version: the latest that the job has become already. predecessor: the latest of its model."""
    if version:
        if version.job == job:
            version = version.model_copy(update={"job": job})  # a thousand of them, held twice, take megabytes
        return PlannedJob(status=PlanStatus.UNCHANGED, job=job, comparison=comparison, version=version)
    if predecessor is None:
        return PlannedJob(status=PlanStatus.NEW, job=job, comparison=comparison)
    changes = differences(predecessor.job, job)
    return PlannedJob(status=PlanStatus.CHANGED, job=job, comparison=comparison, changes=changes)


def _again(planned: PlannedJob) -> PlannedJob:
    if planned.version is None:
        return planned.model_copy(update={"again": True})
    asked = {"status": PlanStatus.CHANGED, "changes": ("done again, as asked",), "version": None, "again": True}
    return planned.model_copy(update=asked)


def differences(before: ErasureJob, after: ErasureJob) -> tuple[str, ...]:
    """What distinguishes two jobs, each as "name: old -> new"."""
    base = ("base model: other weights",) if before.base_digest != after.base_digest else ()
    old, new = before.settings, after.settings
    changed = [name for name in new if old.get(name) != new[name]]
    return base + tuple(f"{name}: {_told(name, old.get(name))} -> {_told(name, new[name])}" for name in changed)


def _told(name: str, value: Any) -> str:
    """A setting's value; what is not set is measured, erased from everything, or judged by nobody."""
    if value is None:
        return {"erase_from": "everything", "judge": "nobody"}.get(name.rpartition(".")[2], "auto")
    return str(value)
