"""The MLflow run of a job: parameters, figures, curves and files. Everything may be written twice without a change."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from esd_core.concepts import ErasureJob, slug_of
from esd_core.evaluation.results import EvaluationReport
from tasks import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from esd_core.erasure import ErasureOutcome
    from esd_core.tuning import Tuned

_BATCH = 1000  # metrics that MLflow takes in one call


def run_of(client: MlflowClient, job: ErasureJob) -> Run:
    """The job's run: what an interrupted attempt left, or a new one."""
    experiment = tracking.experiment_id(client)
    left = client.search_runs([experiment], f"tags.`esd.job_digest` = '{job.digest}'", max_results=1)
    if left:
        return left[0]
    tags = {"esd.job_digest": job.digest, "esd.base": job.base, "esd.concept": job.name}
    return client.create_run(experiment, run_name=f"{job.slug} {job.digest[:8]}", tags=tags)


def log_run(client: MlflowClient, run: Run, job: ErasureJob, outcome: ErasureOutcome, report: EvaluationReport) -> None:
    """Parameters, figures and the loss of every step; the fixed timestamp makes writing them twice change nothing."""
    from mlflow.entities import Metric, Param

    at = run.info.start_time
    settings = {**job.settings, "base": job.base_digest}
    costs = {
        "unet_evaluations": outcome.unet_evaluations,
        "forward_equivalents": outcome.forward_equivalents,
        "seconds": outcome.seconds,
        "final_loss": outcome.final_loss,
        **({"peak_memory": outcome.peak_memory} if outcome.peak_memory else {}),
    }
    figures = {**report.metrics, **costs}
    for probe in (*report.erased, *report.others):
        name = " ".join(re.sub(r"[^\w\-./ ]", " ", probe.probe).split())  # what MLflow takes
        for when, interval in (("before", probe.before_interval), ("after", probe.after_interval)):
            figures |= {f"{when}_lower/{name}": interval.lower, f"{when}_upper/{name}": interval.upper}
        figures |= {f"before/{name}": probe.before, f"after/{name}": probe.after, f"images/{name}": probe.images}
    metrics = [Metric(name, float(value), at, 0) for name, value in figures.items()]
    steps = (json.loads(line) for line in outcome.history.read_text(encoding="utf-8").splitlines())
    metrics += [Metric("loss", float(step["loss"]), at, int(step["step"])) for step in steps]
    metrics += [metric for tuned in outcome.tuned for metric in _tuning_metrics(tuned, at)]
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in settings.items()])
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + _BATCH])


def _tuning_metrics(tuned: Tuned, at: int) -> list[Metric]:
    """What was chosen for a concept, and every look on the way."""
    from mlflow.entities import Metric

    name = slug_of(tuned.concept)
    chosen = {"learning_rate": tuned.learning_rate, "eta": tuned.negative_guidance, "iterations": tuned.iterations}
    looks = [(f"tuned/{name}/{key}", value, 0) for key, value in chosen.items()]
    for check in tuned.checks:
        looks.append((f"tuned/{name}/remainder", check.remainder, check.step))
        looks.append((f"tuned/{name}/interference", check.interference, check.step))
        if check.shown is not None:
            looks.append((f"tuned/{name}/shown", check.shown, check.step))
    return [Metric(key, float(value), at, step) for key, value, step in looks]


def log_files(client: MlflowClient, run: Run, files: Mapping[str, Path]) -> None:
    """Upload files under the names they have in `files`, which need not be their names on disk."""
    with tempfile.TemporaryDirectory(prefix="esd-register-") as folder:
        for name, path in files.items():
            link = Path(folder) / name
            link.symlink_to(path.resolve())
            client.log_artifact(run.info.run_id, str(link))


def log_text(client: MlflowClient, run: Run, name: str, text: str) -> None:
    """Upload a small file."""
    with tempfile.TemporaryDirectory(prefix="esd-register-") as folder:
        path = Path(folder) / name
        path.write_bytes(text.encode())
        client.log_artifact(run.info.run_id, str(path))
