"""The night's report where everyone can open it: an artifact of the night's MLflow run, since no disk is shared."""

from __future__ import annotations

from pathlib import Path

from tasks.records import runs, tracking
from tasks.settings import get_settings


def keep_report(report: Path, base: str, title: str) -> str:
    """Keep a night's report in MLflow; returns the address of its page. With a database alone, that of the file.

    title: what the night's run is called from now on.
    """
    if not get_settings().mlflow_is_server:
        return report.as_uri()
    with tracking.errors("the night's report cannot be kept"):
        client = tracking.client()
        experiment, run = runs.experiment_of(client, base), runs.run_of_night(client, base)
        assert run
        client.set_tag(run, "mlflow.runName", title)
        client.log_artifact(run, str(report))
    return f"{tracking.address().rstrip('/')}/#/experiments/{experiment}/runs/{run}/artifacts/{report.name}"
