"""The night's report where everyone can open it: an artifact of an MLflow run, since no disk is shared."""

from __future__ import annotations

from pathlib import Path

from tasks import tracking
from tasks.settings import get_settings


def keep_report(report: Path, title: str) -> str:
    """Keep a night's report in MLflow; returns the address of its page. With a database alone, that of the file."""
    settings = get_settings()
    if not settings.mlflow_is_server:
        return report.as_uri()
    with tracking.errors("the night's report cannot be kept"):
        client = tracking.client()
        experiment = tracking.experiment_id(client)
        run = client.create_run(experiment, run_name=title, tags={"esd.night": title}).info.run_id
        client.log_artifact(run, str(report))
        client.set_terminated(run)
    return f"{settings.mlflow_tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}/artifacts/{report.name}"
