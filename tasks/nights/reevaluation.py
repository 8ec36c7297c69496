"""A registered version measured anew, with any suite and gates. The version stays as it was registered."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from esd_core import digest
from esd_core.base_model import resolve_base
from esd_core.errors import BaseModelMismatch
from esd_core.evaluation.gates import Gates, Verdict, judge
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import load_suite
from tasks.records import registry, runs, tracking
from tasks.records.registry import EVALUATION, GRID, WEIGHTS, RegisteredVersion
from tasks.settings import get_settings


class Reevaluation(BaseModel):
    """What was found. run: the MLflow run that keeps it."""

    model_config = ConfigDict(frozen=True)

    version: RegisteredVersion
    report: EvaluationReport
    verdict: Verdict
    grid: Path
    run: str


def evaluate_again(
    model: str, version: int, suite: str, images_per_probe: int, gates: Gates, *, progress: bool
) -> Reevaluation:
    """Fetch a version's weights and measure them; raises BaseModelMismatch when its base is not what it was."""
    from esd_core.evaluation.evaluate import evaluate

    settings, registered = get_settings(), registry.get_version(model, version)
    job, base = registered.job, resolve_base(registered.job.base)
    if base.digest != job.base_digest:
        raise BaseModelMismatch(
            f"{job.base} has changed since {model} {version} was made: measure it with its own base"
        )
    measured = load_suite(suite)
    folder = settings.home / "evaluations" / digest.of_json([registered.job_digest, measured.digest])[:16]
    files = registry.download_artifacts(registered, folder / "version")
    report = evaluate(
        base,
        files[WEIGHTS],
        job.concepts,
        measured,
        images_per_probe=images_per_probe,
        gates=gates,
        cache=settings.cache_folder,
        out=folder,
        device=settings.device,
        progress=progress,
    )
    run = _recorded(registered, report, folder)
    return Reevaluation(version=registered, report=report, verdict=judge(report, gates), grid=folder / GRID, run=run)


def _recorded(registered: RegisteredVersion, report: EvaluationReport, folder: Path) -> str:
    """Keep an evaluation in an MLflow run of its own; returns the run's id."""
    version = f"{registered.model} {registered.version}"
    from mlflow.entities import Metric

    with tracking.errors(f"the evaluation of {version} cannot be recorded"):
        client = tracking.client()
        tags = {"esd.evaluates": version, "esd.suite_digest": report.suite_digest}
        experiment = runs.experiment_of(client, registered.job.base)
        run = client.create_run(experiment, run_name=f"evaluation of {version}", tags=tags)
        at = run.info.start_time
        client.log_batch(run.info.run_id, [Metric(name, float(value), at, 0) for name, value in report.metrics.items()])
        for name in (EVALUATION, GRID):
            client.log_artifact(run.info.run_id, str(folder / name))
        client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
