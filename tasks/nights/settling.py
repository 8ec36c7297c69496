"""The night's rows: what became of each concept, read back from the registry, the approval log and the bucket.

What the gates or a person allowed and nobody has published yet is published here: a version may have been waiting for
its approval, or its runner may have died before publishing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from esd_core.concept_list import ConceptList
from esd_core.errors import EsdError, ServiceUnavailable
from esd_core.evaluation.gates import judge
from tasks.approvals import approval
from tasks.approvals.approval import ApprovalRecord
from tasks.nights import reports
from tasks.nights.jobs import JobFiles
from tasks.nights.night import Findings, Settled
from tasks.nights.plan import Plan, PlannedJob, PlanStatus
from tasks.records import registry
from tasks.records.registry import RegisteredVersion
from tasks.releases import release
from tasks.settings import get_settings

log = logging.getLogger(__name__)
SHOWN = 50  # unchanged concepts whose figures and pictures a night shows again; more stand in the registry alone
AT_ONCE = 8  # concepts that are read at a time


@dataclass(frozen=True)
class Known:
    """What the registry, the log and the bucket say, each asked once."""

    versions: Mapping[str, RegisteredVersion]  # by job digest
    decisions: Mapping[tuple[str, int], ApprovalRecord]
    releases: Mapping[tuple[str, int], str]


def settle(plan: Plan, failed: Mapping[str, str], wanted: ConceptList) -> list[Settled]:
    """A row for each concept of the plan. failed: why concepts failed, by slug. Raises ServiceUnavailable."""
    versions = {version.job_digest: version for version in registry.list_versions()}
    known = Known(versions, approval.decisions(), release.released())
    shown = sum(planned.status is PlanStatus.UNCHANGED for planned in plan.jobs) <= SHOWN

    def row(planned: PlannedJob) -> Settled:
        try:
            return _row(planned, failed.get(planned.slug), known, wanted, shown)
        except ServiceUnavailable:
            raise
        except EsdError as e:
            return Settled(planned=planned, error=" ".join(str(e).split()))

    with ThreadPoolExecutor(AT_ONCE) as readers:
        return list(readers.map(row, plan.jobs))


def _row(planned: PlannedJob, failed: str | None, known: Known, wanted: ConceptList, shown: bool) -> Settled:
    version = planned.version or known.versions.get(planned.job.digest)
    planned = planned.model_copy(update={"version": version})
    if failed is not None or version is None:
        return Settled(
            planned=planned, error=failed or "its runner registered another job: is its base or suite another?"
        )
    key = version.model, version.version
    record, uri = known.decisions.get(key), known.releases.get(key)
    decided = uri is not None or (record is not None and not record.approved)
    if decided and not shown and planned.status is PlanStatus.UNCHANGED:
        return Settled(planned=planned, record=record, release=uri)
    findings = _findings(planned, version, wanted)
    if not decided:
        record = approval.approve_by_policy(version, findings.verdict, wanted.approval)
        uri = release.publish(*key).uri if record and record.approved else None
    return Settled(planned=planned, findings=findings, record=record, release=uri)


def _findings(planned: PlannedJob, version: RegisteredVersion, wanted: ConceptList) -> Findings:
    """What was measured of a version, judged by tonight's gates; its files are fetched unless they are here.

    The weights, which may be gigabytes, stay where they are.
    """
    files = JobFiles.of(get_settings().jobs_folder, planned.job)
    if not files.complete:
        for name in version.files.keys() - {registry.WEIGHTS}:
            registry.download_artifact(version, name, files.folder)
    report = reports.read_evaluation(files.evaluation)
    return Findings(version=version, report=report, verdict=judge(report, wanted.gates))
