"""HTML reports from the files in job folders: one for each concept, one for the night."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from esd_core import digest
from esd_core.errors import EvaluationError
from esd_core.evaluation.gates import Verdict
from esd_core.evaluation.report import JobSection, write_job_report, write_run_report
from esd_core.evaluation.results import EvaluationReport
from esd_core.merge_rounds import Round
from esd_core.tuning import Tuned
from tasks.nights.jobs import JobFiles
from tasks.nights.night import Night, Settled
from tasks.nights.plan import PlannedJob


class Costs(BaseModel):
    """The part of an erasure's outcome that a report shows; reading it needs no torch."""

    unet_evaluations: int
    seconds: float
    peak_memory: int | None = None
    tuned: tuple[Tuned, ...] = ()
    merging: tuple[Round, ...] = ()


def write_comparison(jobs_folder: Path, planned: PlannedJob, report: EvaluationReport) -> None:
    """Put the evaluation of the comparison beside the job it is compared with."""
    assert planned.comparison is not None
    path = JobFiles.of(jobs_folder, planned.job).comparison(planned.comparison.subsets[0])
    digest.write_text(path, report.model_dump_json(indent=1))


def write_concept_report(jobs_folder: Path, planned: PlannedJob, verdict: Verdict) -> None:
    """Write report.html of a job that is erased and evaluated."""
    write_job_report(JobFiles.of(jobs_folder, planned.job).report, _section(jobs_folder, planned, verdict, {}))


def write_night_report(path: Path, jobs_folder: Path, night: Night) -> None:
    """The night's report over every concept that did not fail."""
    write_run_report(path, night.sentence, [s for row in night.settled if (s := _settled_section(jobs_folder, row))])


def _settled_section(jobs_folder: Path, row: Settled) -> JobSection | None:
    if not row.findings or not JobFiles.of(jobs_folder, row.planned.job).complete:
        return None
    version, release = row.findings.version, row.release
    page = {f"{version.model} {version.version}": version.page} if version.page else {}
    released = {release: release} if release else {}
    return _section(jobs_folder, row.planned, row.findings.verdict, {**page, **released})


def _section(jobs_folder: Path, planned: PlannedJob, verdict: Verdict, links: dict[str, str]) -> JobSection:
    files = JobFiles.of(jobs_folder, planned.job)
    costs = Costs.model_validate_json(files.outcome.read_text(encoding="utf-8"))
    compared = planned.comparison and files.comparison(planned.comparison.subsets[0])
    return JobSection(
        job=planned.job,
        report=read_evaluation(files.evaluation),
        verdict=verdict,
        grid=files.grid,
        loss_history=files.history,
        unet_evaluations=costs.unet_evaluations,
        seconds=costs.seconds,
        peak_memory=costs.peak_memory,
        tuned=costs.tuned,
        merging=costs.merging,
        comparison=read_evaluation(compared) if compared and compared.is_file() else None,
        comparison_name=planned.comparison.method if planned.comparison else "",
        links=links,
    )


def read_evaluation(path: Path) -> EvaluationReport:
    """Raises EvaluationError for what an older release of this software registered; schemas 2 and 3 are read."""
    try:
        return EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as e:
        raise EvaluationError(
            f"{path} is no evaluation of schema 2 or 3: give the concept another seed to erase and measure it again"
        ) from e
