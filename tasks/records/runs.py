"""The MLflow run of a job: parameters, figures, curves and files. Everything may be written twice without a change."""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from collections.abc import Container, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from esd_core import digest
from esd_core.concepts import MINIATURE, ErasureJob, slug_of
from esd_core.evaluation.results import EvaluationReport
from tasks.records import system_metrics, tracking
from tasks.settings import get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

    from esd_core.erasure import ErasureOutcome
    from esd_core.tuning import Tuned

log = logging.getLogger(__name__)

NIGHT = "esd.night"  # tag of the run that the runs of one night are under: the night's Prefect run
PREFECT = "esd.prefect"  # tag: page of the Prefect run
_NOTE = "mlflow.note.content"  # tag that MLflow shows as the run's description, in Markdown
PACKAGES = ("esd_core", "tasks", "infra", "flows")
_BATCH = 1000  # parameters and metrics that MLflow takes in one call


def base_name(base: str) -> str:
    """A base model in a name: a hub base keeps 7 digits of its commit, a folder a checksum of its path."""
    name, _, revision = base.partition("@")
    mark = "" if base == MINIATURE else f"-{revision[:7] if revision else digest.of_bytes(base.encode())[:7]}"
    return ("-".join(re.findall(r"[a-z0-9]+", name.rstrip("/").rpartition("/")[2].lower())) or "base") + mark


def experiment_of(client: MlflowClient, base: str) -> str:
    """The experiment that all runs of a base model are in, made when it is not there."""
    return tracking.experiment_id(client, f"{get_settings().mlflow_experiment}: {base_name(base)}")


def run_of(client: MlflowClient, job: ErasureJob, registered: Container[str] = ()) -> Run:
    """The job's run: what an interrupted attempt left, or a new one. registered: runs that are versions already."""
    experiment = experiment_of(client, job.base)
    found = client.search_runs([experiment], f"tags.`esd.job_digest` = '{job.digest}'")
    left = [run for run in found if run.info.run_id not in registered]
    if left:
        return left[0]
    tags = {"esd.job_digest": job.digest, "esd.base": job.base, "esd.concept": job.name}
    tags |= {"esd.code_version": code_version(), **_of_prefect(client, job.base)}
    return client.create_run(experiment, run_name=f"{job.slug} {job.digest[:8]}", tags=tags)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of this package, and the first digits of its sources' digest: where both are the same, the code is."""
    root = Path(__file__).parents[2]
    sources = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    try:
        installed = version("esd-pipeline")
    except PackageNotFoundError:
        installed = "not installed"
    return f"{installed}, sources {digest.of_files(root, sources)[:12]}"


def run_of_night(client: MlflowClient, base: str) -> str | None:
    """The MLflow run that the runs of this night lie under, made when it is not there; None outside of Prefect.

    Whoever comes first makes it; of two who do so at once, later ones take the older.
    """
    here = _prefect_run()
    return _run_of_night(client, experiment_of(client, base), here.night, here.night_url) if here else None


def _of_prefect(client: MlflowClient, base: str) -> dict[str, str]:
    """Tags that lead to the Prefect run that this is part of, and to the MLflow run of its night; none outside."""
    here, night = _prefect_run(), run_of_night(client, base)
    return {"mlflow.parentRunId": night, **_link(here.url)} if here and night else {}


class _PrefectRun(NamedTuple):
    night: str  # id of the run that is part of no other
    night_url: str
    url: str


def _prefect_run() -> _PrefectRun | None:
    """The flow run that this is part of, if any."""
    if "prefect.flows" not in sys.modules:
        return None
    from httpx import HTTPError
    from prefect.exceptions import PrefectException
    from prefect.runtime import flow_run

    from tasks.nights import concept_runs

    try:
        if not flow_run.id:
            return None
        night, url = concept_runs.night(), str(flow_run.ui_url or "")
    except (HTTPError, PrefectException) as e:  # a link is not worth a failed registration
        log.warning("no link to Prefect: %s", " ".join(str(e).split())[:200])
        return None
    return _PrefectRun(night, url.replace(str(flow_run.id), night), url)


@lru_cache(maxsize=4)
def _run_of_night(client: MlflowClient, experiment: str, night: str, url: str) -> str:
    query: dict[str, Any] = {"order_by": ["start_time ASC"], "max_results": 1}
    if not client.search_runs([experiment], f"tags.`{NIGHT}` = '{night}'", **query):
        made = client.create_run(experiment, run_name=f"night {night[:8]}", tags={NIGHT: night, **_link(url)})
        client.set_terminated(made.info.run_id)
    return str(client.search_runs([experiment], f"tags.`{NIGHT}` = '{night}'", **query)[0].info.run_id)


def _link(url: str) -> dict[str, str]:
    return {PREFECT: url, _NOTE: f"[Its run in Prefect]({url})"} if url else {}


def log_run(client: MlflowClient, run: Run, job: ErasureJob, outcome: ErasureOutcome, report: EvaluationReport) -> None:
    """Parameters, inputs, figures, what was seen of the machine, and the loss of every step.

    The fixed timestamp makes writing them twice change nothing.
    """
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
    metrics += system_metrics.metrics_of(outcome.history.parent)
    params = [Param(key, str(value)) for key, value in settings.items()]
    room = _BATCH - len(params)
    client.log_batch(run.info.run_id, params=params, metrics=metrics[:room])
    for first in range(room, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + _BATCH])
    tracking.insist(lambda: client.log_inputs(run.info.run_id, _inputs(job, report)))  # others log the same suite


def _inputs(job: ErasureJob, report: EvaluationReport) -> list[DatasetInput]:
    """What the job was taught and what it was measured with, each by its digest; MLflow takes 36 digits of it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    taught = [concept.model_dump(mode="json") for concept in job.concepts]
    measured = {"probes": len(report.erased) + len(report.others), "images_per_probe": report.images_per_probe}
    prompts = {"names": sum(len(c.names) for c in job.concepts), "retained": sum(len(c.retain) for c in job.concepts)}
    return [
        DatasetInput(
            Dataset(name, sha256[:36], "code", json.dumps({"tags": {"sha256": sha256}}), profile=json.dumps(profile)),
            [InputTag("mlflow.data.context", context)],
        )
        for name, sha256, profile, context in (
            ("concepts and retained prompts", digest.of_json(taught), prompts, "training"),
            ("prompts, seeds and judges", report.suite_digest, measured, "evaluation"),
        )
    ]


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
