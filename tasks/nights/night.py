"""What a night did: one row per concept, and the sentence that sums them up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.results import EvaluationReport
from tasks.approvals.approval import ApprovalRecord
from tasks.nights.plan import Plan, PlannedJob, PlanStatus
from tasks.records.registry import RegisteredVersion

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


class Findings(BaseModel):
    """A registered version, and what was measured of it."""

    model_config = ConfigDict(frozen=True)

    version: RegisteredVersion
    report: EvaluationReport
    verdict: Verdict


class Settled(BaseModel):
    """One concept at the end of the night; `error` says in one line why it failed. release: its address in S3."""

    model_config = ConfigDict(frozen=True)

    planned: PlannedJob
    findings: Findings | None = None
    record: ApprovalRecord | None = None
    release: str | None = None
    error: str | None = None

    @property
    def concept(self) -> str:
        return self.planned.job.name

    @property
    def status(self) -> PlanStatus:
        return self.planned.status

    @property
    def tonight(self) -> str:
        """Whether there was work for it: done, failed or skipped."""
        if self.error:
            return "failed"
        return "skipped" if self.status is PlanStatus.UNCHANGED else "done"

    @property
    def outcome(self) -> str:
        """How far this concept came, in a few words."""
        known = self.planned.version
        if self.error or not known:
            return "failed"
        if self.release and not (self.record and not self.record.approved):
            return "published"
        if self.record:
            return f"{self.record.decision.value} by {self.record.by}"
        passed = self.findings.verdict.passed if self.findings else known.passed
        return "waits for approval" if passed else "gates not passed"

    @property
    def version(self) -> str:
        known = self.planned.version
        return f"{known.model} {known.version}" if known else ""

    @property
    def erased(self) -> str:
        """The erased concept's worst probe, before and after, with the interval of after, and how many are pictures."""
        if not self.findings:
            return ""
        worst, told = self.findings.report.worst, self.findings.report.coherent_of_erased
        interval, pictures = worst.after_interval, f", {told.after:.0%} pictures" if told else ""
        return f"{worst.before:.0%} -> {worst.after:.0%} ({interval.lower:.0%} to {interval.upper:.0%}){pictures}"

    @property
    def others(self) -> str:
        """Mean rate of all other probes, before and after, with the bounds of its change in points."""
        if not self.findings:
            return ""
        report = self.findings.report
        bounds, metrics = report.drop_bounds(), report.metrics
        change = f"{-100 * bounds.upper:+.1f} to {-100 * bounds.lower:+.1f}"
        return f"{metrics['others_before']:.1%} -> {metrics['others_after']:.1%} ({change})"


class Night(BaseModel):
    """A whole night's result."""

    model_config = ConfigDict(frozen=True)

    base: str
    settled: tuple[Settled, ...]
    retired: tuple[str, ...] = ()  # models whose concepts are no longer on the list
    report: Path | None = None

    @classmethod
    def of(cls, plan: Plan, settled: list[Settled]) -> Night:
        return cls(base=plan.base, settled=tuple(settled), retired=tuple(k.model for k in plan.retired))

    @property
    def failed(self) -> tuple[Settled, ...]:
        return tuple(row for row in self.settled if row.error)

    @property
    def sentence(self) -> str:
        """E.g. "3 concepts: 2 published, 1 gates not passed"."""
        counts = Counter(row.outcome for row in self.settled)
        idle = all(row.status is PlanStatus.UNCHANGED for row in self.settled) and not self.failed
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"{len(self.settled)} concepts: {outcomes}" + (" (nothing had changed)" if idle else "")


class NightFailed(Exception):
    """Some concepts failed; the night says which."""

    def __init__(self, night: Night) -> None:
        super().__init__(night.sentence)
        self.night = night


def night_of(state: State[Any]) -> Night:
    """The night that a run ended with, whether concepts failed or not; raises what kept the run from ending."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, NightFailed):
        return result.night
    if isinstance(result, BaseException):
        raise result
    return Night.model_validate(result)


def reason(state: State[Any]) -> str:
    """Why a run failed, in one line: what it raised, or what its last state says."""
    raised = state.result(raise_on_failure=False)
    said = str(raised) if isinstance(raised, BaseException) else str(state.message)
    return (" ".join(said.split()) or type(raised).__name__)[:500]
