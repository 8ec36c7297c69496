"""The night's steps as Prefect tasks: each is one call of the core and at most one outside system.

They exchange jobs, digests and paths; the files lie in the job's folder, so a step that is done is found done. What
loads torch is imported by the steps that use it: a night without changes does without.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concept_list import ApprovalPolicy, ConceptList
from esd_core.concepts import ErasureJob
from esd_core.errors import BaseModelMismatch, OutOfMemory, ServiceUnavailable
from esd_core.evaluation.gates import Gates, Verdict, judge
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import load_suite
from tasks.approvals import approval
from tasks.approvals.approval import ApprovalRecord
from tasks.nights import artifacts, concept_runs, lists, night_record, reevaluation, reports, settling
from tasks.nights.jobs import JobFiles
from tasks.nights.night import Night, Settled
from tasks.nights.plan import Plan, PlannedJob, plan_tonight
from tasks.nights.reevaluation import Reevaluation
from tasks.records import registering
from tasks.records.registry import RegisteredVersion
from tasks.records.system_metrics import watched
from tasks.releases import release
from tasks.releases.release import Release
from tasks.s3.storage import open_bucket
from tasks.settings import get_settings

if TYPE_CHECKING:
    from esd_core.erasure import ErasureOutcome

log = logging.getLogger(__name__)


async def _server_was_away(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), ServiceUnavailable)


async def _memory_ran_out(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), OutOfMemory)


# Only what can pass is worth another try: a server that does not answer, memory that another process may give back.
ONCE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
PAUSES = [2, 5, 15, 30, 60]  # seconds before each further try
OUTSIDE: dict[str, Any] = {
    **ONCE,
    "retries": len(PAUSES),
    "retry_delay_seconds": PAUSES,
    "retry_condition_fn": _server_was_away,
}
WORK: dict[str, Any] = {**ONCE, "retries": 1, "retry_delay_seconds": 10, "retry_condition_fn": _memory_ran_out}


def _bars() -> bool:
    """Progress bars are for people; in a log they are noise."""
    return sys.stderr.isatty()


def _files(job: ErasureJob) -> JobFiles:
    return JobFiles.of(get_settings().jobs_folder, job)


def _base(job: ErasureJob) -> ResolvedBase:
    """The job's base model; raises BaseModelMismatch when its files have changed since the plan was made."""
    base = resolve_base(job.base)
    if base.digest != job.base_digest:
        raise BaseModelMismatch(f"{job.base} has changed since the plan was made: run again to plan anew")
    return base


@task(task_run_name="read list", **OUTSIDE)
def read_list(parameters: dict[str, Any]) -> ConceptList:
    artifacts.show_what_is_logged()
    return lists.list_of(parameters)


@task(task_run_name="plan", **OUTSIDE)
def plan(wanted: ConceptList, force: bool = False) -> Plan:
    """What is to be done; raises at once when its results could not be stored in the morning."""
    open_bucket().check()
    return plan_tonight(wanted, force=force)


@task(task_run_name="start {planned.slug} over", **ONCE)
def start_over(planned: PlannedJob) -> None:
    """Forget what this machine has of a concept; banks and the base's images stay, their digests are checked."""
    own = [planned.job, *([planned.comparison] if planned.comparison else [])]
    for job in [*own, *planned.job.trainings]:
        _files(job).start_over(concept_runs.night())


@task(task_run_name="erase {job.slug} ({job.method})", **WORK)
def erase(job: ErasureJob, wanted: ConceptList) -> ErasureOutcome:
    from esd_core.erasure import erase as erase_job
    from esd_core.machine import pass_over_libraries

    pass_over_libraries()
    settings, folder = get_settings(), _files(job).folder
    with watched(folder):
        outcome = erase_job(
            job,
            _base(job),
            folder,
            settings.machine,
            banks=settings.banks_folder,
            alone=settings.jobs_folder,
            suite=load_suite(wanted.suite),
            progress=_bars(),
        )
    log.info("%s: erased (%s) in %.0f s", job.name, job.method, outcome.seconds)
    return outcome


@task(task_run_name="evaluate {job.slug} ({job.method})", **WORK)
def evaluate(job: ErasureJob, wanted: ConceptList) -> EvaluationReport:
    from esd_core.evaluation.evaluate import evaluate as evaluate_weights
    from esd_core.memory import memory_errors

    settings, files = get_settings(), _files(job)
    with watched(files.folder), memory_errors():
        return evaluate_weights(
            _base(job),
            files.weights,
            job.concepts,
            load_suite(wanted.suite),
            images_per_probe=wanted.images_per_probe,
            gates=wanted.gates,
            cache=settings.cache_folder,
            out=files.folder,
            device=settings.device,
            progress=_bars(),
        )


@task(task_run_name="compare {planned.slug}", **ONCE)
def keep_comparison(planned: PlannedJob, report: EvaluationReport) -> None:
    reports.write_comparison(get_settings().jobs_folder, planned, report)


@task(task_run_name="judge {report.concept}", **ONCE)
def judge_by_gates(report: EvaluationReport, gates: Gates) -> Verdict:
    verdict = judge(report, gates)
    log.info(
        "%s: gates %s: %s", report.concept, "passed" if verdict.passed else "not passed", "; ".join(verdict.reasons)
    )
    return verdict


@task(task_run_name="report {planned.slug}", **ONCE)
def report_concept(planned: PlannedJob, verdict: Verdict) -> Path:
    reports.write_concept_report(get_settings().jobs_folder, planned, verdict)
    return _files(planned.job).grid


@task(task_run_name="register {outcome.job.slug}", **OUTSIDE)
def register(
    outcome: ErasureOutcome, report: EvaluationReport, verdict: Verdict, again: bool = False
) -> RegisteredVersion:
    files = _files(outcome.job).artifacts
    return registering.register_version(outcome.job, outcome, report, verdict, files, again=again)


@task(task_run_name="evaluate {model} {version}", **OUTSIDE)
def evaluate_again(model: str, version: int, suite: str, images_per_probe: int, gates: Gates) -> Reevaluation:
    artifacts.show_what_is_logged()
    return reevaluation.evaluate_again(model, version, suite, images_per_probe, gates, progress=_bars())


@task(task_run_name="approve {version.model} by policy", **OUTSIDE)
def approve_by_policy(version: RegisteredVersion, verdict: Verdict, policy: ApprovalPolicy) -> ApprovalRecord | None:
    return approval.approve_by_policy(version, verdict, policy)


@task(task_run_name="publish {model} {version}", **OUTSIDE)
def publish(model: str, version: int) -> Release:
    return release.publish(model, version)


@task(task_run_name="settle", **OUTSIDE)
def settle(plan: Plan, failed: dict[str, str], wanted: ConceptList) -> list[Settled]:
    """What became of each concept; what was allowed and nobody published yet is published."""
    return settling.settle(plan, failed, wanted)


@task(task_run_name="write report", **ONCE)
def report_night(night: Night) -> Night:
    """The night, with the path of its report."""
    settings = get_settings()
    path = settings.home / "report.html"
    reports.write_night_report(path, settings.jobs_folder, night)
    return night.model_copy(update={"report": path})


@task(task_run_name="keep report", **OUTSIDE)
def keep_report(night: Night) -> str:
    """Address of the night's report, for whoever looks at it from another machine."""
    assert night.report is not None
    return night_record.keep_report(night.report, night.base, str(runtime.flow_run.name))
